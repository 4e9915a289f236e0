"""What the page's script asks for: tags, answers, queries, searches, exports. JSON in, JSON out, never a form."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from flows.browse.attention import draw_look
from flows.browse.catalogs import source_of
from flows.browse.details import TAGS, answers_of, scores_of
from flows.browse.filters import PAGE, Place, SourceQuery
from flows.browse.grid import described
from flows.browse.jobs import Job, Tell
from flows.browse.redaction import without_places
from flows.browse.results import Found, ask
from flows.browse.state import Desk, TheDesk
from schemas.errors import ConfigError

router = APIRouter(prefix="/api")

TOP = 300  # pictures that a search shows

Reply = dict[str, Any]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AskedPlace(_Asked):
    """A picture."""

    dataset: str = Field(max_length=2000)
    shard: str = Field(max_length=2000)
    sample: int = Field(ge=0, lt=2**31)

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.dataset, self.shard, self.sample


class AskedTags(_Asked):
    """Whose tags are wanted."""

    source: str = ""
    places: list[AskedPlace] = Field(max_length=PAGE)


class AskedAnswer(AskedPlace):
    """What a person says of a picture and a label."""

    label: str
    value: Literal[0, 1] | None


class AskedQuery(_Asked):
    """A query, and whose scores the views show."""

    sql: str = Field(max_length=100_000)
    source: str = ""


class AskedSearch(_Asked):
    """What to look for: a text, or what is like a picture of the store."""

    text: str = Field(default="", max_length=1000)
    like: AskedPlace | None = None
    source: str = ""


class AskedExport(_Asked):
    """What to export, and where to."""

    sql: str = Field(max_length=2_000_000)
    to: str = Field(min_length=1, max_length=1000)
    source: str = ""


class AskedLook(AskedPlace):
    """For which label to look on a picture."""

    label: str
    source: str = ""


@router.post("/tags")
def give_tags(desk: TheDesk, asked: AskedTags) -> Reply:
    """Return the first tags of some pictures."""
    found = scores_of(desk.catalogs.get(asked.source), [each.place for each in asked.places], tags_only=True)
    return {
        "tags": [
            [{"name": each.name, "id": each.label_id, "score": each.score, "seen": each.seen} for each in scores[:TAGS]]
            for scores in found
        ]
    }


@router.get("/counts")
def give_counts(desk: TheDesk, wanted: Annotated[SourceQuery, Query()]) -> Reply:
    """Return how many pictures have each label."""
    return {"counts": desk.catalogs.get(wanted.source).tag_counts}


@router.post("/answer")
def take_answer(desk: TheDesk, asked: AskedAnswer) -> Reply:
    """Take an answer."""
    catalog = desk.catalogs.get()
    catalog.label(asked.label)
    picture = described(catalog, asked.place)
    before = answers_of(catalog, [picture])
    subject = picture.place, asked.label
    desk.answers.give(picture.place, picture.key, asked.label, asked.value, (subject in before, before.get(subject)))
    return _state(desk)


@router.post("/undo")
def undo_answer(desk: TheDesk) -> Reply:
    """Take the last answer back."""
    undone = desk.answers.undo()
    if undone is None:
        return _state(desk)
    dataset, shard, sample = undone.place
    place = {"dataset": dataset, "shard": shard, "sample": sample}
    return _state(desk) | {"undone": place | {"label": undone.label_id, "value": undone.value, "held": undone.held}}


@router.post("/save")
def save_answers(desk: TheDesk) -> Reply:
    """Write the answers that wait."""
    return {"saved": desk.answers.write()} | _state(desk)


@router.get("/state")
def give_state(desk: TheDesk) -> Reply:
    """Return what waits."""
    return _state(desk)


@router.post("/refresh")
def look_again(desk: TheDesk) -> Reply:
    """See what was written to the store since it was opened."""
    desk.catalogs.refresh()
    desk.comparisons.forget()
    return {}


@router.post("/sql")
def run_sql(desk: TheDesk, asked: AskedQuery) -> Reply:
    """Carry out a query, read-only, and say where its answer is."""
    found = desk.results.keep(ask(desk.catalogs.get(asked.source), asked.sql))
    return {"to": f"/found?name={found.name}"}


@router.post("/search")
def search(desk: TheDesk, asked: AskedSearch) -> Reply:
    """Begin to look for what is nearest to a text or to a picture of the store."""
    if asked.like is not None:
        picture = described(desk.catalogs.get(), asked.like.place)
        words: dict[str, Any] = {"like": picture.key, "shard": picture.shard, "dataset": picture.dataset}
        title = f"like {picture.key}"
    elif asked.text.strip():
        words, title = {"texts": (asked.text.strip(),)}, asked.text.strip()
    else:
        raise ConfigError("say what to look for")
    return _started(desk.jobs.start(lambda tell: _search(desk, asked.source, title, words, tell)))


@router.post("/search-picture")
def search_picture(desk: TheDesk, data: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Reply:
    """Begin to look for what is nearest to a picture that a person gives."""

    def work(tell: Tell) -> Reply:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "picture")
            path.write_bytes(data)
            return _search(desk, "", "like a picture of yours", {"like_file": str(path)}, tell)

    return _started(desk.jobs.start(work))


@router.post("/export")
def export(desk: TheDesk, asked: AskedExport) -> Reply:
    """Begin to export what a query chooses. For this machine only: it writes wherever its user may."""
    if not desk.access.local:
        raise ConfigError("a server that others reach writes no files; run the command that the page shows")
    from flows.export import format_of, run_export
    from schemas.config import make_request
    from schemas.export import ExportRequest

    kind, name = source_of(asked.source)
    request = make_request(
        ExportRequest,
        store=desk.folder.url,
        sql=asked.sql,
        to=asked.to,
        format=format_of(asked.to),
        **({kind: name} if kind else {}),
    )

    def work(tell: Tell) -> Reply:
        tell("choosing samples")
        summary = run_export(request, lambda done, total: tell(f"{done} of {total} source shards"))
        return {"lines": summary.lines(), "ok": summary.ok}

    return _started(desk.jobs.start(work))


@router.post("/look")
def look(desk: TheDesk, asked: AskedLook) -> Reply:
    """Begin to draw where a label looked on a picture."""
    catalog = desk.catalogs.get(asked.source)
    where = catalog.shard(asked.dataset, asked.shard)

    def work(tell: Tell) -> Reply:
        expected = partial(catalog.expected, asked.dataset, asked.shard, asked.sample)
        data = desk.thumbnails.read(where, asked.sample, expected)
        drawing = draw_look(desk.folder, catalog, asked.dataset, asked.label, data, tell)
        name = f"{where.digest}-{asked.sample}-{asked.label}-{catalog.shown['model_id']}"
        desk.drawings.keep(name, drawing)
        return {"image": f"/drawing/{name}"}

    return _started(desk.jobs.start(work))


@router.get("/jobs/{name}")
def give_job(desk: TheDesk, name: str) -> Reply:
    """Return how far some work is."""
    job = desk.jobs.find(name)
    if job is None:
        raise HTTPException(404, "there is no such work; the server may have been started anew")
    return _started(job)


def _search(desk: Desk, source: str, title: str, words: dict[str, Any], tell: Tell) -> Reply:
    from flows.search import run_search
    from schemas.config import make_request
    from schemas.search import SearchRequest

    model = desk.catalogs.get(source).shown["model_id"] or None
    first = "comparing embeddings" if "like" in words else "loading the model, and comparing embeddings"
    tell(first)
    result = run_search(make_request(SearchRequest, store=desk.folder.url, model=model, top=TOP, **words))
    found = Found(
        title=f"search: {title}",
        source=source,
        places=[(hit.dataset, hit.shard, hit.sample) for hit in result.hits],
        notes=[f"cosine {hit.cosine:.3f}" for hit in result.hits],
        remarks=result.notes(),
    )
    return {"to": f"/found?name={desk.results.keep(found).name}"}


def _state(desk: Desk) -> Reply:
    answers = desk.answers
    return {"waiting": answers.waiting, "can_undo": answers.can_undo, "trouble": without_places(answers.trouble)}


def _started(job: Job) -> Reply:
    return {"job": job.name, "state": job.state, "says": job.says, "result": job.result}
