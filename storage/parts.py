"""The Parquet parts of a shard: sample rows, scores, features and patch tokens, written whole.

Shapes: N samples, M kept scores, D embedding width, T patch tokens, C token width.
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
from schemas.sample import SampleRow, SampleStatus
from schemas.tables import SAMPLES, SCORES, features_schema, tokens_schema
from storage.files import Folder, checksum, part_name

ROW_GROUP_ROWS = 122_880  # DuckDB's own size: a row group is what it skips and what it hands to a thread
TOKEN_ROWS = 1024  # tokens are a hundred thousand times wider than scores
_FACTS_KEY = b"clipdecoder"  # the features file's own metadata: ShardFacts as JSON
_WIDTH_KEY = b"token_width"
_ROWS_KEY = b"rows"  # how many there are: nothing else tells a footer that lost some
_STATUSES = {str(status): status for status in SampleStatus}


@dataclass(frozen=True, kw_only=True)
class ScoreColumns:
    """Kept scores of one shard, sorted by label and then by sample; all arrays have length M."""

    sample: NDArray[np.int32]  # ordinal in the shard
    label: NDArray[np.int32]  # index into `label_ids`
    logit: NDArray[np.float32]
    score: NDArray[np.float32]
    label_ids: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ShardFeatures:
    """What is known of a shard before it is scored: what reading found, its rows, embeddings of the good ones."""

    facts: ShardFacts
    rows: tuple[SampleRow, ...]
    embeddings_ND: NDArray[np.float16]  # one row per `ok` sample, in order
    tokens_NTC: NDArray[np.float16] | None = None  # of the same samples, where somebody asked for them

    @property
    def ok_samples(self) -> NDArray[np.int32]:
        """Ordinals of the samples that have an embedding, in order: (N,)."""
        return np.array([row.sample for row in self.rows if row.status is SampleStatus.OK], dtype=np.int32)


def features_path(encoder_id: str, dataset: str, shard: str) -> str:
    """Return where a shard's features stand: below the dataset, since two datasets may both have a shard 00000."""
    return f"features/{encoder_id}/{dataset}/{part_name(shard)}.parquet"


def tokens_path(encoder_id: str, dataset: str, shard: str) -> str:
    """Return where a shard's patch tokens stand: apart from its features, which are read without them much oftener."""
    return f"tokens/{encoder_id}/{dataset}/{part_name(shard)}.parquet"


def write_samples(folder: Folder, path: str, rows: Sequence[SampleRow]) -> Part:
    """Write a shard's sample rows, in shard order."""
    return _write(folder, path, _sample_table(rows))


def write_scores(folder: Folder, path: str, shard: str, columns: ScoreColumns) -> Part:
    """Write a shard's kept scores in the order given, which must be label, then sample."""
    arrays = (
        pa.DictionaryArray.from_arrays(np.zeros(len(columns.sample), np.int32), pa.array([shard])),
        columns.sample,
        pa.DictionaryArray.from_arrays(columns.label, pa.array(columns.label_ids, pa.string())),
        columns.logit,
        columns.score,
    )
    table = pa.Table.from_arrays([pa.array(array) for array in arrays], schema=SCORES)
    return _write(
        folder,
        path,
        table,
        use_dictionary=["shard", "label_id"],
        column_encoding={"sample": "DELTA_BINARY_PACKED", "logit": "BYTE_STREAM_SPLIT", "score": "BYTE_STREAM_SPLIT"},
    )


def write_features(folder: Folder, path: str, features: ShardFeatures) -> Part:
    """Write a shard's features: every sample row, with its embedding or null."""
    width = features.embeddings_ND.shape[1]
    metadata = {_FACTS_KEY: features.facts.model_dump_json().encode(), _ROWS_KEY: str(len(features.rows)).encode()}
    schema = features_schema(width).with_metadata(metadata)
    table = _sample_table(features.rows)
    failed = np.array([row.status is not SampleStatus.OK for row in features.rows], dtype=bool)
    dense_ND = np.zeros((len(features.rows), width), np.float16)
    dense_ND[~failed] = features.embeddings_ND
    embedding = pa.FixedSizeListArray.from_arrays(
        pa.array(dense_ND.reshape(-1), pa.float16()), width, mask=pa.array(failed)
    )
    # No dictionary for embeddings: it made the file no smaller, and reading it three times as slow.
    return _write(
        folder, path, pa.Table.from_arrays([*table.columns, embedding], schema=schema), use_dictionary=SAMPLES.names
    )


def facts_of(schema: pa.Schema) -> ShardFacts:
    """Return what a feature file says of its shard.

    Raises:
        ValueError: it says nothing that is understood.
    """
    return ShardFacts.model_validate_json((schema.metadata or {}).get(_FACTS_KEY, b""))


