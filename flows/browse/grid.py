"""Pages of the grid: at most `PAGE` pictures, found without ever reading or counting all that there are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.browse.catalogs import BrowsedLabel, Catalog, NotThereError
from flows.browse.filters import FAILED, PAGE, Filter, Place, mark_of
from schemas.errors import one_of
from storage.views import literal

_SECONDS = 0.35  # that a page looks for pictures with rare tags, shard by shard, before it shows what it has

_END = 2**31 - 1  # after every sample of a shard

_ORDERS = {"high": ("DESC", "<"), "low": ("ASC", ">")}

# The comparison of the score alone is one that Parquet's statistics answer; the other one is about its equals.
_SCORED = """
WITH scored AS ({scored})
SELECT s.dataset, s.shard, s.sample, s.score, s.logit
FROM scored s {join}
WHERE s.score BETWEEN $low AND $high {where} {after}
ORDER BY s.score {order}, s.logit {order}, s.dataset, s.shard, s.sample LIMIT {limit}
"""
_AFTER = """AND s.score {sign}= $score AND (s.score {sign} $score OR s.logit {sign} $logit
    OR (s.logit = $logit AND (s.dataset, s.shard, s.sample) > ($after_dataset, $after_shard, $after_sample)))"""
_ONE = "SELECT * FROM internal.scores WHERE label_id = $label"
# As in the view `tags`: where labels were merged, the best score of any of them counts.
_SEVERAL = """SELECT dataset, shard, sample, max(score) AS score, arg_max(logit, score) AS logit
    FROM internal.scores WHERE list_contains($labels, label_id) GROUP BY dataset, shard, sample"""

_IN_ORDER = """
SELECT s.dataset, s.shard, s.sample FROM samples s {tagged}
WHERE s.dataset = $dataset AND s.shard >= $shard AND (s.shard > $shard OR s.sample > $sample) {where}
ORDER BY s.shard, s.sample LIMIT {limit}
"""
_TAGGED = """SEMI JOIN (
    SELECT t.dataset, t.shard, t.sample
    FROM internal.scores t
        JOIN internal.labels m ON m.dataset = t.dataset AND m.label_id = t.label_id
        JOIN internal.judged j ON j.dataset = m.dataset AND j.label_id = m.target AND j.scorer = t.scorer
    WHERE t.dataset = $dataset AND t.shard = $shard AND j.active {tags}
) t ON t.dataset = s.dataset AND t.shard = s.shard AND t.sample = s.sample"""

_NO_COPIES = """ANTI JOIN (SELECT dataset, shard, sample FROM {groups} WHERE NOT representative) d
    ON d.dataset = s.dataset AND d.shard = s.shard AND d.sample = s.sample"""

_PICTURES = """
WITH asked AS (SELECT unnest($ranks) AS rank, unnest($datasets) AS dataset, unnest($shards) AS shard,
    unnest($samples)::INTEGER AS sample)
