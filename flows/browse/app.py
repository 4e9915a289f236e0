"""The web application: routes, what stands in front of them, and what an error looks like."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from flows.browse import actions, compare, media, pages
from flows.browse.catalogs import NotThereError
from flows.browse.filters import shortened
from flows.browse.redaction import without_places
from flows.browse.rendering import page
from flows.browse.security import Guard
from flows.browse.state import Desk
from schemas.errors import ClipdecoderError, ConfigError, ShardError


def create_app(desk: Desk) -> FastAPI:
    """Return the application for an open store; when it ends, answers that wait are written."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    # No pages about the interface: they load scripts from elsewhere.
    app = FastAPI(
        lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(_refuse_repeated)]
    )
    app.state.desk = desk
    for router in (pages.router, compare.router, media.router, actions.router):
        for route in router.routes:
            if isinstance(route, APIRoute) and route.methods == {"GET"}:
                route.methods = {"GET", "HEAD"}  # as HTTP has it; the server leaves the body out
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=str(files("flows.browse") / "static")))
    app.add_exception_handler(ClipdecoderError, _say(HTTPStatus.BAD_REQUEST))
    for absent in (NotThereError, ShardError):
        app.add_exception_handler(absent, _say(HTTPStatus.NOT_FOUND))
    app.add_exception_handler(RequestValidationError, _say(HTTPStatus.BAD_REQUEST))
    app.add_exception_handler(HTTPException, _say(HTTPStatus.NOT_FOUND))
    app.add_middleware(Guard, access=desk.access)
    return app


async def _refuse_repeated(request: Request) -> None:
    """Refuse an address that says two things of one parameter.

    Raises:
        ConfigError: naming it.
    """
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if times > 1:
            raise ConfigError(f"{shortened(name)} stands in the address {times} times; leave one of them")


def _say(status: HTTPStatus) -> Any:
    """Return what answers a request that went wrong: a page for a person, JSON for the page's script."""

    def answer(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else int(status)
        words = _words(error)
        if request.url.path.startswith(("/api/", "/edge")) or "x-part" in request.headers:
            return JSONResponse({"error": words}, status_code=code)
        return page(request.app.state.desk, "error", status=code, words=words)

    return answer


def _words(error: Exception) -> str:
    if isinstance(error, RequestValidationError):
        return _unread(error.errors()[0])
    if isinstance(error, HTTPException):
        return str(error.detail)
    return without_places(str(error))


def _unread(problem: dict[str, Any]) -> str:
    """Return what is wrong with the first thing that could not be read, and what to do."""
    where, *names = map(str, problem["loc"])
    said = problem["msg"].removeprefix("Value error, ")
    told = said[:1].lower() + said[1:]
    if problem["type"] == "missing":
        told = f"{'.'.join(names) or where} is missing"
    elif said == problem["msg"]:  # not a sentence of ours, which names all of it
        told = f"{'.'.join(names) or where} {shortened(problem['input'])}: {told}"
    return f"{told}; {'load the page again' if where == 'body' else 'correct the address, or begin at the first page'}"
