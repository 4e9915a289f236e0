"""One shard of one run, counted again: its parts are whole and say what the report says, and every image has a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import ShardError
from schemas.manifest import Part, RunRecord, ShardReport
from schemas.sample import MemberCounts, SampleStatus, ShardStatus
from schemas.tables import SAMPLES, SCORES
from storage.files import Folder, checksum, fingerprint_of, transport_errors
from storage.findings import Finding, FindingCode
from storage.parquet import read_parquet
from storage.shards import count_members
from storage.urls import open_file_system

_EXAMPLES = 5

# By URL, what `_read_shard` returned: the runs of a dataset are about the same shards, and each is read once.
Counted = dict[str, tuple[int, ShardStatus, str]]


@dataclass(kw_only=True)
class ShardAudit:
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


def audit_shard(folder: Folder, record: RunRecord, report: ShardReport, counted: Counted) -> ShardAudit:
    """Compare a shard, its parts and its report; `counted` is what is known of shards already, and learns this one."""
    audit = ShardAudit(record=record, report=report)
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


def _read_part(folder: Folder, kind: str, part: Part, audit: ShardAudit) -> pa.Table | None:
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
        table = read_parquet(data, schema.names if schema else None)
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


def _check_samples(table: pa.Table, audit: ShardAudit) -> None:
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


def _check_scores(table: pa.Table, statuses: NDArray[np.str_], audit: ShardAudit) -> None:
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


def _same_bytes(audit: ShardAudit) -> bool:
    """Whether the shard is there with the bytes that were scored."""
    report = audit.report
    try:
        fs, path = open_file_system(report.url)
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


def _count_images(audit: ShardAudit, counted: Counted) -> None:
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


def _some(values: Sequence[object]) -> str:
    """Return the first few values, and how many there are."""
    more = f" and {len(values) - _EXAMPLES} more" if len(values) > _EXAMPLES else ""
    return ", ".join(map(str, values[:_EXAMPLES])) + more
