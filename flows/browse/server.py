"""Serving the page until Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import uvicorn

from flows.browse.app import create_app
from flows.browse.security import Access, check_access
from flows.browse.state import open_desk
from schemas.errors import ConfigError, RunError

_PATIENCE = 2  # seconds that requests have to end after Ctrl-C


def serve(store: str, host: str, port: int, token: str | None, started: Callable[[str], None]) -> None:
    """Serve a store's page until Ctrl-C or SIGTERM; answers that wait are written then.

    Args:
        store: URL.
        host: where to listen.
        port: 0 for a free one.
        token: what browsers must show; needed where other machines reach the host.
        started: told the address once the server listens.

    Raises:
        ConfigError: other machines would be let in without a token, or nothing can listen there.
        RequestError: there is no such store.
        RunError: answers could not be written at the end.
    """
    check_access(host, token)
    with _listening(host, port) as listener:
        access = Access(host, listener.getsockname()[1], token)
        desk = open_desk(store, access)
        config = uvicorn.Config(
            create_app(desk),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_PATIENCE,
            server_header=False,
        )
        started(address(access))
        # Uvicorn raises Ctrl-C anew, after everything was closed.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    if desk.answers.waiting:
        raise RunError(f"{desk.answers.waiting} answers could not be written: {desk.answers.trouble}")


def address(access: Access) -> str:
    """Return what to open."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(access.host, access.host)
    place = f"http://{f'[{name}]' if ':' in name else name}:{access.port}/"
    return f"{place}?token={quote(access.token)}" if access.token else place


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"cannot listen at {host} port {port}: {reason}; choose another --port or --host") from None
