"""The Parquet parts of a shard: sample rows and features, written whole. Its scores: score_parts.py; tokens: tokens.py.

Shapes: N samples, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.manifest import Fingerprint, Part, ShardFacts
from schemas.sample import SampleRow
from schemas.tables import SAMPLES, features_schema
from storage.files import Folder, checksum, part_name
from storage.parquet import read_parquet
from storage.sample_rows import StoredRows, are_ok, ok_samples, sample_table
from storage.vectors import vector_column, vector_width, vectors_of

ROW_GROUP_ROWS = 122_880  # DuckDB's own size: a row group is what it skips and what it hands to a thread
# Columns that repeat a few values. For the others a dictionary costs time and no file is smaller for it.
_REPEATED = ("shard", "status", "error", "width", "height")
# Embeddings are as good as random: compressed they lose 8 % of their size, and reading them takes six times as long.
_COMPRESSION = {name: "zstd" for name in SAMPLES.names} | {"embedding": "none"}
_LEVELS = dict.fromkeys(SAMPLES.names, 3)
# Rows of samples: numbers that count up cost nothing this way, and keys half the time to read.
SAMPLE_ENCODING: dict[str, Any] = {
    "use_dictionary": _REPEATED,
    "column_encoding": {
        "sample": "DELTA_BINARY_PACKED",
        "bytes": "DELTA_BINARY_PACKED",
        "key": "DELTA_LENGTH_BYTE_ARRAY",
    },
}
# The same in large files, which only queries read. LZ4 is undone in a fraction of the time of zstd, for some 4 bytes a
# key, and of short pages those stay packed that hold no row that is wanted.
LARGE_SAMPLE_ENCODING: dict[str, Any] = SAMPLE_ENCODING | {
    "compression": _COMPRESSION | {"key": "lz4"},
    "compression_level": {name: level for name, level in _LEVELS.items() if name != "key"},
    "max_rows_per_page": 4096,
}
FACTS_KEY = b"clipdecoder"  # in the metadata of features and tokens: ShardFacts as JSON
_ROWS_KEY = b"rows"  # how many there are: nothing else tells a footer that lost some


@dataclass(frozen=True, kw_only=True)
class ShardFeatures:
    """What is known of a shard before it is scored: what reading found, its rows, embeddings of the good ones."""

    facts: ShardFacts
    rows: Sequence[SampleRow]
    embeddings_ND: NDArray[np.float16]  # one row per `ok` sample, in order
    tokens_NTC: NDArray[np.float16] | None = None  # of the same samples, where somebody asked for them

    @property
    def ok_samples(self) -> NDArray[np.int32]:
        """Ordinals of the samples that have an embedding, in order: (N,)."""
        return ok_samples(self.rows)


def features_path(encoder_id: str, dataset: str, shard: str) -> str:
    """Return where a shard's features stand: below the dataset, since two datasets may both have a shard 00000."""
    return f"features/{encoder_id}/{dataset}/{part_name(shard)}.parquet"


def write_samples(folder: Folder, path: str, rows: Sequence[SampleRow]) -> Part:
    """Write a shard's sample rows, in shard order."""
    return write_part(folder, path, sample_table(rows), **SAMPLE_ENCODING)


def count_image_bytes(folder: Folder, part: Part) -> int:
    """Return the bytes of all image files of which a part of sample rows tells."""
    table = read_parquet(folder.read_bytes(part.path), ["bytes"])
    return sum(table["bytes"].to_pylist())


def write_features(folder: Folder, path: str, features: ShardFeatures) -> Part:
    """Write a shard's features: every sample row, with its embedding or null."""
    width = features.embeddings_ND.shape[1]
    metadata = {FACTS_KEY: features.facts.model_dump_json().encode(), _ROWS_KEY: str(len(features.rows)).encode()}
    schema = features_schema(width).with_metadata(metadata)
    options = {"use_dictionary": _REPEATED, "compression": _COMPRESSION, "compression_level": _LEVELS}
    columns = [*sample_table(features.rows).columns, _embedding_column(features)]
    return write_part(folder, path, pa.Table.from_arrays(columns, schema=schema), **options)


def _embedding_column(features: ShardFeatures) -> pa.Array:
    """Return one cell of bytes for each row, null where the sample failed."""
    is_ok_N = are_ok(features.rows)
    dense_ND = features.embeddings_ND
    if not is_ok_N.all():
        dense_ND = np.zeros((len(is_ok_N), features.embeddings_ND.shape[1]), np.float16)
        dense_ND[is_ok_N] = features.embeddings_ND
    return vector_column(dense_ND, None if is_ok_N.all() else is_ok_N)


def facts_of(schema: pa.Schema) -> ShardFacts:
    """Return what a feature file says of its shard.

    Raises:
        ValueError: it says nothing that is understood.
    """
    return ShardFacts.model_validate_json((schema.metadata or {}).get(FACTS_KEY, b""))


def read_features(folder: Folder, path: str, fingerprint: Fingerprint, max_pixels: int) -> ShardFeatures | None:
    """Return stored features if they are of these bytes under these limits; None if there are none such.

    Features can always be made again, so a damaged file counts as none and is replaced, and so does one of a version
    that laid them out otherwise.
    """
    try:
        return _parse_features(folder.read_bytes(path), fingerprint, max_pixels)
    except (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _parse_features(data: bytes, fingerprint: Fingerprint, max_pixels: int) -> ShardFeatures | None:
    # Without threads of Arrow's own: the caller reads beside other work already, and they took a third more.
    table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
    facts = facts_of(table.schema)
    if facts.fingerprint != fingerprint or facts.max_pixels != max_pixels:
        return None
    width = vector_width(table.schema.field("embedding").type)
    if not table.schema.equals(features_schema(width)):
        return None
    if table.schema.metadata.get(_ROWS_KEY) != str(table.num_rows).encode():
        return None
    embeddings_ND, _ = vectors_of(table["embedding"].combine_chunks())
    return ShardFeatures(facts=facts, rows=StoredRows(table), embeddings_ND=embeddings_ND)


def write_part(folder: Folder, path: str, table: pa.Table, **options: Any) -> Part:
    """Write a table atomically. Equal tables give equal bytes, so a repeated run does not change a file."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        write_page_checksum=True,
        **{"row_group_size": ROW_GROUP_ROWS, "compression": "zstd", "compression_level": 3} | options,
    )
    data = buffer.getvalue()
    folder.write_bytes(path, data)
    return Part(path=path, rows=table.num_rows, bytes=len(data), sha256=checksum(data))
