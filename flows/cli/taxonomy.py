"""`clipdecoder taxonomy`: look at a taxonomy file."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.output import Json, print_json, print_lines

app = typer.Typer(no_args_is_help=True, help="Check a taxonomy file.")


@app.callback()
def group() -> None:
    """Check a taxonomy file."""


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="Taxonomy file (path or URL).")],
    model: Annotated[
        str | None, typer.Option(help="Also count every text's tokens against this model's context length.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report every rule that a taxonomy file breaks, with its line; exit 2 if there is one.

    Example: clipdecoder taxonomy check taxonomy.yaml --model bundled:scenes
    """
    from storage.taxonomies import load_taxonomy

    taxonomy = load_taxonomy(file)
    if model is not None:
        from clipdecoder.encoders.model import load_model

        load_model(model, device="cpu").check_texts(taxonomy)
    active = taxonomy.active_labels()
    texts = {text for label in active for text in taxonomy.texts_of(label)}
    result = {
        "name": taxonomy.name,
        "digest": taxonomy.digest,
        "labels": len(taxonomy.labels),
        "active": len(active),
        "texts": len(texts),
    }
    if as_json:
        print_json(result)
    else:
        print_lines(
            ["taxonomy {name}: {labels} labels, {active} active, {texts} texts, digest {digest}".format(**result)]
        )
