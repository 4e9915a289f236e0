"""Groups of samples that are nearly the same, of a whole store: `duplicates/<encoder_id>.parquet`, one file.

It is of the embeddings of one encoder. Its metadata says what it was computed of, so that it can be told from what is
there now.

Shapes: N samples in the order of dataset, shard and ordinal; U different contents in the order of preference; E samples
in groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.curation import DuplicatesRecord
from schemas.digests import DIGEST_LENGTH, digest_of
from schemas.tables import DUPLICATES as SCHEMA
from storage.curation_paths import current_statistics, duplicates_path, statistics_path
from storage.embeddings import embedded_shards
from storage.files import Folder
from storage.parquet import read_parquet_of
from storage.parts import FACTS_KEY, features_path, write_part
from storage.query import run_query
from storage.runs import StoredRun

Rows = NDArray[np.int64]

# Preferred are most pixels, then most bytes, then the first by name.
_SAMPLES = """
WITH ranked AS (
    SELECT dataset, shard, sample, sha256, phash, row_number() OVER (
        ORDER BY width * height::BIGINT DESC, bytes DESC, dataset, shard, sample) - 1 AS place FROM quality
)
SELECT dataset, shard, sample, sha256, phash, place, min(place) OVER (PARTITION BY sha256) AS first FROM ranked
ORDER BY dataset, shard, sample
"""
_GROUPS = """
SELECT count(*) AS groups, count(*) FILTER (datasets > 1) AS across_datasets
FROM (SELECT count(DISTINCT dataset) AS datasets FROM duplicates GROUP BY group_id)
"""
_MEMBERS = "SELECT reason, count(*) AS samples FROM duplicates WHERE NOT representative GROUP BY ALL ORDER BY ALL"
_SHARDS = "SELECT dataset, shard, count(*) AS samples FROM quality GROUP BY ALL ORDER BY ALL"


@dataclass(frozen=True, kw_only=True)
class StoreSamples:
    """All samples of a store that are `ok`: N rows, and which of them have the same bytes."""

    table: pa.Table
    shards: dict[tuple[str, str], slice]  # by dataset and shard: rows

    @cached_property
    def ordinals_N(self) -> Rows:
        """Ordinals in their shards, ascending in each."""
        return self._numbers("sample")

    @cached_property
    def rows_U(self) -> Rows:
        """The preferred sample of each content."""
        place_N = self._numbers("place")
        by_place = np.argsort(place_N)
        return np.asarray(by_place[self._numbers("first")[by_place] == np.arange(len(by_place))])

    @cached_property
    def contents_N(self) -> Rows:
        """The content of each sample."""
        return np.searchsorted(self._numbers("place")[self.rows_U], self._numbers("first"))

    @cached_property
    def hashes_N(self) -> NDArray[np.uint64]:
        """Perceptual hashes; 0 where there is none."""
        return np.asarray(self.table["phash"].fill_null(0).to_numpy(), np.uint64)

    @cached_property
    def has_hash_N(self) -> NDArray[np.bool_]:
        """Whether a sample has a perceptual hash."""
        return np.asarray(self.table["phash"].is_valid().to_numpy(), np.bool_)

    def _numbers(self, name: str) -> Rows:
        return np.asarray(self.table[name].to_numpy(), np.int64)


class Groups(NamedTuple):
    """Samples of groups of two or more, ascending."""

    rows_E: Rows  # of `StoreSamples`
    representatives_E: Rows  # rows too; a representative is its own
    reasons_E: list[str | None]  # None of representatives
    cosines_E: NDArray[np.float32]  # NaN where there is none


class GroupCounts(NamedTuple):
    """How many groups the view `duplicates` shows."""

    groups: int
    across_datasets: int  # of these, how many have samples of several datasets
    members: dict[str, int]  # samples that are not their group's representative, by reason


def count_samples(connection: duckdb.DuckDBPyConnection) -> int:
    """Return how many samples `read_samples` would, which takes far longer."""
    return int(run_query(connection, "SELECT count(*) AS samples FROM quality")["samples"][0].as_py())


def read_samples(connection: duckdb.DuckDBPyConnection) -> StoreSamples:
    """Return the samples that the views of an open catalog show."""
    table, counts = run_query(connection, _SAMPLES), run_query(connection, _SHARDS).to_pylist()
    ends = np.cumsum([row["samples"] for row in counts], dtype=np.int64).tolist()
    shards = {
        (row["dataset"], row["shard"]): slice(end - row["samples"], end) for row, end in zip(counts, ends, strict=True)
    }
    return StoreSamples(table=table, shards=shards)


def count_groups(connection: duckdb.DuckDBPyConnection) -> GroupCounts:
    """Return what an open catalog shows of groups."""
    (counts,), members = (run_query(connection, sql).to_pylist() for sql in (_GROUPS, _MEMBERS))
    return GroupCounts(**counts, members={row["reason"]: row["samples"] for row in members})


def state_digest(folder: Folder, runs: Sequence[StoredRun], encoder_id: str) -> str:
    """Return what changes when a shard, its embeddings by this encoder or its statistics do."""
    features, statistics = folder.sizes(f"features/{encoder_id}"), current_statistics(folder, runs)
    facts = [
        [
            shard.dataset,
            shard.shard,
            shard.fingerprint.model_dump(),
            features.get(features_path(encoder_id, shard.dataset, shard.shard)),
            statistics_path(shard.dataset, shard.shard, shard.fingerprint) in statistics,
        ]
        for shard in embedded_shards(runs)
    ]
    return digest_of(facts)


def read_duplicates_record(folder: Folder, encoder_id: str) -> DuplicatesRecord | None:
    """Return what the groups by an encoder were computed of; None where there are none that can be read.

    Groups can be computed again, so a damaged file counts as none and is replaced.
    """
    try:
        return parse_duplicates(folder.read_bytes(duplicates_path(encoder_id)))
    except (FileNotFoundError, pa.ArrowException, OSError, ValueError):
        return None


def parse_duplicates(data: bytes) -> DuplicatesRecord:
    """Return what a file of groups, all of it readable, says of itself.

    Raises:
        pa.ArrowException, OSError: it is no Parquet, or damaged.
        ValueError: it is of something else.
    """
    metadata = read_parquet_of(data, SCHEMA).schema.metadata or {}
    return DuplicatesRecord.model_validate_json(metadata.get(FACTS_KEY, b""))


def write_duplicates(folder: Folder, record: DuplicatesRecord, samples: StoreSamples, groups: Groups) -> None:
    """Write the groups atomically, in place of those that were there. Equal groups give equal bytes.

    Raises:
        StoreError: the store cannot be written.
    """
    chosen = samples.table.select(["dataset", "shard", "sample", "sha256"]).take(pa.array(groups.rows_E))
    # By the representative's bytes: a group keeps its name when shards are renamed or others are added.
    heads = [
        text[:DIGEST_LENGTH] for text in samples.table["sha256"].take(pa.array(groups.representatives_E)).to_pylist()
    ]
    columns = {
        **{name: chosen[name] for name in chosen.column_names},
        "group_id": heads,
        "representative": pa.array(groups.rows_E == groups.representatives_E),
        "reason": groups.reasons_E,
        "cosine": pa.array(groups.cosines_E, mask=np.isnan(groups.cosines_E)),
    }
    schema = SCHEMA.with_metadata({FACTS_KEY: record.model_dump_json().encode()})
    write_part(folder, duplicates_path(record.facts.encoder_id), pa.Table.from_pydict(columns, schema=schema))
