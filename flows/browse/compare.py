"""The page that shows two models or runs side by side: what differs most comes first."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from flows.browse.catalogs import Catalog
from flows.browse.comparisons import Comparison, compared_pair, said_by_both
from flows.browse.exports import panel
from flows.browse.filters import ComparisonFilter
from flows.browse.grid import describe
from flows.browse.rendering import page
from flows.browse.state import TheDesk
from storage.comparisons import Pair, chosen_sql

SIDE_BY_SIDE = 20  # pictures on a page that shows two of everything
_OFFERED = 5  # models, and runs, where nothing was chosen yet

router = APIRouter(default_response_class=HTMLResponse)


@router.get("/compare")
def show_comparison(desk: TheDesk, wanted: Annotated[ComparisonFilter, Query()]) -> HTMLResponse:
    """Show what two models or runs say of the same pictures, or that this is being found out."""
    catalog = desk.catalogs.get()
    pair = compared_pair(catalog, wanted)
    values: dict[str, Any] = {"source": wanted.source, "other": wanted.other, "wanted": wanted, "catalog": catalog}
    if pair.same:
        return page(desk, "compare", made=None, job=None, others=_others(catalog, pair), **values)
    made = desk.comparisons.get(catalog, wanted)
    if not isinstance(made, Comparison):
        return page(desk, "compare", made=None, job=made, **values)
    found = made.places[wanted.change]
    stop = wanted.start + SIDE_BY_SIDE
    places = found[wanted.start : stop]
    pictures = {picture.place: picture for picture in describe(catalog, places)}
    both = said_by_both(catalog, pair, places, wanted.label)
    rows = [(pictures[place], *sides) for place, sides in zip(places, both, strict=True) if place in pictures]
    return page(
        desk,
        "compare",
        made=made,
        job=None,
        rows=rows,
        next=f"/compare?{wanted.query(start=stop)}" if stop < len(found) else "",
        export=_export(desk, pair, made, wanted),
        **values,
    )


def _others(catalog: Catalog, pair: Pair) -> list[dict[str, Any]]:
    """Return what the left side may be compared with: other models, and the newest runs."""
    models = [each for each in catalog.sources["models"] if each["value"] != f"model:{pair.before.model_id}"]
    return [*models[:_OFFERED], *catalog.sources["runs"][:_OFFERED]]


def _export(desk: TheDesk, pair: Pair, made: Comparison, wanted: ComparisonFilter) -> dict[str, Any] | None:
    """Return what the page says about exporting the pictures whose tags differ, with the tags of the right side."""
    if not made.gained and not made.lost:
        return None
    source = f"model:{pair.after.model_id}"
    return {**panel(desk, chosen_sql(pair, wanted.change), source), "source": source}
