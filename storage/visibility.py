"""Which stored rows the views show: newest bytes, newest run of each label. Pure; reads nothing.

A shard may have been scored by many runs: for other labels, with another model, or before its bytes changed. Rows are
never deleted, so the views must choose. They choose whole files, and within a file whole labels, which DuckDB can
carry out while it reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from schemas.checkpoint import Scorer
from schemas.manifest import RunRecord, ShardReport
from schemas.taxonomy import ScoredLabel

if TYPE_CHECKING:
    from storage.runs import StoredRun


@dataclass(frozen=True, kw_only=True)
class VisibleParts:
    """Part files of one run that are shown alike: all their rows but those of the `hidden` labels."""

    dataset: str
    run_id: str
    model_id: str
    scorer: str
    hidden: frozenset[str]
    paths: tuple[str, ...]  # relative to the store


@dataclass(frozen=True)
class _Visit:
    """One run's finished work on one shard."""

    record: RunRecord
    report: ShardReport

    @property
    def shard(self) -> tuple[str, str]:
        """What identifies the shard in the store."""
        return self.record.dataset, self.report.shard

    @property
    def finished(self) -> tuple[datetime, str]:
        """Sorts by when the shard was read, older before newer."""
        return self.report.finished_at, self.record.run_id

    @property
    def asked(self) -> tuple[datetime, str]:
        """Sorts by when the run was asked for, older before newer: one order of runs for all shards."""
        return self.record.asked_at, self.record.run_id


def visible_samples(runs: Iterable[StoredRun]) -> list[VisibleParts]:
    """Return the sample parts to show: of each dataset's shard, those of the newest report."""
    return _grouped("samples", ((visits[0], frozenset()) for visits in _current(runs).values()))


def visible_scores(runs: Iterable[StoredRun], model_id: str) -> list[VisibleParts]:
    """Return the score parts to show of one model.

    For each label of a shard the newest run that scored it counts, with the rows it did not store too: where the
    newer run found a score below its floor, an older row of that label stays hidden. Rows about bytes that the shard
    no longer has are not shown.
    """
    hidden = _HiddenLabels()
    chosen: list[tuple[_Visit, frozenset[str]]] = []
    for visits in _current(runs).values():
        of_model = [visit for visit in visits if visit.record.model_id == model_id]
        chosen += zip(of_model, hidden.of(tuple(visit.record for visit in of_model)), strict=True)
    return _grouped("scores", chosen)


def all_parts(runs: Iterable[StoredRun], kind: str) -> list[VisibleParts]:
    """Return every reported part of a kind (`samples`, `scores`), superseded ones too, one group for each run."""
    return _grouped(kind, ((visit, frozenset()) for visit in _visits(runs)))


def shown_labels(parts: Iterable[VisibleParts], runs: Iterable[StoredRun]) -> dict[str, set[str]]:
    """Return by dataset the labels of which these score parts may show rows."""
    vocabularies = {run.record.run_id: _label_ids(run.record) for run in runs}
    shown: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        shown[part.dataset] |= vocabularies[part.run_id] - part.hidden
    return dict(shown)


class _HiddenLabels:
    """Remembers answers: most shards were visited by the same runs in the same order."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], list[frozenset[str]]] = {}

    def of(self, newest_first: tuple[RunRecord, ...]) -> list[frozenset[str]]:
        """Return for each run the labels that newer runs scored again."""
        key = tuple(record.run_id for record in newest_first)
        if key not in self._known:
            self._known[key] = list(_hidden_by_newer(newest_first))
        return self._known[key]


def _hidden_by_newer(newest_first: Iterable[RunRecord]) -> Iterable[frozenset[str]]:
    scored: frozenset[str] = frozenset()
    for record in newest_first:
        labels = _label_ids(record)
        yield labels & scored
        scored |= labels


def _label_ids(record: RunRecord) -> frozenset[str]:
    return frozenset(label.label_id for label in record.vocabulary)


def _visits(runs: Iterable[StoredRun]) -> Iterable[_Visit]:
    """Yield the reports that have rows: a shard that could not be read says nothing about its rows."""
    for run in runs:
        for report in run.reports:
            if "samples" in report.parts:
                yield _Visit(run.record, report)


def _current(runs: Iterable[StoredRun]) -> Mapping[tuple[str, str], list[_Visit]]:
    """Return for each shard the visits that saw its present bytes, those of the run asked for last first."""
    visits = list(_visits(runs))
    newest = {visit.shard: visit for visit in sorted(visits, key=lambda visit: visit.finished)}
    by_shard: dict[tuple[str, str], list[_Visit]] = defaultdict(list)
    for visit in sorted(visits, key=lambda visit: visit.asked, reverse=True):
        if visit.report.fingerprint == newest[visit.shard].report.fingerprint:
            by_shard[visit.shard].append(visit)
    return by_shard


def current_reports(runs: Iterable[StoredRun]) -> dict[tuple[str, str], ShardReport]:
    """Return by dataset and shard the newest report that has rows: what the store knows of the shard's bytes."""
    visits = sorted(_visits(runs), key=lambda visit: visit.finished)
    return {visit.shard: visit.report for visit in visits}


def visible_labels(
    runs: Iterable[StoredRun], model_id: str, scorer: Scorer | None = None
) -> dict[tuple[str, str], Mapping[str, ScoredLabel]]:
    """Return by dataset and shard the labels that the views show of a model, as the run that counts scored them.

    Shards that the same runs visited share one mapping.

    Args:
        runs: all of a dataset, or of several.
        model_id: whose scores.
        scorer: of the labels those alone whose scores are its own; None: all.
    """
    shown: dict[tuple[str, str], Mapping[str, ScoredLabel]] = {}
    known: dict[tuple[str, ...], Mapping[str, ScoredLabel]] = {}
    for shard, visits in _current(runs).items():
        oldest_first = [visit.record for visit in reversed(visits) if visit.record.model_id == model_id]
        key = tuple(record.run_id for record in oldest_first)
        if key not in known:
            newest = {label.label_id: (record.scorer, label) for record in oldest_first for label in record.vocabulary}
            known[key] = {label_id: label for label_id, (by, label) in newest.items() if scorer in (None, by)}
        shown[shard] = known[key]
    return shown


def _grouped(kind: str, chosen: Iterable[tuple[_Visit, frozenset[str]]]) -> list[VisibleParts]:
    """Gather the part files that are shown alike, without those of which nothing is shown."""
    groups: dict[tuple[str, frozenset[str]], list[str]] = defaultdict(list)
    records: dict[str, RunRecord] = {}
    for visit, hidden in chosen:
        part = visit.report.parts.get(kind)
        # A part has rows of some label: all of them are hidden only where any is.
        if part is None or part.rows == 0 or (hidden and len(hidden) == len(visit.record.vocabulary)):
            continue
        records[visit.record.run_id] = visit.record
        groups[visit.record.run_id, hidden].append(part.path)
    return [
        VisibleParts(
            dataset=records[run_id].dataset,
            run_id=run_id,
            model_id=records[run_id].model_id,
            scorer=records[run_id].scorer,
            hidden=hidden,
            paths=tuple(sorted(paths)),
        )
        for (run_id, hidden), paths in sorted(groups.items(), key=lambda item: (item[0][0], sorted(item[0][1])))
    ]