def read_features(folder: Folder, path: str, fingerprint: Fingerprint, max_pixels: int) -> ShardFeatures | None:
    """Return stored features if they are of these bytes under these limits; None if there are none such.

    Features can always be made again, so a damaged file counts as none and is replaced.
    """
    try:
        return _parse_features(folder.read_bytes(path), fingerprint, max_pixels)
    except (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _parse_features(data: bytes, fingerprint: Fingerprint, max_pixels: int) -> ShardFeatures | None:
    table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    facts = facts_of(table.schema)
    if facts.fingerprint != fingerprint or facts.max_pixels != max_pixels:
        return None
    width = vector_width(table.schema.field("embedding").type)
    stored_rows = (table.schema.metadata or {}).get(_ROWS_KEY)  # earlier versions did not write it
    if not table.schema.equals(features_schema(width)) or stored_rows not in (None, str(table.num_rows).encode()):
        return None
    embedding = table["embedding"].combine_chunks()
    return ShardFeatures(
        facts=facts,
        rows=_sample_rows(table),
        embeddings_ND=embedding.flatten().to_numpy(zero_copy_only=False).reshape(-1, width),  # flatten drops nulls
    )


def vector_width(kind: pa.DataType) -> int:
    """Return how many numbers a stored vector has.

    Raises:
        ValueError: the column is not as it was written: a flipped bit in the schema can make it another kind of list.
    """
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_float16(kind.value_type):
        raise ValueError(f"vectors of float16 were expected, not {kind}")
    return int(kind.list_size)


def write_tokens(folder: Folder, path: str, features: ShardFeatures) -> Part:
    """Write the patch tokens of a shard's good samples; their rows and embeddings stand in its features."""
    assert features.tokens_NTC is not None
    num_samples, num_tokens, token_width = features.tokens_NTC.shape
    metadata = {_FACTS_KEY: features.facts.model_dump_json().encode(), _WIDTH_KEY: str(token_width).encode()}
    schema = tokens_schema(num_tokens, token_width).with_metadata(metadata)
    flat = pa.array(features.tokens_NTC.reshape(-1), pa.float16())
    tokens = pa.FixedSizeListArray.from_arrays(flat, num_tokens * token_width)
    table = pa.Table.from_arrays([pa.array(features.ok_samples), tokens], schema=schema)
    return _write(folder, path, table, use_dictionary=False, row_group_size=max(1, min(num_samples, TOKEN_ROWS)))


def read_tokens(folder: Folder, path: str, features: ShardFeatures) -> NDArray[np.float16] | None:
    """Return the stored tokens_NTC of exactly these samples of these bytes; None if there are none such.

    Like features they can be made again, so a damaged file counts as none.
    """
    try:
        table = pq.read_table(io.BytesIO(folder.read_bytes(path)), page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        facts, token_width = ShardFacts.model_validate_json(metadata[_FACTS_KEY]), int(metadata[_WIDTH_KEY])
        samples = table["sample"].to_numpy()
        if facts != features.facts or not np.array_equal(samples, features.ok_samples):
            return None
        num_tokens = vector_width(table["tokens"].type) // token_width
        tokens = table["tokens"].combine_chunks()
        flat = tokens.values.to_numpy(zero_copy_only=False)
        return np.asarray(flat.reshape(len(samples), num_tokens, token_width))
    except (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError):
        return None


def has_tokens(folder: Folder, path: str, fingerprint: Fingerprint, max_pixels: int) -> bool:
    """Whether patch tokens of these bytes under these limits are stored, as far as the file's own last lines tell."""
    try:
        with folder.open(path) as file:
            metadata = pq.read_schema(file).metadata or {}
        facts = ShardFacts.model_validate_json(metadata[_FACTS_KEY])
        return (facts.fingerprint, facts.max_pixels) == (fingerprint, max_pixels)
    except (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError):
        return False


def _sample_table(rows: Sequence[SampleRow]) -> pa.Table:
    # Column by column: as a dictionary for each row it takes ten times as long, which is most of a backfill.
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in SAMPLES]
    return pa.Table.from_arrays(columns, schema=SAMPLES)


def _sample_rows(table: pa.Table) -> tuple[SampleRow, ...]:
    columns = {name: table[name].to_pylist() for name in SAMPLES.names}
    columns["status"] = [_STATUSES[status] for status in columns["status"]]
    names = columns.keys()
    return tuple(SampleRow(**dict(zip(names, values, strict=True))) for values in zip(*columns.values(), strict=True))


def _write(folder: Folder, path: str, table: pa.Table, **options: Any) -> Part:
    """Write a table atomically. Equal tables give equal bytes, so a repeated run does not change a file."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=3,
        write_page_checksum=True,
        **{"row_group_size": ROW_GROUP_ROWS} | options,
    )
    data = buffer.getvalue()
    folder.write_bytes(path, data)
    return Part(path=path, rows=table.num_rows, bytes=len(data), sha256=checksum(data))
