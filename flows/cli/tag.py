"""`clipdecoder tag`: score shards, resumably."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.cli.options import BatchSize, DecodeName, Device, Name, PrecisionName, Shards, TaxonomyFile, with_settings
from flows.cli.orchestration import run_flow
from flows.cli.output import Json, Store, print_json, print_lines, print_summary, say, stderr, stoppable

if TYPE_CHECKING:
    from flows.tagging.summary import TagSummary
    from schemas.config import Settings, TagRequest


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tag)


def tag(
    shards: Shards,
    taxonomy: TaxonomyFile,
    model: Annotated[
        str | None,
        typer.Option(
            help="bundled:scenes, open_clip:NAME/TAG_OR_FILE, a model id, or current.  "
            "[default: the promoted model, else bundled:scenes]"
        ),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="clip (cosine of image and text, no training), decoder (the trained head) or fused (all that the "
            "model has).  [default: fused where the model is trained, else clip]"
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="clip: also look at the patch that fits best; finds small objects.")
    ] = False,
    name: Name = None,
    labels: Annotated[
        str,
        typer.Option(
            help="all; new (not yet scored on this dataset's tagged shards, by --scorer or --local where one is "
            "given); or ids: dog,cat."
        ),
    ] = "all",
    floor: Annotated[float | None, typer.Option(help="Lowest score that is always stored.  [default: 0.01]")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Labels kept per image whatever their score.  [default: 20]")
    ] = None,
    batch_size: BatchSize = None,
    device: Device = None,
    decode: DecodeName = None,
    precision: PrecisionName = None,
    max_bad: Annotated[
        float | None, typer.Option(help="Share of failed images above which the run ends early, e.g. 0.05.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Visit again what failed, and only that.")
    ] = False,
    store_tokens: Annotated[
        bool,
        typer.Option(
            "--store-tokens",
            help="Keep patch tokens too (KBs per image, --dry-run says how many), so that decoder and --local can "
            "score later vocabularies without the images.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure a sample and estimate; write nothing.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Score every image of the shards for every label of the taxonomy.

    The same command resumes after an interruption and picks up new or changed shards; what is done is not done again.
    Images that fail are rows with a reason (`failures` in SQL) and do not fail the run; shards that fail do.

    Example: clipdecoder tag "s3://bucket/{00000..00999}.tar" --taxonomy taxonomy.yaml --store s3://bucket/store
    """
    from schemas.config import TagRequest, load_settings, tag_request

    settings = load_settings()
    given = {
        "floor": floor,
        "top_k": top_k,
        "batch_size": batch_size,
        "device": device,
        "decode": decode,
        "precision": precision,
        "max_bad": max_bad,
        "store": store,
        "model": model,
    }
    request = tag_request(
        shards=tuple(shards),
        taxonomy=taxonomy,
        scorer=scorer,
        local=local,
        store_tokens=store_tokens,
        name=name,
        labels=labels,
        retry_failed=retry_failed,
        **with_settings(TagRequest, given),
    )
    if dry_run:
        _estimate(request, as_json)
        return
    with stoppable():
        summary = run(request, settings)
    print_summary(summary, as_json=as_json)


def run(request: TagRequest, settings: Settings) -> TagSummary:
    """Carry out a request, through Prefect unless the settings say otherwise, with a progress bar on a terminal.

    Where nothing is left to do and there is no server to be told, Prefect is left out: to start it takes ten seconds.

    Raises:
        RequestError: found before any work, and before Prefect is started.
    """
    from flows.environment import has_server
    from flows.tagging.plan import plan_tag
    from flows.tagging.progress import progress_bar, watcher
    from flows.tagging.run import run_tag_here
    from flows.tagging.summary import summarise

    plan = plan_tag(request)
    if plan.model.name.partition("+")[0] == "bundled:scenes" and plan.model.checkpoint is None:
        say("bundled:scenes knows coloured shapes only; for photographs: --model open_clip:ViT-B-32/laion2b_s34b_b79k")
    with progress_bar(stderr()):
        if not settings.orchestrate or (plan.done and not has_server()):
            started = time.perf_counter()
            return summarise(run_tag_here(plan, watcher.get()), time.perf_counter() - started)
        from flows.handover import handed_over
        from flows.tag import tag as tag_flow

        with handed_over(plan):
            return cast("TagSummary", run_flow(tag_flow, request))


def _estimate(request: TagRequest, as_json: bool) -> None:
    from flows.tagging.estimate import estimate_tag
    from flows.tagging.plan import plan_tag

    estimate = estimate_tag(plan_tag(request))
    if as_json:
        print_json(estimate)
    else:
        print_lines(estimate.lines())
