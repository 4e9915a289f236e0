"""Some pictures of a shard: the same bytes whether they are guessed or headers lead to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.manifest import ShardReport
from storage.files import Folder, checksum, fingerprint_of
from storage.shard_pictures import StoredShard, read_pictures
from tests.nasty import Member, build_tar
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

PICTURES = [bytes([number]) * (700 + 37 * number) for number in range(60)]
ALONE = [(f"{number}.jpg", data) for number, data in enumerate(PICTURES)]
CAPTIONED = [each for name, data in ALONE for each in ((name, data), (name.replace("jpg", "txt"), b"x" * 900))]
UNEVEN = [*((f"0/{number}.txt", b"x" * 90_000) for number in range(5)), *ALONE]
WANTED = (3, 17, 41, 59)


def stored(folder: Folder, url: str, data: bytes, pictures: Sequence[bytes] = PICTURES) -> StoredShard:
    """Put a shard where it belongs, and into a run whose rows say what its pictures are."""
    place = Folder(url)
    place.write_bytes("s.tar", data)
    print_of = fingerprint_of(place.fs.info(place.path("s.tar")))
    contents, sizes = [checksum(each) for each in pictures], [len(each) for each in pictures]
    shard = Shard(
        statuses=[OK] * len(pictures), contents=contents, sizes=sizes, fingerprint=print_of, url=f"{url}/s.tar"
    )
    make_model(folder)
    (report,) = make_run(folder, "r1", make_taxonomy("ant"), {"s": shard}).reports
    return StoredShard(folder, report)


@pytest.mark.parametrize("members", [ALONE, CAPTIONED, UNEVEN], ids=["alone", "captioned", "uneven"])
def test_guesses_and_headers_lead_to_the_same_bytes(bucket: str, tmp_path: Path, members: list[Member]) -> None:
    known = stored(Folder(str(tmp_path / "store")), bucket, build_tar(members))
    expected = {sample: PICTURES[sample] for sample in WANTED}
    assert read_pictures(known.report.url, WANTED, known) == expected == read_pictures(known.report.url, WANTED)


@pytest.mark.parametrize("lost", ["part", "damaged", "columns", "bytes", "ordinal"])
def test_what_is_not_known_is_found_by_headers(bucket: str, tmp_path: Path, lost: str) -> None:
    known = stored(Folder(str(tmp_path / "store")), bucket, build_tar(ALONE))
    report: ShardReport = known.report
    path = Path(tmp_path, "store", report.parts["samples"].path)
    if lost == "part":
        path.unlink()
    if lost == "damaged":
        path.write_bytes(b"no Parquet")
    if lost == "columns":
        pq.write_table(pa.table({"x": [1]}), path)
    if lost == "bytes":  # others than were tagged
        Folder(bucket).write_bytes("s.tar", build_tar([(name, data[::-1] + b"!") for name, data in ALONE]))
    wanted = (*WANTED, 60) if lost == "ordinal" else WANTED
    found = read_pictures(report.url, wanted, known)
    assert found == {each: PICTURES[each] + b"!" if lost == "bytes" else PICTURES[each] for each in WANTED}


def test_a_shard_that_is_gone_has_none(bucket: str, tmp_path: Path) -> None:
    known = stored(Folder(str(tmp_path / "store")), bucket, build_tar(ALONE))
    Folder(bucket).remove("s.tar")
    assert read_pictures(known.report.url, WANTED, known) == {}
