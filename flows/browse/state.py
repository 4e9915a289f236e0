"""What the routes share: one store, looked at by one person or a few."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from flows.browse.answers import WAIT_SECONDS, AnswerSheet
from flows.browse.catalogs import Catalogs
from flows.browse.comparisons import Comparisons
from flows.browse.jobs import Jobs
from flows.browse.pictures import open_thumbnails
from flows.browse.results import Results
from flows.browse.security import Access
from storage.files import Folder
from storage.thumbnails import Thumbnails

_DRAWN = 100  # pictures of where labels looked


@dataclass(kw_only=True)
class Drawings:
    """Pictures that were drawn for the page, the newest ones."""

    _held: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, name: str, data: bytes) -> None:
        """Keep a picture under a name."""
        with self._lock:
            self._held[name] = data
            while len(self._held) > _DRAWN:
                self._held.popitem(last=False)

    def find(self, name: str) -> bytes | None:
        """Return a picture by its name."""
        return self._held.get(name)


@dataclass(kw_only=True)
class Desk:
    """A store, and everything that is open or waiting while somebody looks at it."""

    folder: Folder
    access: Access
    catalogs: Catalogs
    thumbnails: Thumbnails
    answers: AnswerSheet
    jobs: Jobs
    results: Results
    comparisons: Comparisons
    drawings: Drawings

    def close(self) -> None:
        """Write the answers that wait, and let go of everything."""
        self.jobs.close()
        self.answers.close()
        self.thumbnails.close()
        self.catalogs.close()


def open_desk(store: str, access: Access, cache: Path | None = None, *, wait_seconds: float = WAIT_SECONDS) -> Desk:
    """Open a store to be looked at.

    Args:
        store: its URL.
        access: who may look.
        cache: folder of the thumbnails; None: this user's.
        wait_seconds: how long answers wait before they are written.

    Raises:
        RequestError: there is no such store, or it cannot be read.
    """
    folder = Folder(store)
    catalogs = Catalogs(folder)
    catalogs.get()

    def look_again() -> None:
        # In a thread of its own: whoever has just answered does not wait for it.
        threading.Thread(target=catalogs.refresh, daemon=True).start()

    jobs = Jobs()
    return Desk(
        folder=folder,
        access=access,
        catalogs=catalogs,
        thumbnails=open_thumbnails(cache),
        answers=AnswerSheet(folder, look_again, wait_seconds=wait_seconds),
        jobs=jobs,
        results=Results(),
        comparisons=Comparisons(jobs),
        drawings=Drawings(),
    )


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(_desk)]
