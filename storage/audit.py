"""Proof that nothing was lost: images in = ok + failed, for every shard of every run that the views show.

The shards are counted again and the parts read again; nothing is taken from the report but what is to be proven.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import ShardError, ShardPatternError, StoreError, one_of
from schemas.manifest import Part, Promotion, RunRecord, ShardReport
from schemas.sample import MemberCounts, SampleStatus, ShardStatus
from schemas.tables import SAMPLES, SCORES
from storage.catalog import check_store, shown_model
from storage.compacted import iter_unsound_compacted
from storage.files import Folder, checksum, fingerprint_of, iter_leftovers, transport_errors
from storage.findings import AuditReport, Finding, FindingCode, RunCounts
from storage.inventory import iter_missing, iter_unsound_ground_truth, read_sound_runs
from storage.keys import count_shared_keys
from storage.models import read_promotion
from storage.patterns import list_shards
from storage.runs import RUNS, StoredRun, last_asked, run_path
from storage.shards import count_members
from storage.visibility import visible_samples, visible_scores

_READERS = 8  # shards are read at once; most of the time goes to waiting for the store
_EXAMPLES = 5

# By URL, what `_read_shard` returned: the runs of a dataset are about the same shards, and each is read once.
_Counted = dict[str, tuple[int, ShardStatus, str]]


@dataclass(kw_only=True)
class _ShardAudit:
    """One shard's counts; `statuses` by ordinal, None while its rows cannot be trusted."""

    record: RunRecord
    report: ShardReport
    findings: list[Finding] = field(default_factory=list)
    statuses: NDArray[np.str_] | None = None
    images: int = 0
    scores: int = 0

    def find(self, code: FindingCode, message: str) -> None:
        """Note something that does not hold."""
        finding = Finding(code=code, run_id=self.record.run_id, shard=self.report.shard, message=message)
        self.findings.append(finding)

    @property
    def num_ok(self) -> int:
        """Rows that are `ok`."""
        return 0 if self.statuses is None else int((self.statuses == SampleStatus.OK).sum())

    @property
    def num_samples(self) -> int:
        """Rows."""
        return 0 if self.statuses is None else len(self.statuses)


def audit_run(folder: Folder, run_id: str | None = None) -> AuditReport:
    """Return what does not hold of a run, or with None of all runs that count now.

    Those are the runs of which the views show rows, and the newest of each dataset, which should be shown. Reads every
    part of these runs, and the tar headers of every shard once.

    Raises:
        StoreError: there is no store, it has no such run, or it cannot be read.
    """
    try:
        check_store(folder)
        runs, unreadable = read_sound_runs(folder)
        chosen = _chosen(folder, runs, run_id)
        prefix = RUNS if run_id is None else run_path(run_id, "")
        counted: _Counted = {}
        audited = [_audit(folder, run, counted, _tagged(runs, run)) for run in chosen]
        found = [*unreadable, *iter_missing(folder, chosen)] if runs or unreadable else [_no_run()]
        found += iter_unsound_ground_truth(folder)
        found += iter_unsound_compacted(folder, chosen)
        for _, findings in audited:
            found += findings
        return AuditReport(runs=tuple(counts for counts, _ in audited), findings=(*found, *_leftovers(folder, prefix)))
    except transport_errors() as error:
        raise StoreError(f"the store {folder.url!r} cannot be read: {error}") from error


def _chosen(folder: Folder, runs: Sequence[StoredRun], run_id: str | None) -> list[StoredRun]:
    if run_id is not None:
        chosen = [run for run in runs if run.record.run_id == run_id]
        if not chosen:
            raise StoreError(one_of("run", run_id, (run.record.run_id for run in runs)))
        return chosen
    model_id = shown_model(runs, _promotion(folder))
    shown = [*visible_samples(runs), *(visible_scores(runs, model_id) if model_id else ())]
    newest = {run.record.dataset: run.record.run_id for run in sorted(runs, key=last_asked)}
    current = {part.run_id for part in shown} | set(newest.values())
    return [run for run in runs if run.record.run_id in current]


def _promotion(folder: Folder) -> Promotion | None:
    """Return which model is promoted; a damaged record is a finding already, and then the newest run's is shown."""
    try:
        return read_promotion(folder)
    except StoreError:
        return None


def _tagged(runs: Sequence[StoredRun], run: StoredRun) -> set[str]:
    """Return the shards that need no rows in the run: they have them, or another run of the dataset stands for it.

    A partial run leaves shards out that have their labels from others, and others leave shards out that it did.
    """
    return {
        report.shard
        for other in runs
        if other is run or (other.record.dataset == run.record.dataset and (run.record.partial or other.record.partial))
        for report in other.reports
    }


