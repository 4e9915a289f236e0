"""Ground truth in the shards: what the `.json` side file of a sample says about its labels.

    {"labels": ["dog", "red car"], "absent": ["cat"]}

`labels` are there, `absent` are not; of any other label the file says nothing. Both hold ids, names or synonyms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import ShardError
from schemas.sample import MemberCounts, SampleStatus, ShardStatus
from storage.shards import iter_samples

_FIELDS = ("labels", "absent")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleLabels:
    """What an annotator said about one sample, in their own words."""

    labels: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(kw_only=True)
class ShardLabels:
    """The annotated samples of one shard, by ordinal, and the keys of those whose side file cannot be used."""

    samples: dict[int, SampleLabels] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)  # key -> why


def read_labels(url: str) -> ShardLabels:
    """Return what the side files of a shard say. No picture is decoded; one sample is in memory at a time.

    A sample without a `.json`, or whose `.json` has neither `labels` nor `absent`, is not annotated: that is not the
    same as one whose `labels` are empty. A truncated shard gives the samples before the cut.

    Raises:
        ShardError: the shard is missing, no tar, or cannot be read.
    """
    found = ShardLabels()
    try:
        for sample in iter_samples(url, MemberCounts()):
            if sample.status is not SampleStatus.OK or "json" not in sample.side:
                continue
            try:
                labels = parse_labels(sample.side["json"])
            except ValueError as error:
                found.damaged[sample.key] = str(error)
                continue
            if labels is not None:
                found.samples[sample.sample] = labels
    except ShardError as error:
        if error.status is not ShardStatus.TRUNCATED:
            raise
    return found


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
    return tuple(dict.fromkeys(value))
