"""What every reader of annotations returns: pictures as the file names them, labels in the annotator's words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from schemas.annotations import MAX_AHEAD
from storage.pictures import PATH_COLUMNS

PICTURE_NAMES = (*PATH_COLUMNS, "file_name")  # what columns with paths are called

_VALUES: dict[str, int | None] = {
    **dict.fromkeys(("1", "1.0", "yes", "true"), 1),
    **dict.fromkeys(("0", "0.0", "no", "false"), 0),
    **dict.fromkeys(("", "unsure"), None),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a file names it."""

    name: str
    is_key: bool  # the key as it stands in the shard; else a path, of which the store knows perhaps the end
    dataset: str | None = None
    shard: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a file says of one picture at one place. It may name no word: with all labels known, that says much."""

    picture: Picture
    said: tuple[tuple[str, int | None], ...]  # word; 1 yes, 0 no, None unsure
    at: datetime | None = None
    source: str | None = None
    beside: Picture | None = None  # by path, where `picture` is by key: both should be the same sample


@dataclass(kw_only=True)
class FileContent:
    """A file of annotations, as read."""

    format: str
    entries: list[Entry] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # words that the file lists apart from pictures
    bad: list[str] = field(default_factory=list)  # each: where, and what is wrong with it
    unanswered: int = 0  # pictures that nobody answered, or that were skipped


def yes(words: Iterable[str]) -> tuple[tuple[str, int | None], ...]:
    """Return that each of these words is there, once."""
    return tuple((word, 1) for word in dict.fromkeys(words))


def parse_value(value: Any) -> int | None:
    """Return 1, 0 or None for what a file has in place of an answer.

    Raises:
        ValueError: it is none.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip().casefold()
    if text not in _VALUES:
        raise ValueError(f"value {value!r} is none of 1, 0, yes, no, true, false, or empty for unsure")
    return _VALUES[text]


def parse_time(value: Any) -> datetime | None:
    """Return a time in UTC, where it says no zone taken to be so; None for nothing.

    Raises:
        ValueError: it is no date or time of ISO 8601, or lies in the future.
    """
    if value is None or value == "":
        return None
    try:
        time = datetime.fromisoformat(str(value).strip())
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{str(value)!r} is no time such as 2026-05-31T12:00:00Z") from None
    if time - datetime.now(UTC) > MAX_AHEAD:
        raise ValueError(f"{str(value)!r} is in the future, and would count before every later answer")
    return time


def parse_text(value: Any, name: str) -> str:
    """Return a text that is not empty, as it stands.

    Raises:
        ValueError: it is empty, no text, or cannot be written as UTF-8.
    """
    if value is None or value == "" or (isinstance(value, str) and value.isspace()):
        raise ValueError(f"{name} is empty")
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, and must be a text")
    value.encode()
    return value
