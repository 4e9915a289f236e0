"""`quality`: cheap statistics of the pictures of tagged shards, each shard read once and kept. Imports no model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import compress

from clipdecoder.curation.image_statistics import image_statistics
from clipdecoder.pipes import Crew, Latch, Pipe
from schemas.curation import BLURRED, BRIGHT, DARK, QualityOverview, QualityRequest, QualitySummary, ShardFailure
from schemas.errors import SampleError, ShardError, StoreError, one_of
from schemas.sample import MemberCounts, SampleStatus, ShardStatus
from storage.catalog import check_store, open_catalog
from storage.curation_paths import shard_of, statistics_by_shard, statistics_path
from storage.embeddings import EmbeddedShard, embedded_shards
from storage.files import Folder
from storage.quality import StatisticsRow, is_damaged, write_statistics
from storage.query import run_query
from storage.runs import read_runs
from storage.shards import check_bytes, iter_samples

Watch = Callable[[int, int], None]  # shards done, of how many

_READ_AHEAD_BYTES = 64 * 2**20
_SHARDS_AHEAD = 2  # whose rows are in memory
_READERS = 8  # files of statistics are read at once

_OVERVIEW = f"""
SELECT count(*) AS pictures, count(sharpness) AS measured, count(*) FILTER (sharpness < {BLURRED}) AS blurred,
    count(*) FILTER (brightness < {DARK}) AS dark, count(*) FILTER (brightness > {BRIGHT}) AS bright,
    count(*) FILTER (sharpness IS NOT NULL AND phash IS NULL) AS flat
