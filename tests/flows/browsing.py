"""The page's application in the test's own process, asked as a browser on this machine asks."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from flows.browse.app import create_app
from flows.browse.security import CSRF_HEADER, Access
from flows.browse.state import Desk, open_desk

ADDRESS = "http://127.0.0.1:8765"
SECONDS = 60


class Page:
    """A browser that looks at a store."""

    def __init__(self, desk: Desk, client: TestClient) -> None:
        self.desk, self.client = desk, client
        self.own = {CSRF_HEADER: desk.access.csrf, "origin": ADDRESS, "sec-fetch-site": "same-origin"}

    def html(self, path: str, status: int = 200) -> str:
        """Return a page."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def get(self, path: str) -> Any:
        """Return what the page's script asks for."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        """Do what the page's script does."""
        answer = self.client.post(path, json=body, headers=self.own)
        assert answer.status_code == status, answer.text
        return answer.json()

    def finished(self, path: str, body: Any) -> Any:
        """Begin some work, and return how it ended."""
        return self.awaited(self.post(path, body))

    def awaited(self, job: Any) -> Any:
        """Return how some work ended."""
        deadline = time.monotonic() + SECONDS
        while job["state"] in ("waiting", "working"):
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
            job = self.get(f"/api/jobs/{job['job']}")
        return job

    def keys(self, path: str) -> list[str]:
        """Return the keys of the pictures on a page."""
        return re.findall(r'<bdi class="key" title="([^"]*)">', self.html(path))

    def all_keys(self, path: str) -> list[str]:
        """Return the keys on a page and on all that follow it."""
        found = self.keys(path)
        following = re.search(r'rel="next" href="([^"]*)"', self.html(path))
        return found + (self.all_keys(following[1].replace("&amp;", "&")) if following else [])


@contextmanager
def browsing(store: str, cache: Path, *, host: str = "127.0.0.1", token: str | None = None) -> Iterator[Page]:
    """Open a store as `browse` does, with answers that wait for nothing but a save."""
    desk = open_desk(store, Access(host, 8765, token), cache, wait_seconds=3600)
    with TestClient(create_app(desk), base_url=ADDRESS, follow_redirects=False) as client:
        yield Page(desk, client)
