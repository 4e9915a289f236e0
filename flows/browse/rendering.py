"""HTML of the pages. Names and keys are other people's text: escaped, and without what reorders or hides it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from flows.browse.filters import Filter, Place
from flows.browse.grid import Picture
from flows.browse.security import CSRF_HEADER
from flows.browse.state import Desk
from storage.terminal import visible

WORDS = {1: "yes", 0: "no", None: "unsure"}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flows.browse"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["visible"] = lambda text: visible(str(text))
    environment.filters["number"] = lambda number: f"{number:,}"
    environment.filters["score"] = score_text
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.globals.update(
        thumb_url=thumb_url, picture_url=picture_url, place_json=place_json, with_source=with_source, WORDS=WORDS
    )
    return environment


def page(desk: Desk, template: str, *, source: str = "", status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    Args:
        desk: what it is about.
        template: its name, without suffix.
        source: the model or run that is looked at.
        status: of the response.
        values: what else the template shows.
    """
    html = (
        _environment()
        .get_template(f"{template}.html")
        .render(
            desk=desk,
            source=source,
            csrf=desk.access.csrf,
            csrf_header=CSRF_HEADER,
            sources=desk.catalogs.get().sources,
            **values,
        )
    )
    return HTMLResponse(html, status_code=status)


def part(template: str, **values: Any) -> HTMLResponse:
    """Return a piece of a page, which its script puts in place."""
    return HTMLResponse(_environment().get_template(f"{template}.html").render(**values))


def score_text(score: float) -> str:
    """Return a score with as many digits as tell scores apart near 0 and 1."""
    return f"{score:.2f}" if 0.01 <= score <= 0.99 else f"{score:.3f}"


def thumb_url(picture: Picture, *, large: bool = False) -> str:
    """Return where the page finds a small picture."""
    return f"/{'image' if large else 'thumb'}?{_place_query(picture.place)}"


def picture_url(picture: Picture, source: str = "", label: str = "") -> str:
    """Return the address of everything about a picture."""
    chosen = {"source": source, "label": label}
    return f"/picture?{_place_query(picture.place)}&{urlencode({n: v for n, v in chosen.items() if v})}".rstrip("&")


def _place_query(place: Place) -> str:
    return urlencode({"dataset": place[0], "shard": place[1], "sample": place[2]}, errors="surrogatepass")


def place_json(picture: Picture) -> str:
    """Return what the page's script calls a picture."""
    return json.dumps(picture.place)


def with_source(path: str, source: str, **values: str) -> str:
    """Return an address that keeps to the same model or run."""
    chosen = {"source": source, **values}
    query = urlencode({name: value for name, value in chosen.items() if value})
    return f"{path}?{query}" if query else path


def bars_of(bins: Sequence[int], count: int) -> list[dict[str, float]]:
    """Return a histogram as bars, one for several bins: where each begins, and how high it is, both from 0 to 1.

    Heights are logarithmic: most labels have a thousand pictures without them for each one with them.
    """
    wide = (len(bins) - 1) // count
    sums = [sum(bins[start : start + wide]) for start in range(0, count * wide, wide)]
    sums[-1] += bins[-1]
    most = math.log1p(max(sums)) or 1.0
    return [
        {"start": number / count, "height": math.log1p(pictures) / most, "pictures": pictures}
        for number, pictures in enumerate(sums)
    ]


def answer_of(answers: dict[tuple[Place, str], int | None], picture: Picture, label: str) -> str:
    """Return what was answered about a picture and a label, as a word; empty, if nothing was."""
    subject = picture.place, label
    return WORDS[answers[subject]] if subject in answers else ""


def filter_words(wanted: Filter, names: dict[str, str]) -> list[str]:
    """Return what a filter asks for, in words."""
    words = [names.get(wanted.label, wanted.label)] if wanted.label else []
    if wanted.low is not None or wanted.high is not None:
        words.append(f"score {wanted.low or 0:g} to {1 if wanted.high is None else wanted.high:g}")
    knowledge = {"seen": "labels trained on", "novel": "novel labels"}.get(wanted.knowledge, "")
    words += [value for value in (wanted.status, wanted.dataset, "" if wanted.label else knowledge) if value]
    words += ["without copies"] if wanted.copies else []
    return words + ([f"key with {wanted.key!r}"] if wanted.key else [])
