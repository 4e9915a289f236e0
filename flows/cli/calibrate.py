"""`clipdecoder calibrate`: make a model's scores probabilities on images like yours."""

from __future__ import annotations

import typer

from flows.cli.options import (
    BatchSize,
    Device,
    Missing,
    ModelName,
    Name,
    Shards,
    TargetPrecision,
    TaxonomyFile,
    with_settings,
)
from flows.cli.output import Json, Store, print_json, print_lines, stderr


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    shards: Shards,
    taxonomy: TaxonomyFile,
    model: ModelName = None,
    missing: Missing = None,
    target_precision: TargetPrecision = None,
    name: Name = None,
    batch_size: BatchSize = None,
    device: Device = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Fit scores and thresholds of a model to annotated shards, and keep it as a new model with the same weights.

    Labels with annotations get a map and a threshold of their own, all others a common one. A zero-shot model becomes a
    calibrated one: a few hundred annotated pictures make its scores probabilities.

    Example: clipdecoder calibrate "annotated/*.tar" --taxonomy taxonomy.yaml --model open_clip:ViT-B-32/openai
    """
    from flows.calibrate import run_calibration
    from flows.evaluation.judging import plan_judging
    from flows.training.progress import stage_bar
    from schemas.config import CalibrateRequest, make_request

    given = {
        "shards": tuple(shards),
        "taxonomy": taxonomy,
        "model": model,
        "missing": missing,
        "target_precision": target_precision,
        "name": name,
        "batch_size": batch_size,
        "device": device,
        "store": store,
    }
    request = make_request(CalibrateRequest, **with_settings(CalibrateRequest, given))
    with stage_bar(stderr()) as watch:
        summary = run_calibration(plan_judging(request), watch)
    if as_json:
        print_json(summary)
    else:
        print_lines(summary.lines())
