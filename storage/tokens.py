"""The patch tokens of a shard as Parquet, written and read a few images at a time: they are wide, and never all held.

Shapes: R rows at once, T patch tokens, C token width, F numbers of all tokens of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.manifest import ShardFacts, ShardReport
from schemas.tables import tokens_schema
from storage.files import Folder, part_name
from storage.parts import FACTS_KEY, ShardFeatures
from storage.vectors import vector_column, vector_width, vectors_of

ROW_GROUP_BYTES = 32 * 2**20
_BUFFER_BYTES = 2**20
_WIDTH_KEY = b"token_width"
# What a file that is missing, damaged or not ours gives rise to.
_UNREADABLE = (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError)


class _Abandoned(Exception):
    """A file is not wanted any more."""


class TokenChunk(NamedTuple):
    """Patch tokens of some samples, in order."""

    samples_R: NDArray[np.int32]  # ordinals in the shard
    tokens_RTC: NDArray[np.float16]


def tokens_path(encoder_id: str, dataset: str, shard: str) -> str:
    """Return where a shard's patch tokens stand: apart from its features, which are read without them much oftener."""
    return f"tokens/{encoder_id}/{dataset}/{part_name(shard)}.parquet"


class TokenWriter:
    """Writes the tokens of a shard's good samples as they come. The file gets its name when it is whole.

    It holds one row group, `ROW_GROUP_BYTES` or one image. Equal tokens give equal bytes, however they are handed over.

    Raises:
        StoreError: from any method, the store cannot be written.
    """

    def __init__(self, folder: Folder, path: str, num_tokens: int, token_width: int) -> None:
        self._schema = tokens_schema(num_tokens, token_width)
        self._shape = num_tokens, token_width
        self._numbers = num_tokens * token_width
        self._rows = max(1, ROW_GROUP_BYTES // (2 * self._numbers))
        self._waiting: list[TokenChunk] = []
        self._num_waiting = 0
        self._stack = ExitStack()
        self._file: IO[bytes] = self._stack.enter_context(folder.create(path))
        # As good as random, like embeddings: they are stored as they are.
        options = {"compression": "none", "write_page_checksum": True, "use_dictionary": False}
        self._parquet = pq.ParquetWriter(self._file, self._schema, **options)

    def add(self, chunk: TokenChunk) -> None:
        """Add the tokens of some samples, which must come behind those before."""
        self._waiting.append(chunk)
        self._num_waiting += len(chunk.samples_R)
        if self._num_waiting >= self._rows:
            with self._removed_on_error():
                self._write(whole_groups=True)

    def finish(self, facts: ShardFacts) -> int:
        """Write the rest and what is known of the shard, and give the file its name. Return its size in bytes."""
        known = {FACTS_KEY: facts.model_dump_json(), _WIDTH_KEY: str(self._shape[1])}
        with self._removed_on_error():
            self._write(whole_groups=False)
            self._parquet.add_key_value_metadata({key.decode(): value for key, value in known.items()})
            self._parquet.close()
            size = self._file.tell()
            self._stack.close()
        return size

    def abandon(self) -> None:
        """Leave nothing behind of a file that is not finished."""
        with suppress(_Abandoned), self._removed_on_error():
            raise _Abandoned

    @contextmanager
    def _removed_on_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            with suppress(Exception):  # its end goes into a file that is removed
                self._parquet.close()
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def _write(self, *, whole_groups: bool) -> None:
        samples_R = np.concatenate([np.empty(0, np.int32), *(chunk.samples_R for chunk in self._waiting)])
        flat = [np.empty(0, np.float16), *(chunk.tokens_RTC.reshape(-1) for chunk in self._waiting)]
        tokens = np.concatenate(flat)
        end = len(samples_R) - len(samples_R) % self._rows if whole_groups else len(samples_R)
        for start in range(0, end, self._rows):
            stop = min(start + self._rows, end)
            column = vector_column(tokens[start * self._numbers : stop * self._numbers].reshape(-1, self._numbers))
            self._parquet.write_table(
                pa.Table.from_arrays([pa.array(samples_R[start:stop], pa.int32()), column], schema=self._schema)
            )
        self._num_waiting = len(samples_R) - end
        rest = tokens[end * self._numbers :].copy()
        self._waiting = [TokenChunk(samples_R[end:], rest.reshape(-1, *self._shape))]


class StoredTokens(NamedTuple):
    """A file of patch tokens that belongs to some features."""

    folder: Folder
    path: str
    num_samples: int
    num_tokens: int
    token_width: int

    def chunks(self) -> Iterator[TokenChunk]:
        """Yield all tokens in order, about `ROW_GROUP_BYTES` at a time.

        Raises:
            ValueError: the file is damaged, or was changed since it was found.
        """
        rows, num_read = max(1, ROW_GROUP_BYTES // (2 * self.num_tokens * self.token_width)), 0
        try:
            with self.folder.open(self.path) as file:
                # Unbuffered reads hold a whole row group as it is stored.
                parquet = pq.ParquetFile(
                    file, page_checksum_verification=True, buffer_size=_BUFFER_BYTES, pre_buffer=False
                )
                for batch in parquet.iter_batches(rows, use_threads=False):
                    flat_RF, _ = vectors_of(batch["tokens"])
                    tokens_RTC = flat_RF.reshape(-1, self.num_tokens, self.token_width)
                    num_read += len(batch)
                    yield TokenChunk(batch["sample"].to_numpy(), tokens_RTC)
            if num_read != self.num_samples:  # a turned bit in the footer can end the rows early
                raise ValueError(f"{num_read} samples were read of {self.num_samples}")
        except _UNREADABLE as error:
            raise ValueError(f"{self.path!r} in the store {self.folder.url!r} is damaged: {error}") from error


def find_tokens(folder: Folder, path: str, features: ShardFeatures) -> StoredTokens | None:
    """Return the stored tokens of exactly these samples of these bytes; None if there are none such.

    Like features they can be made again, so a file that is seen to be damaged counts as none. Only its beginning and
    end are looked at: damage in between is found by reading.
    """
    try:
        with folder.open(path) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            known = parquet.metadata.metadata or {}
            facts, token_width = ShardFacts.model_validate_json(known[FACTS_KEY]), int(known[_WIDTH_KEY])
            if facts != features.facts:
                return None
            samples = parquet.read(["sample"], use_threads=False)["sample"].to_numpy()
            num_tokens = vector_width(parquet.schema_arrow.field("tokens").type) // token_width
    except _UNREADABLE:
        return None
    same = np.array_equal(samples, features.ok_samples)
    return StoredTokens(folder, path, len(samples), num_tokens, token_width) if same else None


def has_tokens(folder: Folder, path: str, report: ShardReport, max_pixels: int) -> bool:
    """Whether patch tokens of all good samples of a report are stored, as far as the file's own last lines tell."""
    try:
        with folder.open(path) as file:
            metadata = pq.read_metadata(file)
        facts = ShardFacts.model_validate_json((metadata.metadata or {})[FACTS_KEY])
    except _UNREADABLE:
        return False
    # Bytes alone would not do: a sample may have failed when the tokens were kept, and be good since a retry.
    known = facts.fingerprint, facts.max_pixels, metadata.num_rows
    return known == (report.fingerprint, max_pixels, report.num_ok)
