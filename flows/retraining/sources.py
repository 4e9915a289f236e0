"""The shards that retraining learns from and is judged by: every tagged shard of every dataset, as it was then.

Nothing is listed. A shard whose features are stored may even be gone; one that must be read is left out if it is gone
or has changed since it was tagged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flows.retraining.evidence import ShardKey
from flows.tagging.features import FeatureRequest
from flows.training.ground_truth import Source
from flows.training.plan import Dataset
from schemas.config import EncodeOptions
from schemas.errors import ConfigError, RunError, ShardError, one_of
from schemas.manifest import ShardReport
from schemas.sample import ShardStatus
from storage.annotations import Answers
from storage.files import Folder
from storage.parts import features_path
from storage.patterns import ShardList, ShardRef
from storage.runs import StoredRun, last_asked
from storage.shards import check_bytes
from storage.side_labels import read_side_labels
from storage.tokens import tokens_path
from storage.visibility import current_reports

_READERS = 16  # looking at a file of an object store is a round trip
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What of a shard is needed."""

    encoder_id: str
    tokens: bool
    pixels: bool = False


def annotated_reports(folder: Folder, runs: Sequence[StoredRun], answers: Answers) -> dict[ShardKey, ShardReport]:
    """Return the newest report of each tagged shard of which somebody may have said something."""
    reports = current_reports(runs)

    def annotated(key: ShardKey) -> bool:
        report = reports[key]
        said = read_side_labels(folder, key[0], report.shard, report.fingerprint)
        return said is not None and (bool(said.samples) or answers.speak_of(*key))

    with ThreadPoolExecutor(_READERS) as pool:
        return {key: reports[key] for key, found in zip(reports, pool.map(annotated, reports), strict=True) if found}


def usable(
    folder: Folder, reports: Mapping[ShardKey, ShardReport], needs: Needs
) -> tuple[dict[ShardKey, ShardReport], tuple[ShardKey, ...]]:
    """Return the shards whose features are stored or can be made, and those that are gone or have changed.

    Raises:
        RunError: a shard that is there cannot be read now.
    """
    kinds = ("features", *(("tokens",) if needs.tokens else ()))
    stored = {path for kind in kinds for path in folder.list(f"{kind}/{needs.encoder_id}", ".parquet")}

    def can_be_used(key: ShardKey) -> bool:
        needed = {features_path(needs.encoder_id, *key)}
        needed |= {tokens_path(needs.encoder_id, *key)} if needs.tokens else set()
        return (needed <= stored and not needs.pixels) or _is_there(reports[key])

    with ThreadPoolExecutor(_READERS) as pool:
        good = dict(zip(reports, pool.map(can_be_used, reports), strict=True))
    return {key: reports[key] for key in reports if good[key]}, tuple(sorted(key for key in reports if not good[key]))


def _is_there(report: ShardReport) -> bool:
    try:
        check_bytes(report.url, report.fingerprint)
    except ShardError as error:
        if error.status is ShardStatus.UNREADABLE:
            raise RunError(f"{error}; run the same command again when it can be read") from error
        return False
    return True


def datasets_of(runs: Sequence[StoredRun], reports: Mapping[ShardKey, ShardReport]) -> tuple[Dataset, ...]:
    """Return the shards as datasets to learn from, under the patterns and limits that they were tagged with."""
    return tuple(_dataset(name, runs, reports) for name in sorted({dataset for dataset, _ in reports}))


def _dataset(name: str, runs: Sequence[StoredRun], reports: Mapping[ShardKey, ShardReport]) -> Dataset:
    records = [run.record for run in _runs_of(runs, name)]
    patterns = sorted({pattern for record in records for pattern in record.patterns})
    return Dataset(
        name=name,
        found=ShardList(root=records[-1].root, patterns=tuple(patterns), shards=_refs(reports, name)),
        remembered=True,
        max_pixels=records[-1].max_pixels,
    )


def sources_of(datasets: Sequence[Dataset], store: str, options: EncodeOptions, needs: Needs) -> tuple[Source, ...]:
    """Return the shards with the features that are needed of them. What is made is kept, but for patch tokens."""
    return tuple(
        Source(wanted=_wanted(each.name, each.max_pixels, store, options, needs), shards=each.found.shards)
        for each in datasets
    )


@dataclass(frozen=True, kw_only=True)
class Canary:
    """The shard whose tags are compared."""

    dataset: str
    ref: ShardRef
    max_pixels: int

    @property
    def name(self) -> str:
        """Dataset and shard."""
        return f"{self.dataset}/{self.ref.shard}"

    def wanted(self, store: str, options: EncodeOptions, needs: Needs) -> FeatureRequest:
        """Return which features of it are needed."""
        return _wanted(self.dataset, self.max_pixels, store, options, needs)


def find_canary(runs: Sequence[StoredRun], wanted: str | None) -> Canary | None:
    """Return the shard to compare tags on: the one named, else the first of the dataset with the most images.

    Args:
        runs: all runs of the store.
        wanted: a shard's id, `DATASET/SHARD`, or its URL.

    Returns:
        None in a store without tagged images.

    Raises:
        ConfigError: no tagged shard is named so.
    """
    reports = {key: report for key, report in current_reports(runs).items() if report.num_ok}
    if wanted is not None:
        named = sorted(key for key, report in reports.items() if wanted in (key[1], "/".join(key), report.url))
        if not named:
            known = [*("/".join(key) for key in sorted(reports)[:_NAMED]), *["..."] * (len(reports) > _NAMED)]
            raise ConfigError(f"[retraining] canary: {one_of('tagged shard', wanted, known)}")
        chosen = named[0]
    else:
        images: dict[str, int] = {}
        for (dataset, _), report in reports.items():
            images[dataset] = images.get(dataset, 0) + report.num_ok
        if not images:
            return None
        largest = min(images, key=lambda dataset: (-images[dataset], dataset))
        chosen = min(key for key in reports if key[0] == largest)
    (ref,) = _refs({chosen: reports[chosen]}, chosen[0])
    return Canary(dataset=chosen[0], ref=ref, max_pixels=_runs_of(runs, chosen[0])[-1].record.max_pixels)


def _wanted(dataset: str, max_pixels: int | None, store: str, options: EncodeOptions, needs: Needs) -> FeatureRequest:
    return FeatureRequest(
        store=store,
        dataset=dataset,
        encoder_id=needs.encoder_id,
        batch_size=options.batch_size,
        decode_threads=options.decode_threads,
        max_pixels=max_pixels or options.max_pixels,
        tokens=needs.tokens,
        remembered=True,
    )


def _refs(reports: Mapping[ShardKey, ShardReport], dataset: str) -> tuple[ShardRef, ...]:
    return tuple(_iter_refs(reports, dataset))


def _iter_refs(reports: Mapping[ShardKey, ShardReport], dataset: str) -> Iterator[ShardRef]:
    for key in sorted(reports):
        if key[0] == dataset:
            report = reports[key]
            yield ShardRef(shard=report.shard, url=report.url, fingerprint=report.fingerprint)


def _runs_of(runs: Sequence[StoredRun], dataset: str) -> list[StoredRun]:
    """Return a dataset's runs, the one asked for last at the end."""
    return sorted((run for run in runs if run.record.dataset == dataset), key=last_asked)
