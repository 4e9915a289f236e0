"""Options that several commands share, and where their defaults come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

Shards = Annotated[list[str], typer.Argument(help="URLs, globs or {00000..00999} ranges of tar shards.")]
TaxonomyFile = Annotated[str, typer.Option("--taxonomy", help="Taxonomy file (path or URL).")]
Name = Annotated[str | None, typer.Option("--name", help="Dataset name.  [default: the shards' folder]")]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="INTEGER",
        help="Images at once; auto or 0: what is fastest on the device.  [default: auto]",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:1, or several: cuda:0,cuda:1; tag takes all GPUs there are.  [default: auto]",
    ),
]
DecodeName = Annotated[
    str | None,
    typer.Option(
        "--decode",
        help="exact (at most 1/255 from the model's own transform) or fast (large JPEGs in 0.6 to 0.8 of the time, "
        "up to 4/255 off in photographs, more on hard edges). They are two encoders: their embeddings do not mix.  "
        "[default: as the model decodes, else exact]",
    ),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="auto, float32, bfloat16 or float16, of the backbone on a GPU. Each is an encoder of its own: their "
        "embeddings do not mix.  [default: auto, what is fast on the device; a stored model keeps its own]",
    ),
]
Missing = Annotated[
    str | None,
    typer.Option(
        "--missing",
        help="What it means that a side file does not name a label: negative, or unknown.  [default: as in training]",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="A model id, bundled:NAME, open_clip:..., or current.  [default: the promoted one]"),
]
TargetPrecision = Annotated[
    float | None,
    typer.Option("--target-precision", help="Choose thresholds that reach it.  [default: those of best F1]"),
]


def with_settings(kind: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options given; those that were left out are as the settings have them, where these know them."""
    from schemas.config import Settings, load_settings

    settings = load_settings()
    shared = kind.model_fields.keys() & Settings.model_fields.keys()
    return given | {name: getattr(settings, name) for name in shared if given.get(name) is None}
