"""What the store knows of each label: positives and negatives over all datasets, from side files and answers.

No picture is read. Side files of shards that were tagged before side files were kept are read once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from flows.training.lesson import held_out
from flows.training.sample_truth import SampleTruth, TruthFinder
from schemas.digests import digest_of
from schemas.errors import RunError, ShardError
from schemas.manifest import ShardReport
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from schemas.taxonomy import Taxonomy
from schemas.training import Missing
from storage.annotations import Answers, read_answers
from storage.catalog import open_catalog
from storage.files import Folder
from storage.ground_truth import ShardLabels, read_labels
from storage.patterns import ShardRef
from storage.query import run_query
from storage.runs import StoredRun
from storage.shards import check_bytes
from storage.side_labels import read_side_labels, side_labels
from storage.visibility import current_reports

ShardKey = tuple[str, str]  # dataset, shard
_READERS = 16  # side labels are small files: on an object store the wait is the round trip
_GONE = frozenset((ShardStatus.MISSING, ShardStatus.CHANGED, ShardStatus.NOT_A_TAR))

# A dataset's name has no slash.
_ANNOTATED = """
SELECT dataset, shard, sample, key, bytes, sha256 FROM samples
WHERE status = 'ok' AND (
    dataset || '/' || shard IN (SELECT unnest($described::VARCHAR[])) OR key IN (SELECT unnest($answered::VARCHAR[])))
"""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The ground truth of a store, counted. A picture that stands in several places is one image."""

    positives: Mapping[str, int]  # by label: images that have it
    negatives: Mapping[str, int]  # by label: images that are known not to have it
    images: int  # of which something is known
    held_out: int  # of them, those that no retraining learns from
    digest: str  # of all of it: the state of the ground truth
    unread: tuple[ShardKey, ...]  # shards that are gone or changed, and whose side files nobody kept


def read_evidence(
    folder: Folder,
    runs: Sequence[StoredRun],
    taxonomy: Taxonomy,
    *,
    missing: Missing,
    held_out_share: float,
    keep: bool = True,
) -> Evidence:
    """Return what is known of a taxonomy's labels on every tagged shard of every dataset.

    Args:
        folder: the store.
        runs: all of its runs.
        taxonomy: what words and answers are understood by; it need not be in force.
        missing: what it means that a side file does not name a label.
        held_out_share: of the images, those that retraining leaves to the gates.
        keep: whether side files that are read now are kept in the store.

    Raises:
        RunError: a shard that is there cannot be read now.
        StoreError: the store cannot be read, or not be written.
    """
    said, unread = _side_labels(folder, current_reports(runs), keep=keep)
    finder = TruthFinder(taxonomy=taxonomy, answers=read_answers(folder))
    counts = _Counts()
    for dataset, row in _annotated_rows(folder, said, finder.answers):
        truth = finder.of(dataset, row.shard, row.sample, row.key, said[dataset, row.shard])
        if truth.annotated:
            counts.add(dataset, row, truth, held=held_out(row, held_out_share))
    return Evidence(
        positives=counts.positives,
        negatives=counts.negatives(finder.asked if missing == "negative" else {}),
        images=len(counts.images),
        held_out=len(counts.held_out),
        digest=counts.digest(finder.asked),
        unread=unread,
    )


