"""Stored embeddings of a whole store: which shards should have them, and the rows of one shard, a chunk at a time.

Shapes: N samples of a chunk, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import StoreError
from schemas.manifest import Fingerprint
from storage.files import Folder
from storage.parts import facts_of, features_path
from storage.runs import StoredRun
from storage.vectors import vectors_of
from storage.visibility import current_reports

CHUNK_ROWS = 4096  # 4 MiB at a width of 512, whatever the size of a shard
BUFFER_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class EmbeddedShard:
    """A shard as the store knows it: its newest bytes, which the embeddings must be of."""

    dataset: str
    shard: str
    url: str
    fingerprint: Fingerprint
    num_ok: int  # samples that were decoded, and so have an embedding of each encoder that saw the shard


class Chunk(NamedTuple):
    """Some samples of a shard in order, without those that failed."""

    samples_N: NDArray[np.int64]  # ordinals in the shard
    embeddings_ND: NDArray[np.float16]  # L2-normalised before rounding


def embedded_shards(runs: Iterable[StoredRun], dataset: str | None = None) -> list[EmbeddedShard]:
    """Return the shards that the view `samples` shows, of one dataset or of all, by dataset and shard."""
    return [
        EmbeddedShard(
            dataset=owner,
            shard=shard,
            url=report.url,
            fingerprint=report.fingerprint,
            num_ok=report.num_ok,
        )
        for (owner, shard), report in sorted(current_reports(runs).items())
        if dataset in (None, owner)
    ]


def iter_embeddings(
    folder: Folder, encoder_id: str, shard: EmbeddedShard, *, chunk_rows: int = CHUNK_ROWS
) -> Iterator[Chunk]:
    """Yield the embeddings of a shard's newest bytes, in order; none, where the store has none of these.

    At most a few chunks are held, and no row as a Python object.

    Raises:
        StoreError: the file is there and cannot be read, or is damaged.
    """
    path = features_path(encoder_id, shard.dataset, shard.shard)
    try:
        with folder.open(path) as file:
            yield from _chunks(file, shard.fingerprint, chunk_rows)
    except FileNotFoundError:
        return
    except (pa.ArrowException, ValueError, KeyError) as error:
        reason = error.__cause__ or error
        raise StoreError(
            f"{path!r} in the store {folder.url!r} cannot be read: {reason}; remove it, and tag the shard again"
        ) from error


def _chunks(file: IO[bytes], fingerprint: Fingerprint, chunk_rows: int) -> Iterator[Chunk]:
    # Read piece by piece: by default a whole row group is held as it is stored, 120 MiB of one large shard.
    parquet = pq.ParquetFile(file, page_checksum_verification=True, buffer_size=BUFFER_BYTES, pre_buffer=False)
    if facts_of(parquet.schema_arrow).fingerprint != fingerprint:
        return
    for batch in parquet.iter_batches(chunk_rows, columns=["sample", "embedding"], use_threads=False):
        vectors_ND, has_vector = vectors_of(batch["embedding"])
        samples = batch["sample"].to_numpy() if has_vector is None else batch["sample"].to_numpy()[has_vector]
        yield Chunk(samples.astype(np.int64), vectors_ND)
