"""Who may ask the page's server, and what a browser may do with its answers. Pure ASGI; knows nothing of stores.

A page on the internet can make the reader's browser send requests to 127.0.0.1. So a request needs the right Host (a
name that an attacker points at 127.0.0.1 is another one), must come from the server's own pages (Origin and
Sec-Fetch-Site), and one that changes something must bear a word that only those pages know.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import ConfigError

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
MIN_TOKEN = 16  # characters
MAX_BODY_BYTES = 40 * 2**20  # a picture to search by
CSRF_HEADER = "x-clipdecoder"
_ANY = frozenset(("0.0.0.0", "::", ""))
_READING = frozenset(("GET", "HEAD"))
_COOKIE = "clipdecoder"

_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
}


@dataclass(frozen=True)
class Access:
    """Who is let in.

    Args:
        host: what the server listens at.
        port: its port; cookies of two servers of one host must not meet.
        token: what a browser must show once, if anything.
    """

    host: str
    port: int
    token: str | None
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def local(self) -> bool:
        """Whether no other machine can reach the server."""
        return is_loopback(self.host)

    @property
    def cookie(self) -> str:
        """Name of the cookie that stands for the token."""
        return f"{_COOKIE}-{self.port}"

    @property
    def pass_word(self) -> str:
        """What the cookie holds: it proves the token, and is not the token."""
        return hmac.new((self.token or "").encode(), b"browse", hashlib.sha256).hexdigest()

    def knows_host(self, host: str) -> bool:
        """Whether a request is meant for this server. One that listens everywhere has any name: there is the token."""
        name = _host_name(host)
        return name is not None and (name in LOOPBACK or name == self.host.lower() or self.host in _ANY)


def check_access(host: str, token: str | None) -> None:
    """Refuse to be reachable by others without a token.

    Raises:
        ConfigError: the host is not this machine alone, and there is no token; or it can be guessed.
    """
    if token is not None and len(token) < MIN_TOKEN:
        raise ConfigError(f"--token has {len(token)} characters; give at least {MIN_TOKEN}: {_suggested()}")
    if token is None and not is_loopback(host):
        raise ConfigError(f"--host {host} lets other machines in, so it needs a --token; for example {_suggested()}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _suggested() -> str:
    return f"--token {secrets.token_urlsafe(24)}"


def _host_name(host: str) -> str | None:
    """Return the name in a Host header, in lower case, without brackets and port; None where it is no such header."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.username is None and (parts.port is None or parts.port) else None
    except ValueError:
        return None


class Guard:
    """Middleware: refuses what does not come from the server's own pages, and adds the headers that keep these safe."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let the application answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(HTTPConnection(scope), scope["method"])

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await (refusal or self.app)(scope, receive, send_safely)

    def _refusal(self, request: HTTPConnection, method: str) -> Response | None:
        headers = request.headers
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.access.knows_host(hosts[0]):
            return _refused(HTTPStatus.MISDIRECTED_REQUEST, "this server is not called that; open the address it shows")
        if not _own_page(headers, method):
            return _refused(HTTPStatus.FORBIDDEN, "requests from other pages are refused")
        if self.access.token is not None and (not self._has_token(request) or "token=" in request.url.query):
            return self._admission(request, method)
        if method not in _READING:
            return self._check_change(headers)
        return None

    def _has_token(self, request: HTTPConnection) -> bool:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        return _equal(request.cookies.get(self.access.cookie, ""), self.access.pass_word) or _equal(
            bearer, self.access.token or ""
        )

    def _admission(self, request: HTTPConnection, method: str) -> Response:
        """Return the cookie for the token in the address, which then leaves the address; else a refusal."""
        given = parse_qs(request.url.query).get("token", [""])[0]
        if method != "GET" or request.url.path != "/" or not _equal(given, self.access.token or ""):
            return _refused(
                HTTPStatus.UNAUTHORIZED, "open the address with ?token=... that the server was started with"
            )
        response = RedirectResponse("/", status_code=HTTPStatus.SEE_OTHER)
        response.set_cookie(self.access.cookie, self.access.pass_word, httponly=True, samesite="strict", path="/")
        return response

    def _check_change(self, headers: Headers) -> Response | None:
        if not _equal(headers.get(CSRF_HEADER, ""), self.access.csrf):
            return _refused(HTTPStatus.FORBIDDEN, "this page is of an earlier start of the server; load it again")
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return _refused(HTTPStatus.LENGTH_REQUIRED, "say how long the request is")
        if int(length) > MAX_BODY_BYTES:
            return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY_BYTES} bytes")
        return None


def _own_page(headers: Headers, method: str) -> bool:
    """Whether a browser, if it is one, says that a page of this server asks, or the person in its address bar.

    Browsers that are too old to say so still name the Origin of what changes something.
    """
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin"):
        # A link elsewhere may lead here. What is shown then cannot be read from there, and changes nothing.
        opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return opened and method in _READING
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _equal(given: str, expected: str) -> bool:
    """Compare in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _refused(status: HTTPStatus, reason: str) -> Response:
    return PlainTextResponse(f"refused: {reason}\n", status_code=status)