def _audit(folder: Folder, run: StoredRun, counted: _Counted, tagged: Set[str]) -> tuple[RunCounts, list[Finding]]:
    with ThreadPoolExecutor(_READERS) as pool:
        audits = list(pool.map(lambda report: _audit_shard(folder, run.record, report, counted), run.reports))
    sound = [audit.report.parts["samples"] for audit in audits if audit.statuses is not None]
    counts = RunCounts(
        run_id=run.record.run_id,
        shards=len(audits),
        images=sum(audit.images for audit in audits),
        samples=sum(audit.num_samples for audit in audits),
        ok=sum(audit.num_ok for audit in audits),
        failed=sum(audit.num_samples - audit.num_ok for audit in audits),
        scores=sum(audit.scores for audit in audits),
        shared_keys=count_shared_keys(folder, sound),
    )
    return counts, [*_unfinished(run, tagged), *(finding for audit in audits for finding in audit.findings)]


def _no_run() -> Finding:
    return Finding(code=FindingCode.NO_RUN, run_id=None, message="the store has no run; `clipdecoder tag` makes one")


def _unfinished(run: StoredRun, tagged: Set[str]) -> Iterator[Finding]:
    """Yield what the run has not done: its manifest, and shards that its patterns name today and nobody tagged."""
    run_id, again = run.record.run_id, "the same `clipdecoder tag` command"
    if run.manifest is None and run.record.partial:
        message = "the run did not end; `clipdecoder backfill` goes on with it"
        yield Finding(code=FindingCode.INCOMPLETE, run_id=run_id, message=message)
    elif run.manifest is None:
        message = f"the run did not end; {again} goes on with it"
        yield Finding(code=FindingCode.INCOMPLETE, run_id=run_id, message=message)
    try:
        found = list_shards(run.record.patterns)
    except ShardPatternError as error:
        yield Finding(code=FindingCode.UNLISTABLE, run_id=run_id, message=str(error))
        return
    if found.root != run.record.root:  # relative patterns, and another working directory
        message = f"the patterns lead to {found.root} from here, and to {run.record.root} when the run was made"
        yield Finding(code=FindingCode.UNLISTABLE, run_id=run_id, message=message)
        return
    for ref in found.shards:
        if ref.shard not in tagged:
            message = f"{ref.url} has no rows{' in this run' * (not run.record.partial)}; {again} makes them"
            yield Finding(code=FindingCode.NO_REPORT, run_id=run_id, shard=ref.shard, message=message)


def _audit_shard(folder: Folder, record: RunRecord, report: ShardReport, counted: _Counted) -> _ShardAudit:
    audit = _ShardAudit(record=record, report=report)
    tables = {kind: _read_part(folder, kind, part, audit) for kind, part in report.parts.items()}
    samples, scores = tables.get("samples"), tables.get("scores")
    for kind in sorted({"samples", "scores"} - report.parts.keys()):
        audit.find(FindingCode.PART_MISSING, f"the report ({report.status}) names no {kind} part")
    if samples is not None:
        _check_samples(samples, audit)
    if scores is not None and audit.statuses is not None:
        _check_scores(scores, audit.statuses, audit)
    if _same_bytes(audit):
        _count_images(audit, counted)
    return audit


def _read_part(folder: Folder, kind: str, part: Part, audit: _ShardAudit) -> pa.Table | None:
    """Return a part's rows if it is there, whole, and what the report says it is."""
    try:
        data = folder.read_bytes(part.path)
    except FileNotFoundError:
        audit.find(FindingCode.PART_MISSING, f"{part.path} is not there; run the same `clipdecoder tag` command again")
        return None
    if len(data) != part.bytes or checksum(data) != part.sha256:
        audit.find(FindingCode.PART_CHANGED, f"{part.path} is not what was written; remove it, then tag again")
        return None
    schema = {"samples": SAMPLES, "scores": SCORES}.get(kind)
    try:
        table = pq.read_table(io.BytesIO(data), columns=schema.names if schema else None)
    except (pa.ArrowException, OSError) as error:
        audit.find(FindingCode.PART_UNREADABLE, f"{part.path}: {error}")
        return None
    lost = set(schema.names if schema else ()) - set(table.column_names)
    if lost:
        audit.find(FindingCode.PART_UNREADABLE, f"{part.path} lacks {', '.join(sorted(lost))}")
        return None
    if table.num_rows != part.rows:
        audit.find(FindingCode.ROWS, f"{part.path} has {table.num_rows} rows, and the report says {part.rows}")
    return table


def _check_samples(table: pa.Table, audit: _ShardAudit) -> None:
    """One row per ordinal from 0 without a gap, of this shard, with the statuses that the report counts."""
    ordinals = table["sample"].to_numpy()
    if not np.array_equal(ordinals, np.arange(table.num_rows)):
        audit.find(FindingCode.ROWS, f"the sample numbers are not 0 to {table.num_rows - 1}, each once and in order")
        return
    if table.num_rows and pc.unique(table["shard"]).to_pylist() != [audit.report.shard]:
        audit.find(FindingCode.ROWS, "rows of another shard stand in the samples part")
    counted = Counter(table["status"].to_pylist())
    if counted != Counter({str(status): n for status, n in audit.report.statuses.items() if n}):
        stated = {str(status): n for status, n in audit.report.statuses.items()}
        audit.find(FindingCode.ROWS, f"the rows' statuses are {dict(counted)}, and the report says {stated}")
    audit.statuses = np.array(table["status"].to_pylist(), dtype=np.str_)


