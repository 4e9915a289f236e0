"""Visible parts against an oracle that looks at every single row."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from schemas.checkpoint import Scorer
from schemas.manifest import Fingerprint, Part, RunRecord, ShardReport
from schemas.sample import SampleStatus, ShardStatus
from schemas.taxonomy import ScoredLabel
from storage.runs import StoredRun
from storage.visibility import VisibleParts, all_parts, shown_labels, visible_labels, visible_samples, visible_scores

LABELS = ("ant", "bee", "cat")
SHARDS = ("00000", "a/00001")
SCORERS: tuple[Scorer, ...] = ("clip", "fused")
Row = tuple[str, str, str, str]  # dataset, shard, label, run


START = datetime(2026, 1, 1, tzinfo=UTC)


def _run(
    run_id: str,
    dataset: str,
    model_id: str,
    labels: Iterable[str],
    reports: Iterable[ShardReport],
    *,
    asked_minute: int = 0,
    scorer: Scorer = "clip",
) -> StoredRun:
    record = RunRecord(
        run_id=run_id,
        dataset=dataset,
        root="r",
        patterns=("p",),
        model_id=model_id,
        encoder_id="e",
        scorer=scorer,
        taxonomy_digest="t",
        vocabulary=tuple(ScoredLabel(label_id=label, name=label, query_digest=run_id) for label in labels),
        floor=0.0,
        top_k=1,
        max_pixels=1,
        calibration="none",
        created_at=START,
        asked_at=START + timedelta(minutes=asked_minute),
        versions={},
    )
    return StoredRun(record=record, reports=tuple(reports), manifest=None)


def _report(run_id: str, shard: str, minute: int, tag: str, *, rows: bool = True) -> ShardReport:
    at = START + timedelta(minutes=minute)
    kinds = ("samples", "scores") if rows else ()
    return ShardReport(
        run_id=run_id,
        shard=shard,
        url=shard,
        fingerprint=Fingerprint(size=1, tag=tag),
        status=ShardStatus.OK if rows else ShardStatus.MISSING,
        statuses={SampleStatus.OK: 1},
        members={},
        decoded=1,
        parts={kind: Part(path=f"{run_id}/{kind}/{shard}", rows=1, bytes=1, sha256="") for kind in kinds},
        seconds={},
        started_at=at,
        finished_at=at,
    )


@st.composite
def histories(draw: st.DrawFn) -> list[StoredRun]:
    """Runs over two shards and three labels, in any order, some over changed bytes, some without rows."""
    runs = []
    for number in range(draw(st.integers(0, 5))):
        run_id = f"run{number}"
        reports = [
            _report(
                run_id, shard, draw(st.integers(0, 3)), draw(st.sampled_from("xy")), rows=draw(st.integers(0, 9)) > 0
            )
            for shard in SHARDS
            if draw(st.booleans())
        ]
        labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, unique=True))
        dataset, model_id = draw(st.sampled_from("AB")), draw(st.sampled_from(("m1", "m2")))
        asked_minute, scorer = draw(st.integers(0, 3)), draw(st.sampled_from(SCORERS))
        runs.append(_run(run_id, dataset, model_id, labels, reports, asked_minute=asked_minute, scorer=scorer))
    return runs


def _oracle(runs: list[StoredRun], model_id: str) -> set[Row]:
    """Decide on each label of each shard by itself, straight from the rule."""
    visits = [(run.record, report) for run in runs for report in run.reports if report.parts]
    rows: set[Row] = set()
    for dataset in "AB":
        for shard in SHARDS:
            here = [v for v in visits if v[0].dataset == dataset and v[1].shard == shard]
            if not here:
                continue
            bytes_now = max(here, key=lambda v: (v[1].finished_at, v[0].run_id))[1].fingerprint
            here.sort(key=lambda v: (v[0].asked_at, v[0].run_id))
            for label in LABELS:
                scored = [
                    record.run_id
                    for record, report in here
                    if record.model_id == model_id
                    and report.fingerprint == bytes_now
                    and label in {entry.label_id for entry in record.vocabulary}
                ]
                if scored:
                    rows.add((dataset, shard, label, scored[-1]))
    return rows


def _shown(parts: Iterable[VisibleParts], runs: list[StoredRun]) -> list[Row]:
    """Return what reading these parts would give, one row for each label."""
    vocabularies = {run.record.run_id: {label.label_id for label in run.record.vocabulary} for run in runs}
    return [
        (part.dataset, path.split("/", 2)[2], label, part.run_id)
        for part in parts
        for path in part.paths
        for label in vocabularies[part.run_id] - part.hidden
    ]


@given(histories(), st.sampled_from(("m1", "m2")))
def test_scores_equal_the_rule_applied_row_by_row(runs: list[StoredRun], model_id: str) -> None:
    parts = visible_scores(runs, model_id)
    shown = _shown(parts, runs)
    assert len(shown) == len(set(shown)), "no row is shown twice"
    assert set(shown) == _oracle(runs, model_id)
    assert all(part.model_id == model_id and part.paths for part in parts)
    labels = {(dataset, label) for dataset, _, label, _ in shown}
    assert {(d, label) for d, found in shown_labels(parts, runs).items() for label in found} == labels


@given(histories())
def test_samples_are_of_the_newest_bytes_of_each_shard(runs: list[StoredRun]) -> None:
    visits = [(run.record, report) for run in runs for report in run.reports if report.parts]
    bytes_now: dict[tuple[str, str], Fingerprint] = {}
    for record, report in sorted(visits, key=lambda v: (v[1].finished_at, v[0].run_id)):
        bytes_now[record.dataset, report.shard] = report.fingerprint
    newest: dict[tuple[str, str], str] = {}
    for record, report in sorted(visits, key=lambda v: (v[0].asked_at, v[0].run_id)):
        if bytes_now[record.dataset, report.shard] == report.fingerprint:
            newest[record.dataset, report.shard] = record.run_id
    parts = visible_samples(runs)
    shown = {(p.dataset, path.split("/", 2)[2]): p.run_id for p in parts for path in p.paths}
    assert shown == newest
    assert sum(len(part.paths) for part in parts) == len(newest)


@given(histories(), st.sampled_from(("m1", "m2")), st.sampled_from((None, *SCORERS)))
def test_visible_labels_name_the_run_whose_rows_are_shown(
    runs: list[StoredRun], model_id: str, scorer: Scorer | None
) -> None:
    labels = visible_labels(runs, model_id, scorer)
    by = {run.record.run_id: run.record.scorer for run in runs}
    shown = {
        (dataset, shard, label_id, label.query_digest)  # the digest is the run's id here
        for (dataset, shard), found in labels.items()
        for label_id, label in found.items()
    }
    assert shown == {row for row in _oracle(runs, model_id) if scorer in (None, by[row[3]])}


@given(histories())
def test_all_parts_are_all_reported_parts(runs: list[StoredRun]) -> None:
    reported = {part.path for run in runs for report in run.reports for part in report.parts.values()}
    shown = [path for kind in ("samples", "scores") for part in all_parts(runs, kind) for path in part.paths]
    assert len(shown) == len(set(shown))
    assert set(shown) == reported


def test_shards_that_are_shown_alike_make_one_group() -> None:
    shards = [f"{number:05d}" for number in range(200)]
    old = _run("old", "A", "m1", LABELS, [_report("old", shard, 0, "x") for shard in shards])
    new = _run("new", "A", "m1", LABELS[:1], [_report("new", shard, 1, "x") for shard in shards], asked_minute=1)
    groups = {(part.run_id, part.hidden): len(part.paths) for part in visible_scores([old, new], "m1")}
    assert groups == {("old", frozenset({"ant"})): 200, ("new", frozenset()): 200}


def test_a_run_that_was_scored_again_as_a_whole_is_left_out() -> None:
    old = _run("old", "A", "m1", LABELS[:2], [_report("old", "0", 0, "x")])
    new = _run("new", "A", "m1", LABELS, [_report("new", "0", 1, "x")], asked_minute=1)
    assert [part.run_id for part in visible_scores([old, new], "m1")] == ["new"]
