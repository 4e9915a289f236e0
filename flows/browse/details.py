"""What pages say of single pictures and labels: tags, scores, answers, histograms, what a threshold changes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flows.browse.catalogs import BrowsedLabel, Catalog
from flows.browse.filters import Filter, Place
from flows.browse.grid import Picture, among, describe, find_page
from schemas.errors import StoreError

BINS = 1000  # of a histogram: the steps of the slider
EDGE = 12  # pictures shown on each side of a threshold
TAGS = 6  # shown of each picture in a grid
COPIES = 13  # of a group, shown beside one of them

# What a picture scored, merged labels as one: the best score counts, against the threshold of the one that is left.
_SCORES = """
WITH asked AS (SELECT unnest($ranks) AS rank, unnest($datasets) AS dataset, unnest($shards) AS shard,
    unnest($samples)::INTEGER AS sample),
scored AS (
    SELECT a.rank, s.dataset, m.target AS label_id, s.scorer, s.score, s.logit
    FROM internal.scores s
        JOIN asked a ON a.dataset = s.dataset AND a.shard = s.shard AND a.sample = s.sample
        JOIN internal.labels m ON m.dataset = s.dataset AND m.label_id = s.label_id
    WHERE {among}
)
SELECT s.rank, l.label_id, any_value(l.name) AS name, any_value(l.seen) AS seen, max(s.score) AS score,
    arg_max(s.logit, s.score) AS logit, arg_max(l.threshold, s.score) AS threshold
FROM scored s JOIN internal.judged l ON l.dataset = s.dataset AND l.label_id = s.label_id AND l.scorer = s.scorer
WHERE l.active {where}
GROUP BY s.rank, l.label_id ORDER BY s.rank, score DESC, logit DESC, l.label_id
"""

_ANSWERS = """
SELECT dataset, shard, key, label_id, value, source, "at" FROM internal.answers
    SEMI JOIN (SELECT unnest($keys) AS key) USING (key)
ORDER BY "at", coalesce(value, -1)
"""

_SAID = """
SELECT label_id, value, source, "at" FROM annotations
WHERE key = $key AND coalesce(dataset = $dataset, true) AND coalesce(shard = $shard, true) ORDER BY "at", source
"""

_FACTS = """
SELECT bytes, brightness, contrast, sharpness, phash FROM quality
WHERE dataset = $dataset AND shard = $shard AND sample = $sample
"""
_COPIES = """
SELECT dataset, shard, sample, key, representative, reason, cosine FROM {groups}
WHERE group_id = (FROM {groups} SELECT group_id WHERE dataset = $dataset AND shard = $shard AND sample = $sample)
ORDER BY representative DESC, cosine DESC NULLS LAST, dataset, shard, sample LIMIT {limit}
"""

# Of one label: how many pictures have a score in each step, and how many are tagged at its own threshold.
_HISTOGRAM = """
SELECT floor(score::DOUBLE * $bins)::INTEGER AS bin, count(*) AS pictures,
    count_if(score >= $threshold) AS tagged
