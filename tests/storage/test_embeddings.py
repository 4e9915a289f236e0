"""Stored embeddings of a store: of which shards, of which bytes, chunk by chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import StoreError
from schemas.manifest import Fingerprint, ShardFacts
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from storage.embeddings import EmbeddedShard, embedded_shards, iter_embeddings
from storage.files import Folder
from storage.parts import ShardFeatures, features_path, read_features, write_features
from storage.runs import read_runs
from tests.stores import FIRST, Shard, make_model, make_run, make_taxonomy

OK, BROKEN = SampleStatus.OK, SampleStatus.DECODE_ERROR
SHARD = EmbeddedShard(dataset="street", shard="a/00000", url="file:///nowhere", fingerprint=FIRST, num_ok=3)
PATH = features_path("e1", "street", "a/00000")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def write(folder: Folder, statuses: list[SampleStatus], fingerprint: Fingerprint = FIRST) -> np.ndarray:
    """Write features and return the embeddings of the good samples."""
    rows = tuple(
        SampleRow(
            key=f"k{n}", shard="a/00000", sample=n, status=status, error=None, width=1, height=1, bytes=1, sha256="x"
        )
        for n, status in enumerate(statuses)
    )
    facts = ShardFacts(fingerprint=fingerprint, status=ShardStatus.OK, error=None, members={}, max_pixels=9)
    embeddings_ND = np.random.default_rng(0).standard_normal((statuses.count(OK), 8)).astype(np.float16)
    write_features(folder, PATH, ShardFeatures(facts=facts, rows=rows, embeddings_ND=embeddings_ND))
    return embeddings_ND


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("statuses", [[OK, BROKEN, OK, OK, BROKEN], [OK] * 5, [BROKEN, BROKEN], []], ids=str)
def test_the_good_samples_come_in_order_bit_for_bit(
    folder: Folder, statuses: list[SampleStatus], chunk_rows: int
) -> None:
    wanted = write(folder, statuses)
    found = list(iter_embeddings(folder, "e1", SHARD, chunk_rows=chunk_rows))
    assert all(len(samples) == len(rows) <= chunk_rows for samples, rows in found)
    samples = [int(sample) for chunk in found for sample in chunk.samples_N]
    assert samples == [n for n, status in enumerate(statuses) if status is OK]
    assert b"".join(chunk.embeddings_ND.tobytes() for chunk in found) == wanted.tobytes()


def test_other_bytes_and_no_file_have_no_embeddings(folder: Folder) -> None:
    assert list(iter_embeddings(folder, "e1", SHARD)) == []
    write(folder, [OK], Fingerprint(size=1, tag="second"))
    assert list(iter_embeddings(folder, "e1", SHARD)) == []
    write(folder, [OK])
    assert len(list(iter_embeddings(folder, "e1", SHARD))) == 1
    assert list(iter_embeddings(folder, "another", SHARD)) == []


def test_a_damaged_file_is_an_error_that_names_it(folder: Folder, tmp_path: Path) -> None:
    write(folder, [OK] * 200)
    whole = (tmp_path / PATH).read_bytes()
    column = pq.read_metadata(tmp_path / PATH).row_group(0).column(9)
    turned = bytearray(whole)
    turned[column.data_page_offset + column.total_compressed_size // 2] ^= 255
    for damaged in (whole[:-9], bytes(turned), b"no Parquet", b""):
        (tmp_path / PATH).write_bytes(damaged)
        with pytest.raises(StoreError, match=r"a/00000\.parquet' in the store .* cannot be read: .*remove it"):
            list(iter_embeddings(folder, "e1", SHARD))


def test_embeddings_are_stored_as_they_are(folder: Folder, tmp_path: Path) -> None:
    wanted = write(folder, [OK, BROKEN, OK])
    group = pq.read_metadata(tmp_path / PATH).row_group(0)
    (column,) = (group.column(n) for n in range(10) if group.column(n).path_in_schema == "embedding")
    assert (column.compression, column.has_dictionary_page) == ("UNCOMPRESSED", False)
    cells = pq.read_table(tmp_path / PATH)["embedding"].to_pylist()
    assert cells[1] is None and np.frombuffer(cells[2], "<f2").tobytes() == wanted[1].tobytes()


def test_an_earlier_layout_is_made_again_and_refused_by_a_search(folder: Folder, tmp_path: Path) -> None:
    wanted = write(folder, [OK, OK])
    table = pq.read_table(tmp_path / PATH)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(wanted.reshape(-1), pa.float16()), 8)
    pq.write_table(table.set_column(9, "embedding", lists), tmp_path / PATH, write_page_checksum=True)
    assert read_features(folder, PATH, FIRST, 9) is None
    with pytest.raises(StoreError, match="earlier version wrote; remove it, and tag the shard again"):
        list(iter_embeddings(folder, "e1", SHARD))


def test_shards_are_those_that_the_views_show_with_their_newest_bytes(folder: Folder) -> None:
    second = Fingerprint(size=2, tag="second")
    make_model(folder)
    taxonomy = make_taxonomy("dog")
    make_run(folder, "r1", taxonomy, {"00000": Shard(), "00001": Shard(statuses=(OK, BROKEN))})
    make_run(folder, "r2", taxonomy, {"00000": Shard(fingerprint=second, url="file:///new/{shard}.tar")}, hours=1)
    make_run(folder, "r3", taxonomy, {"00000": Shard()}, dataset="farm")
    shards = embedded_shards(read_runs(folder))
    assert [(shard.dataset, shard.shard, shard.fingerprint.tag, shard.num_ok) for shard in shards] == [
        ("farm", "00000", "first", 3),
        ("street", "00000", "second", 3),
        ("street", "00001", "first", 1),
    ]
    assert shards[1].url == "file:///new/00000.tar"
    assert embedded_shards(read_runs(folder), "farm") == shards[:1]
    assert embedded_shards(read_runs(folder), "sea") == []
