"""Options that several commands share, and where their defaults come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

Shards = Annotated[list[str], typer.Argument(help="URLs, globs or {00000..00999} ranges of tar shards.")]
TaxonomyFile = Annotated[str, typer.Option("--taxonomy", help="Taxonomy file (path or URL).")]
Name = Annotated[str | None, typer.Option("--name", help="Dataset name.  [default: the shards' folder]")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images per forward pass.  [default: 32]")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:1.  [default: auto]")]
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
