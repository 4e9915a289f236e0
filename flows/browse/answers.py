"""Answers of the person at the page: kept for a short while, in which they can be taken back, then written together.

A file in the store for every answer would make thousands of them, and a file there never changes. So answers wait until
there are some, or for half a minute, or until somebody saves; the page says how many are not saved yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flows.browse.filters import Place
from schemas.errors import ClipdecoderError
from storage.annotations import Annotation, write_annotations
from storage.files import Folder

SOURCE = "browse"
WAIT_SECONDS = 30.0
MAX_WAITING = 50


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What an undo did: which answer it took back, and what holds now."""

    place: Place
    label_id: str
    value: int | None
    held: bool  # whether anything is said of the picture and label now


@dataclass(frozen=True, kw_only=True)
class _Given:
    annotation: Annotation
    place: Place
    before: tuple[bool, int | None]  # whether there was an answer, and which
    correction: bool = False  # made by an undo, and not to be undone

    @property
    def subject(self) -> tuple[Place, str]:
        return self.place, self.annotation.label_id


class AnswerSheet:
    """The answers of one server. Its methods may be called from many threads.

    Args:
        folder: the store.
        on_write: called after answers were written.
        wait_seconds: how long the first of some answers waits.
    """

    def __init__(
        self, folder: Folder, on_write: Callable[[], None] = lambda: None, *, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._folder, self._on_write, self._wait_seconds = folder, on_write, wait_seconds
        self._lock = threading.RLock()
        self._waiting: list[_Given] = []
        self._written: list[_Given] = []  # the last ones, for undo
        self._said: dict[tuple[Place, str], int | None] = {}
        self._timer: threading.Timer | None = None
        self.trouble = ""  # why answers could not be written, if they could not

    @property
    def waiting(self) -> int:
        """Answers that are in no file yet."""
        return len(self._waiting)

    @property
    def can_undo(self) -> bool:
        """Whether there is an answer to take back."""
        return bool(self._written) or any(not given.correction for given in self._waiting)

    def said(self) -> Mapping[tuple[Place, str], int | None]:
        """Return the newest answer that was given here for each picture and label."""
        with self._lock:
            return dict(self._said)

    def give(self, place: Place, key: str, label_id: str, value: int | None, before: tuple[bool, int | None]) -> None:
        """Take an answer: 1 yes, 0 no, None unsure.

        Args:
            place: of the picture.
            key: its key.
            label_id: the label.
            value: the answer.
            before: whether the store has an answer to this, and which.
        """
        annotation = Annotation(
            dataset=place[0], shard=place[1], key=key, label_id=label_id, value=value, source=SOURCE, at=_now()
        )
        with self._lock:
            if (place, label_id) in self._said:
                before = True, self._said[place, label_id]
            self._take(_Given(annotation=annotation, place=place, before=before))

    def undo(self) -> Undone | None:
        """Take back the last answer; None, where there is none.

        One that waits is as if it had not been given. After one that is written, a newer one says again what was said
        before; or unsure, where nothing was.
        """
        with self._lock:
            if own := [given for given in self._waiting if not given.correction]:
                self._waiting.remove(own[-1])
                held, value = own[-1].before
                self._said[own[-1].subject] = value
                if not held:
                    del self._said[own[-1].subject]
                return Undone(place=own[-1].place, label_id=own[-1].annotation.label_id, value=value, held=held)
            if not self._written:
                return None
            last = self._written.pop()
            annotation = replace(last.annotation, value=last.before[1], at=_now())
            before = True, last.annotation.value
            self._take(_Given(annotation=annotation, place=last.place, before=before, correction=True))
            return Undone(place=last.place, label_id=annotation.label_id, value=annotation.value, held=True)

    def _take(self, given: _Given) -> None:
        self._waiting.append(given)
        self._said[given.subject] = given.annotation.value
        if len(self._waiting) >= MAX_WAITING:
            self._start_timer(0)
        elif self._timer is None:
            self._start_timer(self._wait_seconds)

    def _start_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._write_by_itself)
        self._timer.daemon = True
        self._timer.start()

    def _write_by_itself(self) -> None:
        try:
            self.write()
        except ClipdecoderError as error:  # the answers wait on, and the page says why
            self.trouble = str(error)

    def close(self) -> None:
        """Write what waits, for the last time. If that fails, `trouble` says why, and the answers still wait."""
        self._on_write = lambda: None  # nobody looks any more
        self._write_by_itself()

    def write(self) -> int:
        """Write what waits as one file, and return how many answers it was.

        Raises:
            StoreError: the store cannot be written; the answers wait on.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            given = list(self._waiting)
            if not given:
                return 0
            write_annotations(self._folder, [each.annotation for each in given])
            self._waiting.clear()
            self._written = [*self._written, *(each for each in given if not each.correction)][-MAX_WAITING:]
            self.trouble = ""
        self._on_write()
        return len(given)


def _now() -> datetime:
    return datetime.now(UTC)
