"""Ground truth in the shards: what the `.json` side file of a sample says about its labels.

    {"labels": ["dog", "red car"], "absent": ["cat"]}

`labels` are there, `absent` are not; of any other label the file says nothing. Both hold ids, names or synonyms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from schemas.errors import ShardError
from schemas.sample import MemberCounts, Sample, SampleStatus, ShardStatus
from storage.files import transport_errors
from storage.shards import iter_samples
from storage.urls import open_file_system

_FIELDS = ("labels", "absent")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleLabels:
    """What an annotator said about one sample, in their own words."""

    labels: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(kw_only=True)
class ShardLabels:
    """The annotated samples of one shard, by ordinal, and the keys of those whose side file cannot be used."""

    changed_at: datetime  # when the shard was changed last: side files have no time of their own
    samples: dict[int, SampleLabels] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)  # of the annotated samples
    damaged: dict[str, str] = field(default_factory=dict)  # key -> why

    def add(self, sample: Sample) -> None:
        """Note what the side file of a sample says.

        A sample without a `.json`, or whose `.json` has neither `labels` nor `absent`, is not annotated: that is not
        the same as one whose `labels` are empty.
        """
        if sample.status is not SampleStatus.OK or "json" not in sample.side:
            return
        try:
            labels = parse_labels(sample.side["json"])
        except ValueError as error:
            self.damaged[sample.key] = str(error)
            return
        if labels is not None:
            self.samples[sample.sample] = labels
            self.keys[sample.sample] = sample.key


def read_labels(url: str) -> ShardLabels:
    """Return what the side files of a shard say. No picture is decoded; one sample is in memory at a time.

    A truncated shard gives the samples before the cut.

    Raises:
        ShardError: the shard is missing, no tar, or cannot be read.
    """
    found = ShardLabels(changed_at=changed_at(url))
    try:
        for sample in iter_samples(url, MemberCounts()):
            found.add(sample)
    except ShardError as error:
        if error.status is not ShardStatus.TRUNCATED:
            raise
    return found


def changed_at(url: str) -> datetime:
    """Return when a file was changed last; now, where its store does not tell."""
    fs, path = open_file_system(url)
    # A shard that cannot be asked is found out when it is read.
    with suppress(NotImplementedError, *transport_errors()):
        modified: datetime = fs.modified(path)
        return modified.astimezone(UTC)
    return datetime.now(UTC)


def parse_labels(content: bytes) -> SampleLabels | None:
    """Return what one side file says; None if it says nothing about labels.

    Raises:
        ValueError: it is no JSON object, or its labels are no lists of texts.
    """
    try:
        value: Any = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"a JSON object was expected, not {type(value).__name__}")
    if not any(name in value for name in _FIELDS):
        return None
    return SampleLabels(**{name: _words(value.get(name, []), name) for name in _FIELDS})


def _words(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f'"{name}" must be a list of texts, such as ["dog", "cat"], not {json.dumps(value)[:80]}')
    "".join(value).encode()  # half a surrogate pair cannot be stored
    return tuple(dict.fromkeys(value))
