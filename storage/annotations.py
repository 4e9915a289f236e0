"""Ground truth that stands beside the shards: answers about single labels of single samples.

    written = write_annotations(folder, [Annotation(key="a/1", label_id="dog", value=1, source="me")])
    said = read_answers(folder).of("street", "00000", "a/1")["dog"]  # Answer(value=1, at=..., source="me")

Each call of `write_annotations` is one file in `annotations/`, which never changes. The newest answer counts.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.digests import digest_of
from schemas.errors import StoreError
from schemas.tables import ANNOTATIONS
from storage.files import Folder
from storage.parquet import read_parquet

FOLDER = "annotations"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BATCH_ROWS = 100_000
_READERS = 16  # on an object store the wait is the round trip
_Scope = tuple[str | None, str | None]  # the dataset and shard that an answer names; None: any
_UNSURE = -1  # below no, which is below yes: of answers of one time the most positive counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One answer, as it is to be kept."""

    key: str
    label_id: str  # as it was named: the views resolve merges
    value: int | None  # 1 yes, 0 no, None: somebody looked and could not tell
    source: str  # who or what answered
    dataset: str | None = None  # None: any
    shard: str | None = None  # None: any
    at: datetime | None = None  # None: when it is written


class Answer(NamedTuple):
    """What counts for one label of one sample."""

    value: int | None
    at: datetime
    source: str


@dataclass(frozen=True, kw_only=True)
class WrittenAnnotations:
    """A file of annotations. `new` is False where the same answers were there before: then nothing was written."""

    path: str
    rows: int
    new: bool


def write_annotations(
    folder: Folder, annotations: Iterable[Annotation], *, now: datetime | None = None
) -> WrittenAnnotations:
    """Keep answers as one file, in any order, equal ones once.

    The file is named by what it says. The time of writing is no part of that, so that the same answers without times
    of their own, given twice, are one file, and the first one's times stay; times that are stated are.

    Args:
        folder: the store.
        annotations: at least one. They may come from a generator: they are not held as objects.
        now: the time of answers that have none; None: the present.

    Raises:
        StoreError: the store cannot be written.
    """
    import pyarrow.compute as pc

    table = _table(annotations)
    path = f"{FOLDER}/{_digest(table)}.parquet"
    new = not folder.exists(path)
    if new:
        position = table.schema.get_field_index("at")
        at = pc.fill_null(table["at"], pa.scalar(now or datetime.now(UTC), table["at"].type))
        folder.write_bytes(path, _parquet(table.set_column(position, "at", at).cast(ANNOTATIONS)))
    return WrittenAnnotations(path=path, rows=table.num_rows, new=new)


def _table(annotations: Iterable[Annotation]) -> pa.Table:
    """Return the annotations sorted, each once; `at` may be null."""
    rows = iter(annotations)
    schema = pa.schema([field.with_nullable(True) for field in ANNOTATIONS])
    batches = []
    while chunk := list(islice(rows, _BATCH_ROWS)):
        columns = [pa.array([getattr(row, field.name) for row in chunk], field.type) for field in schema]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    table = pa.Table.from_batches(batches, schema).group_by(schema.names).aggregate([])
    order = ("key", "label_id", "dataset", "shard", "at", "value", "source")
    return table.select(schema.names).sort_by([(name, "ascending") for name in order])


def _digest(table: pa.Table) -> str:
    columns = table.set_column(table.schema.get_field_index("at"), "at", table["at"].cast(pa.int64()))
    return digest_of(columns.to_pydict())


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=3, write_page_checksum=True)
    return buffer.getvalue()


def annotation_files(folder: Folder) -> dict[str, int]:
    """Return the files of annotations with their sizes in bytes, from a listing alone."""
    return folder.sizes(FOLDER, ".parquet")


def annotations_digest(folder: Folder) -> str:
    """Return the state of all annotations, without reading any: equal answers are files of equal names and sizes."""
    return digest_of(annotation_files(folder))


def read_annotations(folder: Folder, path: str) -> pa.Table:
    """Return the rows of one file of annotations.

    Raises:
        StoreError: it is not there, is damaged, or lacks a column.
    """

    try:
        table = read_parquet(folder.read_bytes(path))
        return table.select(ANNOTATIONS.names).cast(ANNOTATIONS)
    except (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{path!r} in the store {folder.url!r} cannot be read ({error}); put it back from a copy, or remove it "
            "and import its answers again"
        ) from error


