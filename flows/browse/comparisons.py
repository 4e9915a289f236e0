"""Two models or runs compared: how each label's tags change, and the pictures that differ most, found once and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.browse.catalogs import Catalog, NotThereError, source_of
from flows.browse.filters import ComparisonFilter, Place
from flows.browse.jobs import Job, Jobs, Tell
from schemas.errors import ConfigError, one_of
from storage.comparisons import Change, Pair, Side, labels_sql, pair_of, pictures_sql, shown_sql, side_of

MAX_PICTURES = 5000  # of each change that pages lead to; the export has all
PATIENCE_SECONDS = 0.3  # that a page waits for a comparison before it says that one is being made
_HELD = 12


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """How many pictures have a label on each side."""

    label_id: str
    before: int
    after: int
    gained: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs between two sides."""

    shards: int  # that both looked at
    compared: int  # labels that both scored
    labels: Sequence[LabelChange]  # that change most first; those that neither side has on any picture are absent
    places: Mapping[Change, Sequence[Place]]  # pictures that differ most first
    pictures: Mapping[Change, int]  # how many there are

    @property
    def gained(self) -> int:
        """Tags that only the right side has."""
        return sum(label.gained for label in self.labels)

    @property
    def lost(self) -> int:
        """Tags that only the left side has."""
        return sum(label.lost for label in self.labels)


@dataclass(frozen=True, kw_only=True)
class SaidOfLabel:
    """What one side says of a picture and a label. A score that is not stored is None."""

    label_id: str
    name: str
    seen: bool
    score: float | None
    tagged: bool
    alone: bool  # whether the tag, or its absence, is this side's alone


@dataclass(frozen=True, kw_only=True)
class _Kept:
    job: Job
    made: list[Comparison]  # one, once it is made


class Comparisons:
    """The comparisons of one server, the newest ones."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._kept: OrderedDict[tuple[str, str, str], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, catalog: Catalog, wanted: ComparisonFilter) -> Comparison | Job:
        """Return a comparison, or the work that makes it where that takes longer than a page may.

        Args:
            catalog: of the whole store.
            wanted: `source`, `other` and `label` say what is compared.

        Raises:
            RequestError: there is no such model, run or label; or the comparison failed.
        """
        key = wanted.source, wanted.other, wanted.label
        with self._lock:
            kept = self._kept.get(key) or self._started(catalog, wanted)
            self._kept[key] = kept
            self._kept.move_to_end(key)
            if len(self._kept) > _HELD:
                self._kept.popitem(last=False)
        kept.job.ended.wait(PATIENCE_SECONDS)
        if kept.job.state == "failed":
            with self._lock:
                self._kept.pop(key, None)
            raise ConfigError(kept.job.says)
        return kept.made[0] if kept.made else kept.job

    def forget(self) -> None:
        """Let go of all, as the store may say something else now."""
        with self._lock:
            self._kept.clear()

    def _started(self, catalog: Catalog, wanted: ComparisonFilter) -> _Kept:
        pair = compared_pair(catalog, wanted)
        made: list[Comparison] = []

        def work(tell: Tell) -> dict[str, str]:
            tell(f"comparing {len(pair.shards):,} shards")
            made.append(_compared(catalog, pair, by_score=bool(wanted.label)))
            return {}

        return _Kept(job=self._jobs.start(work), made=made)


def compared_pair(catalog: Catalog, wanted: ComparisonFilter) -> Pair:
    """Return what two sources have in common; of one label alone, where one is chosen.

    Raises:
        RequestError: there is no such model, run or label.
    """
    first, second = (_side(catalog, source) for source in (wanted.source, wanted.other))
    now = {shard: report.fingerprint for shard, report in catalog.reports.items()}
    pair = pair_of(first, second, now, {label.label_id: label.members for label in catalog.labels.values()})
    return pair.one(catalog.label(wanted.label).label_id) if wanted.label else pair


def _side(catalog: Catalog, source: str) -> Side:
    kind, name = source_of(source)
    if kind == "run":
        run = catalog.run(name)
        return side_of([run], run.record.model_id)
    if kind == "model" and name not in catalog.models:
        raise NotThereError(one_of("model", name, catalog.models))
    return side_of(catalog.runs, name or catalog.shown["model_id"])


def _compared(catalog: Catalog, pair: Pair, *, by_score: bool) -> Comparison:
    places: dict[Change, list[Place]] = {"": [], "gained": [], "lost": []}
    pictures: dict[Change, int] = dict.fromkeys(places, 0)
    for row in catalog.ask(pictures_sql(pair, by_score=by_score, limit=MAX_PICTURES)):
        places[row["change"]].append((row["dataset"], row["shard"], row["sample"]))
        pictures[row["change"]] = row["pictures"]
    return Comparison(
        shards=len(pair.shards),
        compared=len(pair.labels),
        labels=[LabelChange(**row) for row in catalog.ask(labels_sql(pair))],
        places=places,
        pictures=pictures,
    )


def said_by_both(
    catalog: Catalog, pair: Pair, places: Sequence[Place], label: str
) -> list[tuple[list[SaidOfLabel], list[SaidOfLabel]]]:
    """Return for each picture the tags of both sides, the highest score first; a chosen label first, tagged or not."""
    if not places:
        return []
    datasets, shards, samples = (list(column) for column in zip(*places, strict=True))
    asked = {"ranks": list(range(len(places))), "datasets": datasets, "shards": shards, "samples": samples}
    seen = [catalog.models.get(side.model_id, frozenset()) for side in (pair.before, pair.after)]
    found: list[tuple[list[SaidOfLabel], list[SaidOfLabel]]] = [([], []) for _ in places]
    for row in catalog.ask(shown_sql(pair, places), asked):
        for side, (score, tag) in enumerate((("before", "had"), ("after", "has"))):
            if row[tag] or row["label_id"] == label:
                said = SaidOfLabel(
                    label_id=row["label_id"],
                    name=catalog.labels[row["label_id"]].name,
                    seen=row["label_id"] in seen[side],
                    score=row[score],
                    tagged=row[tag],
                    alone=row["had"] != row["has"],
                )
                found[row["rank"]][side].append(said)
    for sides in found:
        for said_by_side in sides:
            said_by_side.sort(key=lambda said: (said.label_id != label, -(said.score or 0.0), said.label_id))
    return found