FROM ({scored}) GROUP BY bin ORDER BY bin
"""
_ONE = "SELECT score FROM internal.scores WHERE list_contains($labels, label_id)"
_SEVERAL = f"SELECT max(score) AS score FROM ({_ONE.replace('score FROM', 'dataset, shard, sample, score FROM')}) "
_SEVERAL += "GROUP BY dataset, shard, sample"


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one picture scored for one label."""

    label_id: str
    name: str
    seen: bool
    score: float
    logit: float
    threshold: float

    @property
    def tagged(self) -> bool:
        """Whether the picture has the label."""
        return self.score >= self.threshold


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer about a picture."""

    label_id: str
    value: int | None
    source: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a picture is like; None: `clipdecoder quality` did not look at it."""

    bytes: int
    brightness: float | None
    contrast: float | None
    sharpness: float | None
    phash: int | None


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """The scores of one label: pictures by step of the slider, and those tagged now."""

    bins: list[int]  # BINS + 1 counts; the last one is of scores of exactly 1
    tagged: int

    @property
    def pictures(self) -> int:
        """Pictures that have a stored score of the label."""
        return sum(self.bins)


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The pictures nearest to a threshold."""

    above: list[Picture]  # the nearest first
    below: list[Picture]


def scores_of(catalog: Catalog, places: Sequence[Place], *, tags_only: bool) -> list[list[Score]]:
    """Return for each picture its scores, the highest first; with `tags_only` those at or above thresholds."""
    if not places:
        return []
    datasets, shards, samples = (list(column) for column in zip(*places, strict=True))
    parameters = {"ranks": list(range(len(places))), "datasets": datasets, "shards": shards, "samples": samples}
    found: list[list[Score]] = [[] for _ in places]
    where = "AND s.score >= l.threshold" if tags_only else ""
    for row in catalog.ask(_SCORES.format(among=among(places, "s"), where=where), parameters):
        found[row.pop("rank")].append(Score(**row))
    return found


def answers_of(catalog: Catalog, pictures: Sequence[Picture]) -> dict[tuple[Place, str], int | None]:
    """Return the newest answer of people for each of these pictures and each label that was named."""
    by_key: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_key[picture.key].append(picture)
    found: dict[tuple[Place, str], int | None] = {}
    for row in catalog.ask(_ANSWERS, {"keys": list(by_key)}) if by_key else ():
        for picture in by_key[row["key"]]:
            if row["dataset"] in (None, picture.dataset) and row["shard"] in (None, picture.shard):
                found[picture.place, row["label_id"]] = row["value"]
    return found


def said_of(catalog: Catalog, picture: Picture) -> list[Said]:
    """Return everything that was said of a picture, side files included, the oldest first."""
    asked = {"key": picture.key, "dataset": picture.dataset, "shard": picture.shard}
    return [Said(**row) for row in catalog.ask(_SAID, asked)]


def facts_of(catalog: Catalog, picture: Picture) -> Facts | None:
    """Return what a picture is like; None, where it cannot be decoded, or its statistics were replaced meanwhile."""
    asked = {"dataset": picture.dataset, "shard": picture.shard, "sample": picture.sample}
    try:
        return next((Facts(**row) for row in catalog.ask(_FACTS, asked)), None)
    except StoreError:  # `clipdecoder quality` removes what a shard had before; the picture is shown without
        return None


def copies_of(catalog: Catalog, picture: Picture) -> list[Picture]:
    """Return the samples that are nearly the same as one, the one that stands for them first; `note` says how."""
    if not catalog.knows_copies:
        return []
    asked = {"dataset": picture.dataset, "shard": picture.shard, "sample": picture.sample}
    rows = catalog.ask(_COPIES.format(groups=catalog.groups, limit=COPIES), asked)
    notes = {(row["dataset"], row["shard"], row["sample"]): _how_alike(row) for row in rows}
    notes.pop(picture.place, None)
    return describe(catalog, list(notes), notes=list(notes.values()))


def _how_alike(row: dict[str, Any]) -> str:
    if row["representative"]:
        return "stands for the group"
    cosine = "" if row["cosine"] is None else f", cosine {row['cosine']:.3f}"
    return f"{row['reason']}{cosine}"


def histogram_of(catalog: Catalog, label: BrowsedLabel) -> Histogram:
    """Return how the scores of a label are spread."""
    return catalog.remember(f"histogram {label.label_id}", lambda: _histogram(catalog, label))


def _histogram(catalog: Catalog, label: BrowsedLabel) -> Histogram:
    sql = _HISTOGRAM.format(scored=_SEVERAL if label.merged else _ONE)
    asked: dict[str, Any] = {"labels": list(label.members), "bins": BINS, "threshold": label.threshold}
    bins, tagged = [0] * (BINS + 1), 0
    for row in catalog.ask(sql, asked):
        bins[min(max(row["bin"], 0), BINS)] += row["pictures"]
        tagged += row["tagged"]
    return Histogram(bins=bins, tagged=tagged)


def edge_of(catalog: Catalog, label: BrowsedLabel, threshold: float, source: str) -> Edge:
    """Return the pictures nearest to a threshold on both sides."""
    asked = Filter(label=label.label_id, source=source)
    above = asked.model_copy(update={"low": threshold, "order": "low"})
    below = asked.model_copy(update={"low": 0.0, "high": math.nextafter(threshold, -1.0)})
    return Edge(
        above=find_page(catalog, above, size=EDGE).pictures, below=find_page(catalog, below, size=EDGE).pictures
    )
