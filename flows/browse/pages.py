"""The pages that have an address: the grid, one picture, thresholds, SQL."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import HTMLResponse

from flows.browse.attention import has_decoder
from flows.browse.catalogs import Catalog
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
from flows.browse.filters import PAGE, Filter, Place
from flows.browse.grid import Page, Picture, count_scored, describe, find_page
from flows.browse.rendering import answer_of, bars_of, filter_words, page, part
from flows.browse.state import Desk, TheDesk
from schemas.errors import ConfigError

_BARS = 50

router = APIRouter(default_response_class=HTMLResponse)

Asked = Annotated[Filter, Query()]
Source = Annotated[str, Query(max_length=300)]
Text = Annotated[str, Query(max_length=2000)]


@router.get("/")
def show_grid(desk: TheDesk, wanted: Asked) -> HTMLResponse:
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
def show_found(desk: TheDesk, name: Text, start: Annotated[int, Query(ge=0)] = 0) -> HTMLResponse:
    """Show what a query or a search found: a page of pictures, or a table."""
    found = desk.results.find(name)
    if found is None:
        raise ConfigError("answers are kept for a while only, and this one is gone; ask again")
    catalog = desk.catalogs.get(found.source)
    if not found.places:
        return page(desk, "sql", source=found.source, found=found, sql=found.sql, catalog=catalog)
    stop = start + PAGE
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
def show_picture(
    desk: TheDesk,
    dataset: Text,
    shard: Text,
    sample: Annotated[int, Query(ge=0, lt=2**31)],
    source: Source = "",
    label: Text = "",
    x_part: Annotated[str, Header()] = "",
) -> HTMLResponse:
    """Show one picture: all its scores, what was said of it."""
    catalog = desk.catalogs.get(source)
    pictures = describe(catalog, [(dataset, shard, sample)])
    if not pictures:
        raise ConfigError(f"the store has no sample {sample} in shard {shard!r} of dataset {dataset!r}")
    (picture,) = pictures
    (scores,) = scores_of(catalog, [picture.place], tags_only=False)
    answers = {**answers_of(catalog, pictures), **desk.answers.said()}
    values: dict[str, Any] = {
        "picture": picture,
        "scores": scores,
        "answered": {score.label_id: answer_of(answers, picture, score.label_id) for score in scores},
        "said": said_of(catalog, picture),
        "facts": facts_of(catalog, picture),
        "copies": copies_of(catalog, picture),
        "label": label,
        "source": source,
        "looks": has_decoder(desk.folder, catalog.shown["model_id"]),
    }
    if x_part:
        return part("picture_part", **values)
    return page(desk, "picture", **values)


@router.get("/labels")
def show_labels(desk: TheDesk, source: Source = "") -> HTMLResponse:
    """List the labels with their thresholds."""
    return page(desk, "labels", source=source, catalog=desk.catalogs.get(source))


@router.get("/label")
def show_label(desk: TheDesk, label: Text, source: Source = "") -> HTMLResponse:
    """Let a person try thresholds of a label."""
    catalog = desk.catalogs.get(source)
    chosen = catalog.label(label)
    histogram = histogram_of(catalog, chosen)
    return page(
        desk,
        "label",
        source=source,
        catalog=catalog,
        chosen=chosen,
        histogram=histogram,
        bars=bars_of(histogram.bins, _BARS),
        steps=BINS,
        edge=edge_of(catalog, chosen, chosen.threshold, source),
        at=chosen.threshold,
    )


@router.get("/edge")
def show_edge(desk: TheDesk, label: Text, at: Annotated[float, Query(ge=0, le=1)], source: Source = "") -> HTMLResponse:
    """Show the pictures nearest to a threshold."""
    catalog = desk.catalogs.get(source)
    chosen = catalog.label(label)
    return part("edge", chosen=chosen, edge=edge_of(catalog, chosen, at, source), at=at, source=source)


@router.get("/sql")
def show_sql(desk: TheDesk, source: Source = "", sql: Annotated[str, Query(max_length=20_000)] = "") -> HTMLResponse:
    """Let a person ask. The query in the address is shown, and not carried out."""
    return page(desk, "sql", source=source, sql=sql, found=None, catalog=desk.catalogs.get(source))


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
    return status != "ok" if wanted == "failed" else wanted in ("", status)