SELECT a.rank, s.key, s.status, s.error, s.width, s.height
FROM asked a JOIN samples s ON s.dataset = a.dataset AND s.shard = a.shard AND s.sample = a.sample
WHERE {among}
ORDER BY a.rank
"""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sample on a page."""

    dataset: str
    shard: str
    sample: int
    key: str
    status: str
    error: str | None
    width: int | None
    height: int | None
    score: float | None = None  # of the label that the page is about
    note: str = ""  # what else the page says of it

    @property
    def place(self) -> Place:
        """Where the sample stands."""
        return self.dataset, self.shard, self.sample


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some pictures, and how to go on."""

    pictures: list[Picture] = field(default_factory=list)
    after: str = ""  # where the next page begins; empty: there is none
    looked_at: str = ""  # up to where pictures were looked for, if that is all that there was time for


def find_page(catalog: Catalog, wanted: Filter, *, size: int = PAGE) -> Page:
    """Return one page of what a filter lets through.

    Raises:
        NotThereError: an unknown label or dataset.
        ConfigError: a broken address.
    """
    if wanted.dataset and wanted.dataset not in catalog.datasets:
        raise NotThereError(one_of("dataset", wanted.dataset, catalog.datasets))
    if wanted.label:
        return _by_score(catalog, wanted, catalog.label(wanted.label), size)
    return _in_order(catalog, wanted, size)


def _by_score(catalog: Catalog, wanted: Filter, label: BrowsedLabel, size: int) -> Page:
    sql, parameters = _scored_sql(catalog, wanted, label, size + 1)
    rows = catalog.ask(sql, parameters)
    shown = rows[:size]
    scores = [row["score"] for row in shown]
    places = [(row["dataset"], row["shard"], row["sample"]) for row in shown]
    after = mark_of((scores[-1], shown[-1]["logit"], *places[-1])) if len(rows) > size else ""
    return Page(pictures=describe(catalog, places, scores=scores), after=after)


def _scored_sql(catalog: Catalog, wanted: Filter, label: BrowsedLabel, limit: int) -> tuple[str, dict[str, Any]]:
    order, sign = _ORDERS[wanted.order]
    low = wanted.low if wanted.low is not None else label.threshold
    parameters: dict[str, Any] = {"low": low, "high": 1.0 if wanted.high is None else wanted.high}
    parameters |= {"labels": list(label.members)} if label.merged else {"label": label.label_id}
    join, where = _of_samples(wanted, parameters)
    join += _no_copies(catalog, wanted)
    after = ""
    if (place := wanted.place_after) is not None:
        after = _AFTER.format(sign=sign)
        names = ("score", "logit", "after_dataset", "after_shard", "after_sample")
        parameters |= dict(zip(names, place, strict=True))
    scored = _SEVERAL if label.merged else _ONE
    sql = _SCORED.format(scored=scored, join=join, where=where, after=after, order=order, limit=limit)
    return sql, parameters


def _of_samples(wanted: Filter, parameters: dict[str, Any]) -> tuple[str, str]:
    """Return the join and the conditions that ask for more than scores; their values go into `parameters`."""
    where = ""
    if wanted.dataset:
        where += " AND s.dataset = $dataset"
        parameters["dataset"] = wanted.dataset
    if not wanted.key and wanted.status in ("", "ok"):
        return "", where
    join = "JOIN samples k ON k.dataset = s.dataset AND k.shard = s.shard AND k.sample = s.sample"
    return join, where + _conditions(wanted, parameters, "k")


def _no_copies(catalog: Catalog, wanted: Filter) -> str:
    return f" {_NO_COPIES.format(groups=catalog.groups)}" if wanted.copies else ""


def _conditions(wanted: Filter, parameters: dict[str, Any], name: str) -> str:
    where = ""
    if wanted.key:
        where += f" AND contains({name}.key, $key)"
        parameters["key"] = wanted.key
    if wanted.status == FAILED:
        where += f" AND {name}.status <> 'ok'"
    elif wanted.status:
        where += f" AND {name}.status = $status"
        parameters["status"] = wanted.status
    return where


def count_scored(catalog: Catalog, wanted: Filter) -> int:
    """Return how many pictures there are on all pages of a label."""
    everything = wanted.model_copy(update={"after": ""})
    sql, parameters = _scored_sql(catalog, everything, catalog.label(wanted.label), 0)
    counted = f"SELECT count(*) AS pictures FROM ({sql[: sql.rindex('ORDER BY')]})"
    return catalog.remember(
        f"{counted} {sorted(parameters.items())}", lambda: int(catalog.ask(counted, parameters)[0]["pictures"])
    )


def _in_order(catalog: Catalog, wanted: Filter, size: int) -> Page:
    """Go through the datasets, and where tags are asked for shard by shard, until a page is full or the time is up."""
    deadline = time.monotonic() + _SECONDS
    found: list[Place] = []
    last: Place | None = None
    for dataset, shard, sample, by_shard in _starts(catalog, wanted):
        if by_shard and last is not None and time.monotonic() > deadline:
            return Page(pictures=describe(catalog, found), after=mark_of(last), looked_at=f"{last[0]}/{last[1]}")
        start = dataset, shard, sample
        sql, parameters = _in_order_sql(catalog, wanted, start, size + 1 - len(found), by_shard=by_shard)
        found += [(row["dataset"], row["shard"], row["sample"]) for row in catalog.ask(sql, parameters)]
        if len(found) > size:
            return Page(pictures=describe(catalog, found[:size]), after=mark_of(found[size - 1]))
        last = dataset, shard, _END
    return Page(pictures=describe(catalog, found))


def _starts(catalog: Catalog, wanted: Filter) -> Iterable[tuple[str, str, int, bool]]:
    """Yield from where on to look: the start of each dataset, or of each shard where tags decide."""
    after = wanted.place_after
    by_shard = bool(wanted.knowledge or wanted.low is not None or wanted.high is not None)
    for dataset in catalog.datasets:
        if (wanted.dataset and dataset != wanted.dataset) or (after and dataset < after[0]):
            continue
        begin = (after[1], after[2]) if after and dataset == after[0] else ("", -1)
        if not by_shard:
            yield dataset, *begin, False
            continue
        shards = [shard for owner, shard in catalog.reports if owner == dataset and (shard, _END) > begin]
        for shard in shards:
            yield dataset, shard, begin[1] if shard == begin[0] else -1, True


def _in_order_sql(
    catalog: Catalog, wanted: Filter, start: Place, limit: int, *, by_shard: bool
) -> tuple[str, dict[str, Any]]:
    dataset, shard, sample = start
    parameters: dict[str, Any] = {"dataset": dataset, "shard": shard, "sample": sample}
    where, tagged = _conditions(wanted, parameters, "s"), ""
    if by_shard:
        where += " AND s.shard = $shard"
        tagged = _TAGGED.format(tags=_tag_conditions(wanted, parameters))
    tagged += _no_copies(catalog, wanted)
    return _IN_ORDER.format(tagged=tagged, where=where, limit=limit), parameters


def _tag_conditions(wanted: Filter, parameters: dict[str, Any]) -> str:
    tags = "AND t.score >= $low" if wanted.low is not None else "AND t.score >= j.threshold"
    parameters |= {"low": wanted.low} if wanted.low is not None else {}
    if wanted.high is not None:
        tags += " AND t.score <= $high"
        parameters["high"] = wanted.high
    if wanted.knowledge:
        tags += " AND j.seen" if wanted.knowledge == "seen" else " AND NOT j.seen"
    return tags


def among(places: Sequence[Place], name: str) -> str:
    """Return the condition that rows are of these shards and ordinals; a join alone would read every file.

    Written out, as Parquet's statistics are asked about values and not about lists: a sixth of the time at a million
    samples.
    """
    shards = ", ".join(sorted({literal(shard) for _, shard, _ in places}))
    samples = ", ".join(map(str, sorted({sample for _, _, sample in places})))
    return f"{name}.shard IN ({shards}) AND {name}.sample IN ({samples})"


def describe(
    catalog: Catalog,
    places: Sequence[Place],
    *,
    scores: Sequence[float] | None = None,
    notes: Sequence[str] | None = None,
) -> list[Picture]:
    """Return what the store knows of samples, in the order given; those that it does not know are left out."""
    if not places:
        return []
    datasets, shards, samples = (list(column) for column in zip(*places, strict=True))
    parameters = {"ranks": list(range(len(places))), "datasets": datasets, "shards": shards, "samples": samples}
    return [
        Picture(
            dataset=datasets[rank],
            shard=shards[rank],
            sample=samples[rank],
            score=scores[rank] if scores else None,
            note=notes[rank] if notes else "",
            **row,
        )
        for row in catalog.ask(_PICTURES.format(among=among(places, "s")), parameters)
        for rank in (row.pop("rank"),)
    ]


def described(catalog: Catalog, place: Place) -> Picture:
    """Return what the store knows of one sample.

    Raises:
        NotThereError: nothing.
    """
    for picture in describe(catalog, [place]):
        return picture
    dataset, shard, sample = place
    raise NotThereError(f"the store has no sample {sample} in shard {shard!r} of dataset {dataset!r}")