FROM quality WHERE dataset = $dataset OR $dataset IS NULL
"""


@dataclass(eq=False)
class _Measuring:
    """One shard while its pictures are measured, by several threads."""

    shard: EmbeddedShard
    pending: Latch
    rows: list[StatisticsRow] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # ordinals of pictures that could not be measured
    failure: ShardError | None = None


@dataclass
class _Tally:
    """What was done so far."""

    shards: int = 0
    pictures: int = 0
    refused: int = 0
    failures: list[ShardFailure] = field(default_factory=list)

    def add(self, measured: _Measuring) -> None:
        """Count a shard."""
        if measured.failure is not None:
            reason = f"{measured.failure.status}: {measured.failure}"
            shard = measured.shard
            self.failures.append(ShardFailure(dataset=shard.dataset, shard=shard.shard, reason=reason))
            return
        self.shards += 1
        self.pictures += len(measured.rows)
        self.refused += len(measured.refused)


def run_quality(request: QualityRequest, watch: Watch = lambda done, total: None) -> QualitySummary:
    """Measure the pictures of all shards that were not measured since they changed, or whose statistics are damaged.

    The same request goes on after a kill, and ends with the same files.

    Raises:
        StoreError: there is no store, no run in it, or no such dataset; or it cannot be written.
    """
    folder = Folder(request.store)
    check_store(folder)
    runs = read_runs(folder)
    shards = _shards(embedded_shards(runs), request.dataset)
    damaged = _remove_damaged(folder, embedded_shards(runs))
    stored = statistics_by_shard(folder)
    todo = [each for each in shards if _path(each) not in stored.get(shard_of(_path(each)), ())]
    tally = _Tally()
    with Crew() as crew:
        for measured in _measure(crew, todo, request):
            _finish(folder, measured, stored)
            tally.add(measured)
            watch(tally.shards + len(tally.failures), len(todo))
    return QualitySummary(
        shards=tally.shards,
        kept=len(shards) - len(todo),
        pictures=tally.pictures,
        refused=tally.refused,
        damaged=damaged,
        failures=tuple(tally.failures),
        overview=_overview(folder, request.dataset),
    )


def _shards(shards: Sequence[EmbeddedShard], dataset: str | None) -> list[EmbeddedShard]:
    if not shards:
        raise StoreError("the store has no tagged shard; `clipdecoder tag` tags some")
    datasets = {each.dataset for each in shards}
    if dataset is not None and dataset not in datasets:
        raise StoreError(one_of("dataset", dataset, datasets))
    return [each for each in shards if dataset in (None, each.dataset)]


def _remove_damaged(folder: Folder, shards: Sequence[EmbeddedShard]) -> int:
    """Remove statistics that cannot be read, and return of how many shards. None are better: the view shows nulls."""
    with ThreadPoolExecutor(_READERS) as pool:
        damaged = list(pool.map(lambda shard: is_damaged(folder, _path(shard), shard.shard), shards))
    for shard in compress(shards, damaged):
        folder.remove(_path(shard))
    return sum(damaged)


def _overview(folder: Folder, dataset: str | None) -> QualityOverview:
    with open_catalog(folder) as connection:
        (row,) = run_query(connection, _OVERVIEW, {"dataset": dataset}).to_pylist()
    return QualityOverview(**row)


def _path(shard: EmbeddedShard) -> str:
    return statistics_path(shard.dataset, shard.shard, shard.fingerprint)


def _finish(folder: Folder, measured: _Measuring, stored: Mapping[str, Sequence[str]]) -> None:
    """Keep what was measured of a shard; of one that could not be read, nothing."""
    path = _path(measured.shard)
    if measured.failure is None:
        write_statistics(folder, path, measured.shard.shard, measured.rows, stored.get(shard_of(path), ()))


def _measure(crew: Crew, shards: Sequence[EmbeddedShard], request: QualityRequest) -> Iterator[_Measuring]:
    """Yield each shard when all its pictures are measured; one thread reads ahead, others decode."""
    begun: Pipe[_Measuring] = crew.pipe(_SHARDS_AHEAD)
    files: Pipe[tuple[_Measuring, int, bytes]] = crew.pipe(_READ_AHEAD_BYTES)

    def read() -> None:
        for shard in shards:
            measuring = _Measuring(shard, crew.latch())
            begun.put(measuring)
            _read(measuring, files)
        files.close()
        begun.close()

    def decode() -> None:
        for measuring, sample, data in files:
            _decode(measuring, sample, data, request.max_pixels)

    crew.start("read", read)
    for _ in range(request.decode_threads or os.cpu_count() or 1):
        crew.start("decode", decode)
    for measuring in begun:
        measuring.pending.wait()
        yield measuring


def _read(measuring: _Measuring, files: Pipe[tuple[_Measuring, int, bytes]]) -> None:
    """Hand on the pictures of a shard that has the bytes that were tagged, before they are read and afterwards."""
    shard = measuring.shard
    try:
        check_bytes(shard.url, shard.fingerprint)
        _hand_on(measuring, files)
        check_bytes(shard.url, shard.fingerprint)
    except ShardError as error:
        measuring.failure = error
    measuring.pending.close()


def _hand_on(measuring: _Measuring, files: Pipe[tuple[_Measuring, int, bytes]]) -> None:
    try:
        for sample in iter_samples(measuring.shard.url, MemberCounts()):
            if sample.status is SampleStatus.OK:
                measuring.pending.begin()
                files.put((measuring, sample.sample, sample.data), sample.num_bytes)
    except ShardError as error:
        if error.status is not ShardStatus.TRUNCATED:  # a shard that is cut has what stands before the cut, as in a run
            raise


def _decode(measuring: _Measuring, sample: int, data: bytes, max_pixels: int) -> None:
    try:
        found = image_statistics(data, max_pixels=max_pixels)
    except SampleError:  # its row in `samples` says why, unless the limit is another one here
        measuring.refused.append(sample)
    else:
        row = StatisticsRow(
            sample=sample,
            phash=found.phash,
            brightness=found.brightness,
            contrast=found.contrast,
            sharpness=found.sharpness,
        )
        measuring.rows.append(row)
    measuring.pending.done()
