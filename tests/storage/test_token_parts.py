"""Patch tokens in the store: bit for bit, and only of exactly the samples and bytes that are asked about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.manifest import Fingerprint, ShardFacts
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from storage.files import Folder
from storage.parts import ShardFeatures, read_features, write_features
from storage.tokens import (
    ROW_GROUP_BYTES,
    TokenChunk,
    TokenWriter,
    find_tokens,
    tokens_path,
)
from tests.stores import keep_tokens

OK, BROKEN = SampleStatus.OK, SampleStatus.DECODE_ERROR
PATH = tokens_path("e1", "street", "a/00000")


def features_of(statuses: list[SampleStatus], *, num_tokens: int = 3, width: int = 4, tag: str = "1") -> ShardFeatures:
    rows = tuple(
        SampleRow(
            key=f"k{n}", shard="a/00000", sample=n, status=status, error=None, width=1, height=1, bytes=1, sha256="x"
        )
        for n, status in enumerate(statuses)
    )
    count = statuses.count(OK)
    rng = np.random.default_rng(0)
    facts = ShardFacts(
        fingerprint=Fingerprint(size=9, tag=tag),
        status=ShardStatus.OK,
        error=None,
        members={"images": 1},
        max_pixels=99,
    )
    return ShardFeatures(
        facts=facts,
        rows=rows,
        embeddings_ND=rng.standard_normal((count, 8)).astype(np.float16),
        tokens_NTC=rng.standard_normal((count, num_tokens, width)).astype(np.float16),
    )


FEATURES = features_of([OK, BROKEN, OK, OK])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def assert_same(found: np.ndarray | None, wanted: np.ndarray | None) -> None:
    assert found is not None and wanted is not None
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape) and found.tobytes() == wanted.tobytes()


def all_tokens(folder: Folder, path: str, features: ShardFeatures) -> np.ndarray | None:
    """Return the stored tokens of exactly these samples of these bytes; None if there are none such."""
    found = find_tokens(folder, path, features)
    if found is None:
        return None
    try:
        chunks = [chunk.tokens_RTC for chunk in found.chunks()]
    except ValueError:
        return None
    return np.concatenate([np.empty((0, found.num_tokens, found.token_width), np.float16), *chunks])


def test_tokens_come_back_bit_for_bit(folder: Folder, tmp_path: Path) -> None:
    assert FEATURES.tokens_NTC is not None
    FEATURES.tokens_NTC[0, 0] = [np.float16(6e-8), -0.0, 65504, np.inf]
    size = keep_tokens(folder, PATH, FEATURES)
    assert PATH == "tokens/e1/street/a/00000.parquet"
    data = (tmp_path / PATH).read_bytes()
    assert size == len(data)
    assert_same(all_tokens(folder, PATH, replace(FEATURES, tokens_NTC=None)), FEATURES.tokens_NTC)
    keep_tokens(folder, PATH, FEATURES)
    assert (tmp_path / PATH).read_bytes() == data, "equal tokens, equal bytes"


@pytest.mark.parametrize("steps", [[], [1], [3, 4], [4, 4], [9], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
def test_row_groups_are_of_bytes_however_tokens_are_handed_over(
    steps: list[int], folder: Folder, tmp_path: Path
) -> None:
    width = ROW_GROUP_BYTES // 4 // 2 // 2  # four samples of two tokens are a row group
    features = features_of([OK] * sum(steps), num_tokens=2, width=width)
    assert features.tokens_NTC is not None
    writer = TokenWriter(folder, PATH, 2, width)
    start = 0
    for step in steps:
        writer.add(TokenChunk(features.ok_samples[start : start + step], features.tokens_NTC[start : start + step]))
        start += step
    assert not (tmp_path / PATH).exists(), "it has its name when it is whole"
    writer.finish(features.facts)
    assert_same(all_tokens(folder, PATH, features), features.tokens_NTC)
    assert pq.ParquetFile(tmp_path / PATH).metadata.num_row_groups == -(-sum(steps) // 4)
    found = find_tokens(folder, PATH, features)
    assert found is not None and max([len(c.samples_R) for c in found.chunks()], default=0) <= 4


def test_tokens_that_are_abandoned_leave_nothing(folder: Folder, tmp_path: Path) -> None:
    assert FEATURES.tokens_NTC is not None
    writer = TokenWriter(folder, PATH, 3, 4)
    writer.add(TokenChunk(FEATURES.ok_samples, FEATURES.tokens_NTC))
    writer.abandon()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_tokens_of_another_layout_count_as_none(folder: Folder, tmp_path: Path) -> None:
    """Earlier versions wrote lists of numbers. Like features, tokens can be made again."""
    assert FEATURES.tokens_NTC is not None
    known = {b"clipdecoder": FEATURES.facts.model_dump_json().encode(), b"token_width": b"4"}
    flat = pa.array(FEATURES.tokens_NTC.reshape(-1), pa.float16())
    columns = {"sample": FEATURES.ok_samples, "tokens": pa.FixedSizeListArray.from_arrays(flat, 12)}
    (tmp_path / PATH).parent.mkdir(parents=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(known), tmp_path / PATH, write_page_checksum=True)
    assert find_tokens(folder, PATH, FEATURES) is None


def test_samples_that_failed_have_none(folder: Folder) -> None:
    features = features_of([BROKEN, BROKEN])
    keep_tokens(folder, PATH, features)
    assert_same(all_tokens(folder, PATH, features), features.tokens_NTC)


def test_tokens_of_stored_features(folder: Folder) -> None:
    write_features(folder, "features.parquet", FEATURES)
    keep_tokens(folder, PATH, FEATURES)
    stored = read_features(folder, "features.parquet", FEATURES.facts.fingerprint, FEATURES.facts.max_pixels)
    assert stored is not None and stored.tokens_NTC is None
    assert_same(all_tokens(folder, PATH, stored), FEATURES.tokens_NTC)


@pytest.mark.parametrize(
    "other",
    [
        features_of([OK, BROKEN, OK, OK], tag="2"),
        features_of([OK, OK, OK, BROKEN]),
        features_of([OK, BROKEN, OK]),
        features_of([OK, BROKEN, OK, OK, OK]),
        replace(FEATURES, facts=FEATURES.facts.model_copy(update={"max_pixels": 100})),
        replace(FEATURES, facts=FEATURES.facts.model_copy(update={"status": ShardStatus.TRUNCATED})),
    ],
)
def test_of_other_bytes_or_other_samples_there_are_none(other: ShardFeatures, folder: Folder) -> None:
    keep_tokens(folder, PATH, FEATURES)
    assert all_tokens(folder, PATH, other) is None


def test_a_missing_or_damaged_file_counts_as_none(folder: Folder, tmp_path: Path) -> None:
    assert all_tokens(folder, PATH, FEATURES) is None
    keep_tokens(folder, PATH, FEATURES)
    whole = (tmp_path / PATH).read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], b"x" * 500):
        (tmp_path / PATH).write_bytes(damaged)
        assert all_tokens(folder, PATH, FEATURES) is None
    write_features(folder, PATH, FEATURES)  # another kind of file in its place
    assert all_tokens(folder, PATH, FEATURES) is None


def test_a_flipped_bit_is_found_or_changes_nothing(folder: Folder, tmp_path: Path) -> None:
    keep_tokens(folder, PATH, FEATURES)
    whole = (tmp_path / PATH).read_bytes()
    found = 0
    for position in range(4, len(whole), 3):
        (tmp_path / PATH).write_bytes(
            whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :]
        )
        tokens_NTC = all_tokens(folder, PATH, FEATURES)
        found += tokens_NTC is None
        if tokens_NTC is not None:
            assert_same(tokens_NTC, FEATURES.tokens_NTC)
    assert found > 50