@dataclass(kw_only=True)
class _Counts:
    """What has been counted so far."""

    # The content of a picture, and a label: copies of a picture are no further evidence.
    there: set[tuple[str, str]] = field(default_factory=set)
    absent: set[tuple[str, str]] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    held_out: set[str] = field(default_factory=set)
    described: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # images by dataset
    # Of the described images, those where silence is no answer to the label: it is there, somebody said no, or doubts.
    answered: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # by dataset and label
    facts: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def positives(self) -> Counter[str]:
        """The images that have each label."""
        return Counter(label_id for _, label_id in self.there)

    def add(self, dataset: str, row: SampleRow, truth: SampleTruth, *, held: bool) -> None:
        """Count one sample."""
        content = row.sha256 or row.key
        self.images.add(content)
        self.there.update((content, label_id) for label_id in truth.there)
        self.absent.update((content, label_id) for label_id in truth.absent)
        if held:
            self.held_out.add(content)
        if truth.described:
            self.described[dataset].add(content)
            for label_id in (*truth.there, *truth.absent, *truth.unsure):
                self.answered[dataset, label_id].add(content)
        known = (" ".join(sorted(labels)) for labels in (truth.there, truth.absent, truth.unsure))
        self.facts.append((dataset, content, *known, "described" if truth.described else ""))

    def negatives(self, asked: Mapping[str, set[str]]) -> Counter[str]:
        """Return the images without each label, given the labels of which silence is an answer, by dataset."""
        found = Counter(label_id for _, label_id in self.absent - self.there)
        for dataset, label_ids in asked.items():  # counted, as a set of all that nobody named would be enormous
            for label_id in label_ids:
                found[label_id] += len(self.described[dataset]) - len(self.answered[dataset, label_id])
        return found

    def digest(self, asked: Mapping[str, set[str]]) -> str:
        """Return the state of the ground truth: equal for equal pictures with equal answers, however they got here."""
        return digest_of([sorted(self.facts), {dataset: sorted(labels) for dataset, labels in asked.items()}])


def _side_labels(
    folder: Folder, reports: Mapping[ShardKey, ShardReport], *, keep: bool
) -> tuple[dict[ShardKey, ShardLabels], tuple[ShardKey, ...]]:
    """Return what the side files of each shard say, and the shards of which nobody can tell any more."""

    def read(shard: ShardKey) -> ShardLabels | None:
        return _labels_of(folder, shard[0], reports[shard], keep=keep)

    with ThreadPoolExecutor(_READERS) as pool:
        found = dict(zip(reports, pool.map(read, reports), strict=True))
    said = {shard: labels for shard, labels in found.items() if labels is not None}
    return said, tuple(sorted(found.keys() - said.keys()))


def _labels_of(folder: Folder, dataset: str, report: ShardReport, *, keep: bool) -> ShardLabels | None:
    """Return what the side files of a shard's known bytes say; None if nobody kept it and they are gone.

    Raises:
        RunError: the shard cannot be read now.
    """
    stored = read_side_labels(folder, dataset, report.shard, report.fingerprint)
    if stored is not None:
        return stored
    try:
        check_bytes(report.url, report.fingerprint)
        if not keep:
            return read_labels(report.url)
        return side_labels(
            folder, dataset, ShardRef(shard=report.shard, url=report.url, fingerprint=report.fingerprint)
        )
    except ShardError as error:
        if error.status in _GONE:
            return None
        raise RunError(f"{error}; run the same command again when it can be read") from error


def _annotated_rows(
    folder: Folder, said: Mapping[ShardKey, ShardLabels], answers: Answers
) -> Iterator[tuple[str, SampleRow]]:
    """Yield dataset and row of the good samples that side files or answers may speak of."""
    described = sorted("/".join(shard) for shard, labels in said.items() if labels.samples)
    answered = answers.keys(said)
    if not described and not answered:
        return
    with open_catalog(folder) as connection:
        table = run_query(connection, _ANNOTATED, {"described": described, "answered": sorted(answered)})
    columns = table.to_pydict()
    for dataset, shard, *rest in zip(*(columns[name] for name in table.column_names), strict=True):
        if (dataset, shard) in said:
            yield dataset, _row(shard, *rest)


def _row(shard: str, sample: int, key: str, num_bytes: int, sha256: str | None) -> SampleRow:
    return SampleRow(
        key=key,
        shard=shard,
        sample=sample,
        status=SampleStatus.OK,
        error=None,
        width=None,
        height=None,
        bytes=num_bytes,
        sha256=sha256,
    )
