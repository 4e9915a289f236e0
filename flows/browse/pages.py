"""The pages that have an address: the grid, one picture, thresholds, SQL."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query
from fastapi.responses import HTMLResponse

from flows.browse.attention import has_decoder
from flows.browse.catalogs import Catalog, NotThereError
from flows.browse.details import (
    BINS,
    answers_of,
    copies_of,
    edge_of,
    facts_of,
    histogram_of,
    said_of,
    scores_of,
)
from flows.browse.exports import export_sql, found_sql, panel
from flows.browse.filters import (
    FAILED,
    PAGE,
    EdgeQuery,
    Filter,
    FoundQuery,
    LabelQuery,
    PictureQuery,
    Place,
    SourceQuery,
    SqlQuery,
)
from flows.browse.grid import Page, Picture, count_scored, describe, described, find_page
from flows.browse.rendering import answer_of, bars_of, filter_words, page, part
from flows.browse.state import Desk, TheDesk

_BARS = 50

router = APIRouter(default_response_class=HTMLResponse)

AskedT = TypeVar("AskedT")
Asked = Annotated[AskedT, Query()]


@router.get("/")
def show_grid(desk: TheDesk, wanted: Asked[Filter]) -> HTMLResponse:
    """Show a page of pictures."""
    catalog = desk.catalogs.get(wanted.source)
    found = find_page(catalog, wanted)
    names = {label.label_id: label.name for label in catalog.labels.values()}
    return page(
        desk,
        "grid",
        source=wanted.source,
        wanted=wanted,
        catalog=catalog,
        found=found,
        next=f"/?{wanted.query(after=found.after)}" if found.after else "",
        total=_total(catalog, wanted, found),
        asked=filter_words(wanted, names),
        answers=_answers(desk, catalog, found.pictures, wanted.label),
        export=panel(desk, export_sql(catalog, wanted), wanted.source),
    )


@router.get("/found")
def show_found(desk: TheDesk, wanted: Asked[FoundQuery]) -> HTMLResponse:
    """Show what a query or a search found: a page of pictures, or a table."""
    found = desk.results.find(wanted.name)
    if found is None:
        raise NotThereError("answers are kept for a while only, and this one is gone; ask again")
    catalog = desk.catalogs.get(found.source)
    if not found.places:
        return page(desk, "sql", source=found.source, found=found, sql=found.sql, catalog=catalog)
    start, stop = wanted.start, wanted.start + PAGE
    pictures = describe(catalog, found.places[start:stop], notes=found.notes[start:stop] or None)
    return page(
        desk,
        "found",
        source=found.source,
        found=found,
        catalog=catalog,
        pictures=pictures,
        start=start,
        next=f"/found?name={found.name}&start={stop}" if stop < len(found.places) else "",
        export=panel(desk, found_sql(found), found.source),
    )


@router.get("/picture")
def show_picture(desk: TheDesk, wanted: Asked[PictureQuery], x_part: Annotated[str, Header()] = "") -> HTMLResponse:
    """Show one picture: all its scores, what was said of it."""
    catalog = desk.catalogs.get(wanted.source)
    if wanted.label:
        catalog.label(wanted.label)
    (picture,) = pictures = [described(catalog, wanted.place)]
    (scores,) = scores_of(catalog, [picture.place], tags_only=False)
    answers = {**answers_of(catalog, pictures), **desk.answers.said()}
    values: dict[str, Any] = {
        "picture": picture,
        "scores": scores,
        "answered": {score.label_id: answer_of(answers, picture, score.label_id) for score in scores},
        "said": said_of(catalog, picture),
        "facts": facts_of(catalog, picture),
        "copies": copies_of(catalog, picture),
        "label": wanted.label,
        "source": wanted.source,
        "looks": has_decoder(desk.folder, catalog.shown["model_id"]),
    }
    if x_part:
        return part("picture_part", **values)
    return page(desk, "picture", **values)


@router.get("/labels")
def show_labels(desk: TheDesk, wanted: Asked[SourceQuery]) -> HTMLResponse:
    """List the labels with their thresholds."""
    return page(desk, "labels", source=wanted.source, catalog=desk.catalogs.get(wanted.source))


@router.get("/label")
def show_label(desk: TheDesk, wanted: Asked[LabelQuery]) -> HTMLResponse:
    """Let a person try thresholds of a label."""
    catalog = desk.catalogs.get(wanted.source)
    chosen = catalog.label(wanted.label)
    histogram = histogram_of(catalog, chosen)
    return page(
        desk,
        "label",
        source=wanted.source,
        catalog=catalog,
        chosen=chosen,
        histogram=histogram,
        bars=bars_of(histogram.bins, _BARS),
        steps=BINS,
        edge=edge_of(catalog, chosen, chosen.threshold, wanted.source),
        at=chosen.threshold,
    )


@router.get("/edge")
def show_edge(desk: TheDesk, wanted: Asked[EdgeQuery]) -> HTMLResponse:
    """Show the pictures nearest to a threshold."""
    catalog = desk.catalogs.get(wanted.source)
    chosen = catalog.label(wanted.label)
    edge = edge_of(catalog, chosen, wanted.at, wanted.source)
    return part("edge", chosen=chosen, edge=edge, at=wanted.at, source=wanted.source)


@router.get("/sql")
def show_sql(desk: TheDesk, wanted: Asked[SqlQuery]) -> HTMLResponse:
    """Let a person ask. The query in the address is shown, and not carried out."""
    catalog = desk.catalogs.get(wanted.source)
    return page(desk, "sql", source=wanted.source, sql=wanted.sql, found=None, catalog=catalog)


def _answers(desk: Desk, catalog: Catalog, pictures: list[Picture], label: str) -> dict[Place, str]:
    """Return what was answered about the label of a page, by picture."""
    if not label:
        return {}
    answers = {**answers_of(catalog, pictures), **desk.answers.said()}
    return {picture.place: answer_of(answers, picture, label) for picture in pictures}


def _total(catalog: Catalog, wanted: Filter, found: Page) -> int | None:
    """Return how many pictures there are on all pages, where that is quickly known."""
    if not found.after and not wanted.after:
        return len(found.pictures)
    if wanted.label:
        return count_scored(catalog, wanted)
    if wanted.key or wanted.copies or wanted.knowledge or wanted.low is not None or wanted.high is not None:
        return None
    rows = [row for row in catalog.statuses if wanted.dataset in ("", row["dataset"])]
    return sum(int(row["samples"]) for row in rows if _fits(row["status"], wanted.status))


def _fits(status: str, wanted: str) -> bool:
    return status != "ok" if wanted == FAILED else wanted in ("", status)
