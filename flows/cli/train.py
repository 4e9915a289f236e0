"""`clipdecoder train`: from annotated shards to a checkpoint."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.cli.options import (
    BatchSize,
    DecodeName,
    Device,
    Name,
    PrecisionName,
    Shards,
    TargetPrecision,
    TaxonomyFile,
    with_settings,
)
from flows.cli.output import Json, Store, print_json, print_lines, say, stderr


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    shards: Shards,
    taxonomy: TaxonomyFile,
    base: Annotated[
        str,
        typer.Option(
            help="Image backbone: bundled:scenes, open_clip:NAME/TAG_OR_FILE, timm:NAME or timm:NAME/FILE.safetensors."
        ),
    ],
    text: Annotated[
        str | None,
        typer.Option(
            help="Text encoder: open_clip:NAME/TAG_OR_FILE, or table:FILE of embeddings.  [default: the base's]"
        ),
    ] = None,
    novel: Annotated[
        str | None, typer.Option(help="File of label ids to hold out, one a line: no annotation of them is used.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Recipe: a TOML file of training settings (see docs/training.md).")
    ] = None,
    finetune: Annotated[
        str | None, typer.Option(help="Train the backbone too: none, all, or a number of last blocks.  [default: none]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many.  [default: 8]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn.  [default: 0]")] = None,
    held_out_share: Annotated[
        float, typer.Option(help="Share of the images never to learn from, so that models can be compared on them.")
    ] = 0,
    target_precision: TargetPrecision = None,
    name: Name = None,
    batch_size: BatchSize = None,
    device: Device = None,
    decode: DecodeName = None,
    precision: PrecisionName = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Train a CLIP-Decoder on shards whose samples have labels in their .json side files, calibrate it, keep it.

    Answers that the store has (`annotations import`, `review import`) count as side files do; the newest wins.
    Labels named in --novel are held out: nothing of them is used, so that `evaluate --novel` says what the model makes
    of labels it never saw. A training that was stopped goes on when the same command is given again. Several
    processes: torchrun --nproc-per-node 8 -m flows.cli train ...

    Example: clipdecoder train "train/*.tar" --taxonomy taxonomy.yaml --base open_clip:ViT-B-16/openai --novel novel.txt
    """
    from clipdecoder.training.distributed import init_from_environment, is_main, shutdown
    from flows.train import run_train
    from flows.training.plan import plan_train, read_recipe
    from flows.training.progress import training_bar
    from schemas.config import TrainRequest, make_request

    recipe = read_recipe(config, {"finetune": _finetune(finetune), "epochs": epochs, "seed": seed})
    given = {
        "shards": tuple(shards),
        "taxonomy": taxonomy,
        "base": base,
        "text": text,
        "novel": novel,
        "name": name,
        "recipe": recipe,
        "held_out_share": held_out_share,
        "target_precision": target_precision,
        "batch_size": batch_size,
        "device": device,
        "decode": decode,
        "precision": precision,
        "store": store,
    }
    request = make_request(TrainRequest, **with_settings(TrainRequest, given))
    init_from_environment(request.device)
    try:
        with training_bar(stderr() if is_main() else None) as watch:
            summary = run_train(plan_train(request), watch)
    except KeyboardInterrupt:
        say("stopped; the last whole epoch is kept, and the same command goes on from there")
        raise typer.Exit(130) from None
    finally:
        shutdown()
    if summary is None:
        return
    if as_json:
        print_json(summary)
    else:
        print_lines(summary.lines())


def _finetune(value: str | None) -> Any:
    """Return a number of blocks as a number."""
    return int(value) if value is not None and value.isdecimal() else value
