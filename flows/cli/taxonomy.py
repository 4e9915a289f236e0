"""`clipdecoder taxonomy`: look at a taxonomy file, and at what a change of it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import taxonomy_apply, taxonomy_status, taxonomy_withdraw
from flows.cli.changes import print_changes
from flows.cli.output import Json, Store, print_json, print_lines, store_url

if TYPE_CHECKING:
    from flows.taxonomies.cost import TaxonomyCost
    from schemas.taxonomy import Taxonomy
    from schemas.taxonomy_diff import TaxonomyDiff
    from storage.files import Folder

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Taxonomies: check, diff, apply, status, withdraw.")

_VERSION = "A taxonomy file, the digest of a version in the store, or applied (applied:NAME where there are several)."


@app.callback()
def group() -> None:
    """Check a taxonomy, see what a change costs, apply it, and ask what is in force."""


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


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help=_VERSION)],
    new: Annotated[str, typer.Argument(help=_VERSION)],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show what changed from one version of a taxonomy to another, label by label, and what scoring that would take.

    Costs are those of the new version in the store: what it has scores for already costs nothing. Nothing is written.

    Example: clipdecoder taxonomy diff applied taxonomy.yaml
    """
    from flows.taxonomies.summary import change_lines, change_rows, cost_lines
    from schemas.taxonomy_diff import diff_taxonomies
    from storage.files import Folder
    from storage.taxonomies import find_taxonomy

    folder = Folder(store_url(store))
    after = find_taxonomy(folder, new)
    changes = diff_taxonomies(find_taxonomy(folder, old), after)
    cost, unknown = _cost(folder, after)
    refused = _refused(folder, after, changes) if cost is not None else ()
    if as_json:
        known = {"cost": cost.model_dump(mode="json") if cost is not None else None, "cost_unknown": unknown}
        print_json({"diff": changes.model_dump(mode="json"), **known, "refused": refused})
        return
    print_lines(list(change_lines(changes)))
    print_changes(change_rows(changes, cost, refused))
    print_lines(list(cost_lines(changes, cost)) if cost is not None else [f"cost: unknown; {unknown}"])


def _cost(folder: Folder, taxonomy: Taxonomy) -> tuple[TaxonomyCost | None, str | None]:
    """Return what scoring the taxonomy would take, or why that is not known: there may be no store yet."""
    from flows.taxonomies.cost import cost_of
    from schemas.errors import StoreError
    from storage.catalog import check_store

    try:
        check_store(folder)
    except StoreError as error:
        return None, str(error)
    return cost_of(folder, taxonomy), None


def _refused(folder: Folder, taxonomy: Taxonomy, changes: TaxonomyDiff) -> tuple[str, ...]:
    """Return the removed labels that have scores, which `apply` refuses to lose the meaning of."""
    from flows.taxonomies.removals import removed_labels
    from storage.runs import read_runs

    removed = changes.labels("removed")
    scored = frozenset(removed_labels(folder, taxonomy, read_runs(folder)) if removed else ())
    return tuple(label_id for label_id in removed if label_id in scored)


for module in (taxonomy_apply, taxonomy_status, taxonomy_withdraw):
    module.register(app)
