"""Pictures: small, large, and where labels looked. What cannot be shown is a drawing that says why."""

from __future__ import annotations

import textwrap
from functools import partial
from html import escape
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from flows.browse.filters import PlaceQuery
from flows.browse.pictures import LARGE, SMALL
from flows.browse.redaction import without_places
from flows.browse.state import Desk, TheDesk
from schemas.errors import SampleError, ShardError
from storage.terminal import visible

router = APIRouter()

_KEPT = {"cache-control": "private, max-age=3600"}
_LINES = 7

Asked = Annotated[PlaceQuery, Query()]


@router.get("/thumb")
def send_thumb(desk: TheDesk, wanted: Asked) -> Response:
    """Send a small picture."""
    return _picture(desk, wanted, SMALL)


@router.get("/image")
def send_image(desk: TheDesk, wanted: Asked) -> Response:
    """Send a picture as large as a screen."""
    return _picture(desk, wanted, LARGE)


@router.get("/drawing/{name}")
def send_drawing(desk: TheDesk, name: str) -> Response:
    """Send a picture that was drawn for the page."""
    data = desk.drawings.find(name)
    if data is None:
        return placeholder("this drawing is gone; ask for it again")
    return Response(data, media_type="image/webp", headers=_KEPT)


def _picture(desk: Desk, wanted: PlaceQuery, side: int) -> Response:
    try:
        catalog = desk.catalogs.get()
        where = catalog.shard(wanted.dataset, wanted.shard)
        data = desk.thumbnails.get(where, wanted.sample, side, partial(catalog.expected, *wanted.place))
        return Response(data, media_type="image/webp", headers=_KEPT)
    except (ShardError, SampleError) as error:
        return placeholder(str(error))


def placeholder(reason: str) -> Response:
    """Return a drawing that says why there is no picture, as what is not found."""
    words = visible(without_places(reason))
    lines = textwrap.wrap(words, 30, max_lines=_LINES, placeholder=" …")
    texts = "".join(
        f'<text x="160" y="{170 - 11 * len(lines) + 24 * number}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    drawing = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 320" width="320" height="320">'
        f'<title>{escape(words)}</title><rect width="320" height="320" fill="#8883"/>'
        f'<g font-family="system-ui, sans-serif" font-size="16" text-anchor="middle" fill="#888">{texts}</g></svg>'
    )
    return Response(drawing, status_code=HTTPStatus.NOT_FOUND, media_type="image/svg+xml")