def read_answers(folder: Folder) -> Answers:
    """Return all annotations of a store, which may have none.

    Raises:
        StoreError: a file of them cannot be read.
    """
    files = annotation_files(folder)
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda path: read_annotations(folder, path), files))
    return Answers(pa.concat_tables([ANNOTATIONS.empty_table(), *tables]), digest_of(files))


class Answers:
    """All annotations of a store, found by sample. A million of them are loaded in half a second."""

    def __init__(self, table: pa.Table, digest: str) -> None:
        self.digest = digest  # as `annotations_digest` gives it
        keys, self._keys = _encoded(table["key"])
        values = table["value"].fill_null(_UNSURE).to_numpy()
        at = table["at"].cast(pa.int64()).to_numpy()
        order = np.lexsort((values, at, keys))  # by key, the answer that counts last
        self._values, self._at = values[order], at[order]
        self._columns = {name: _Column(table[name], order) for name in ("dataset", "shard", "label_id", "source")}
        starts = np.searchsorted(keys[order], np.arange(len(self._keys) + 1))
        self._rows = {key: range(starts[n], starts[n + 1]) for n, key in enumerate(self._keys)}

    def __len__(self) -> int:
        return len(self._values)

    def of(self, dataset: str, shard: str, key: str) -> dict[str, Answer]:
        """Return the newest answer for each label of a sample, by the label that was named: merges are not resolved.

        Answers that name no dataset or no shard are about every sample of the key. Of answers of one time yes counts
        before no, and no before unsure.
        """
        found: dict[str, Answer] = {}
        for row in self._rows.get(key, ()):
            if self._columns["dataset"][row] in (None, dataset) and self._columns["shard"][row] in (None, shard):
                found[str(self._columns["label_id"][row])] = self._answer(row)
        return found

    def speak_of(self, dataset: str, shard: str) -> bool:
        """Whether samples of this shard would have answers if they had the right keys."""
        return any(scope in self._keys_of_scope for scope in _scopes(dataset, shard))

    def has(self, dataset: str, shard: str, key: str) -> bool:
        """Whether a sample has answers. It costs the same however many there are."""
        return any(key in self._keys_of_scope.get(scope, ()) for scope in _scopes(dataset, shard))

    def keys(self, shards: Iterable[tuple[str, str]]) -> frozenset[str]:
        """Return the keys of which a sample would have answers, in one of these shards of datasets at least."""
        scopes = {scope for dataset, shard in shards for scope in _scopes(dataset, shard)}
        found = [self._keys_of_scope[scope] for scope in scopes if scope in self._keys_of_scope]
        return frozenset[str]().union(*found)

    @cached_property
    def _keys_of_scope(self) -> dict[_Scope, frozenset[str]]:
        found: dict[_Scope, set[str]] = {}
        for key, rows in self._rows.items():
            for row in rows:
                found.setdefault((self._columns["dataset"][row], self._columns["shard"][row]), set()).add(key)
        return {scope: frozenset(keys) for scope, keys in found.items()}

    def _answer(self, row: int) -> Answer:
        value = int(self._values[row])
        return Answer(
            value=None if value == _UNSURE else value,
            at=_EPOCH + timedelta(microseconds=int(self._at[row])),
            source=str(self._columns["source"][row]),
        )


def _scopes(dataset: str, shard: str) -> list[_Scope]:
    """Return what answers that hold for samples of a shard may name."""
    return [(d, s) for d in (None, dataset) for s in (None, shard)]


class _Column:
    """A column of few different texts, in an order of its own."""

    def __init__(self, column: pa.ChunkedArray, order: NDArray[np.int64]) -> None:
        codes, self._texts = _encoded(column)
        self._codes = codes[order]

    def __getitem__(self, row: int) -> str | None:
        text: str | None = self._texts[self._codes[row]]
        return text


def _encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[Any]]:
    """Return a code for each row, and what each code stands for; null has one as well."""
    codes = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return codes.indices.to_numpy(), codes.dictionary.to_pylist()
