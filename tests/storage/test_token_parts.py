"""Patch tokens in the store: bit for bit, and only of exactly the samples and bytes that are asked about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.manifest import Fingerprint, ShardFacts
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from storage.files import Folder, checksum
from storage.parts import ShardFeatures, read_features, read_tokens, tokens_path, write_features, write_tokens

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


def test_tokens_come_back_bit_for_bit(folder: Folder, tmp_path: Path) -> None:
    assert FEATURES.tokens_NTC is not None
    FEATURES.tokens_NTC[0, 0] = [np.float16(6e-8), -0.0, 65504, np.inf]
    part = write_tokens(folder, PATH, FEATURES)
    assert (part.path, part.rows) == (PATH, 3)
    assert PATH == "tokens/e1/street/a/00000.parquet"
    data = (tmp_path / PATH).read_bytes()
    assert (part.bytes, part.sha256) == (len(data), checksum(data))
    assert_same(read_tokens(folder, PATH, replace(FEATURES, tokens_NTC=None)), FEATURES.tokens_NTC)
    assert write_tokens(folder, PATH, FEATURES) == part  # equal tokens, equal bytes


@pytest.mark.parametrize("count", [0, 1, 1024, 1025, 2100])
def test_any_number_of_samples_in_row_groups_of_a_thousand(count: int, folder: Folder, tmp_path: Path) -> None:
    features = features_of([OK] * count, num_tokens=2, width=3)
    write_tokens(folder, PATH, features)
    assert_same(read_tokens(folder, PATH, features), features.tokens_NTC)
    assert pq.ParquetFile(tmp_path / PATH).metadata.num_row_groups == max(1, -(-count // 1024))


def test_samples_that_failed_have_none(folder: Folder) -> None:
    features = features_of([BROKEN, BROKEN])
    write_tokens(folder, PATH, features)
    assert_same(read_tokens(folder, PATH, features), features.tokens_NTC)


def test_tokens_of_stored_features(folder: Folder) -> None:
    write_features(folder, "features.parquet", FEATURES)
    write_tokens(folder, PATH, FEATURES)
    stored = read_features(folder, "features.parquet", FEATURES.facts.fingerprint, FEATURES.facts.max_pixels)
    assert stored is not None and stored.tokens_NTC is None
    assert_same(read_tokens(folder, PATH, stored), FEATURES.tokens_NTC)


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
    write_tokens(folder, PATH, FEATURES)
    assert read_tokens(folder, PATH, other) is None


def test_a_missing_or_damaged_file_counts_as_none(folder: Folder, tmp_path: Path) -> None:
    assert read_tokens(folder, PATH, FEATURES) is None
    write_tokens(folder, PATH, FEATURES)
    whole = (tmp_path / PATH).read_bytes()
    middle = len(whole) // 3
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], flipped, b"x" * 500):
        (tmp_path / PATH).write_bytes(damaged)
        assert read_tokens(folder, PATH, FEATURES) is None
    write_features(folder, PATH, FEATURES)  # another kind of file in its place
    assert read_tokens(folder, PATH, FEATURES) is None