def _check_scores(table: pa.Table, statuses: NDArray[np.str_], audit: _ShardAudit) -> None:
    """Every ok sample has its scores, each label once; nothing else has any."""
    sample = table["sample"].to_numpy()
    labels = table["label_id"].combine_chunks().cast(pa.string()).dictionary_encode()
    audit.scores = table.num_rows
    vocabulary = {label.label_id for label in audit.record.vocabulary}
    unknown = set(labels.dictionary.to_pylist()) - vocabulary
    if unknown:
        audit.find(FindingCode.SCORES, f"scores of labels that the run did not score: {_some(sorted(unknown))}")
    if table.num_rows and pc.unique(table["shard"].cast(pa.string())).to_pylist() != [audit.report.shard]:
        audit.find(FindingCode.SCORES, "rows of another shard stand in the scores part")
    is_ok = statuses == SampleStatus.OK
    inside = (sample >= 0) & (sample < len(statuses))
    stray = ~inside
    stray[inside] = ~is_ok[sample[inside]]
    if stray.any():
        audit.find(FindingCode.SCORES, f"scores of samples that are not ok: {_some(np.unique(sample[stray]).tolist())}")
    cells = sample.astype(np.int64) * max(len(labels.dictionary), 1) + labels.indices.to_numpy()
    if len(np.unique(cells)) != len(cells):
        audit.find(FindingCode.SCORES, "a sample has two scores of one label")
    fewest = min(audit.record.top_k, len(vocabulary))
    short = np.flatnonzero(is_ok & (np.bincount(sample[inside], minlength=len(statuses)) < fewest))
    if len(short):
        audit.find(FindingCode.SCORES, f"fewer than {fewest} scores of samples {_some(short.tolist())}")


def _same_bytes(audit: _ShardAudit) -> bool:
    """Whether the shard is there with the bytes that were scored."""
    report = audit.report
    try:
        fs, path = fsspec.core.url_to_fs(report.url)
        fs.invalidate_cache()
        now = fingerprint_of(fs.info(path))
    except FileNotFoundError:
        audit.find(FindingCode.SHARD_GONE, f"{report.url} is not there any more; its rows cannot be compared with it")
        return False
    except transport_errors() as error:
        audit.find(FindingCode.SHARD_UNREADABLE, f"{report.url}: {error}; check permissions and network")
        return False
    if now != report.fingerprint:
        message = f"{report.url} has changed since it was tagged; the same `clipdecoder tag` command tags it again"
        audit.find(FindingCode.SHARD_CHANGED, message)
    return now == report.fingerprint


def _count_images(audit: _ShardAudit, counted: _Counted) -> None:
    """The shard ends as the report says, and has as many images as there are rows."""
    report = audit.report
    if report.url not in counted:
        counted[report.url] = _read_shard(report.url)
    images, status, reason = counted[report.url]
    audit.images = images
    if report.status is ShardStatus.TRUNCATED:
        audit.find(FindingCode.SHARD_CUT, f"{report.error}; what stood behind the cut is not known")
    if status != report.status:
        message = f"{report.url} is {status} when read again, and the report says {report.status}{reason}"
        audit.find(FindingCode.SHARD_UNREADABLE, message)
    elif audit.statuses is not None and images != audit.num_samples:
        message = f"{report.url} has {images} images, and there are {audit.num_samples} rows"
        audit.find(FindingCode.IMAGES, message)


def _read_shard(url: str) -> tuple[int, ShardStatus, str]:
    """Return how many images a shard has, and how reading it ended and why."""
    counts = MemberCounts()
    try:
        count_members(url, counts)
    except ShardError as error:
        return counts.images, error.status, f": {error}"
    return counts.images, ShardStatus.OK, ""


def _leftovers(folder: Folder, prefix: str) -> Iterator[Finding]:
    """Yield the temporary files of runs that were killed. (Those of a run that goes on now look the same.)"""
    for path in iter_leftovers(folder, prefix):
        run_id = path.split("/")[1]
        message = f"{path} was left by a process that was killed; it is in nobody's way and may be removed"
        yield Finding(code=FindingCode.LEFTOVER, run_id=run_id, message=message)


def _some(values: Sequence[object]) -> str:
    """Return the first few values, and how many there are."""
    more = f" and {len(values) - _EXAMPLES} more" if len(values) > _EXAMPLES else ""
    return ", ".join(map(str, values[:_EXAMPLES])) + more
