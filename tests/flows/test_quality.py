"""Quality: every good picture is measured once, of the bytes that its shard has, and SQL sees it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from clipdecoder.curation.image_statistics import image_statistics
from flows.cli.app import app
from flows.quality import run_quality
from schemas.config import MAX_PIXELS, make_request
from schemas.curation import QualityRequest, QualitySummary
from schemas.errors import ConfigError, StoreError
from storage.audit import audit_run
from storage.files import Folder
from storage.findings import FindingCode
from tests.damage import DAMAGES
from tests.flows.copies import held_out_members, make_copies_world, train_members
from tests.flows.disks import NEVER, CuttingDisk, FullDisk
from tests.flows.world import World, make_world, pictures
from tests.nasty import build_tar


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a tagged world that nothing is measured of."""
    return make_copies_world(tmp_path_factory.mktemp("copies"))


@pytest.fixture
def own(tagged: World, tmp_path: Path) -> World:
    """Return a copy of the store and of nothing else."""
    shutil.copytree(tagged.store, tmp_path / "store")
    return replace(tagged, folder=tmp_path)


def measure(world: World, **options: Any) -> QualitySummary:
    return run_quality(make_request(QualityRequest, **{"store": world.store, **options}))


def files(world: World) -> dict[str, bytes]:
    place = Path(world.store, "quality")
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_every_good_picture_has_its_statistics(own: World) -> None:
    summary = measure(own)
    assert summary.ok and (summary.shards, summary.kept, summary.pictures, summary.refused) == (3, 0, 23, 1)
    members = {name.rpartition(".")[0]: data for name, data in [*train_members(), *held_out_members()]}
    rows = own.ask("select key, width, height, megapixels, aspect, phash, brightness, contrast, sharpness from quality")
    assert {row[0] for row in rows} == members.keys() - {"broken"}
    for key, width, height, megapixels, aspect, *measured in rows:
        found = image_statistics(members[key], max_pixels=MAX_PIXELS)
        size = Image.open(io.BytesIO(members[key])).size
        assert (width, height) == size and megapixels == width * height / 1e6 and aspect == width / height
        assert measured[0] == found.phash
        assert measured[1:] == pytest.approx([found.brightness, found.contrast, found.sharpness], rel=1e-6)
    assert summary.overview.model_dump(include={"pictures", "measured", "dark", "flat"}) == {
        "pictures": 23,
        "measured": 23,
        "dark": 1,
        "flat": 1,
    }


def test_what_is_not_measured_has_nulls_and_a_dataset_can_be_measured_alone(own: World) -> None:
    assert own.ask("select count(*), count(sharpness), count(bytes) from quality") == [(23, 0, 23)]
    summary = measure(own, dataset="held-out")
    assert (summary.shards, summary.pictures, summary.overview.pictures) == (1, 6, 6)
    assert own.ask("select dataset, count(sharpness) from quality group by all order by all") == [
        ("held-out", 6),
        ("train", 0),
    ]
    with pytest.raises(StoreError, match=r"unknown dataset 'street'; known: held-out, train"):
        measure(own, dataset="street")


def test_the_same_again_reads_no_shard_and_threads_change_nothing(own: World) -> None:
    measure(own, decode_threads=1)
    first = files(own)
    again = measure(own)
    assert (again.shards, again.kept, again.pictures) == (0, 3, 0) and again.overview.measured == 23
    shutil.rmtree(Path(own.store, "quality"))
    measure(own, decode_threads=5)
    assert files(own) == first and len(first) == 3


def test_killed_or_out_of_room_the_same_command_ends_with_the_same_files(own: World) -> None:
    measure(own)
    whole = files(own)
    shutil.rmtree(Path(own.store, "quality"))
    fsspec.register_implementation("full", FullDisk, clobber=True)
    try:
        for room in (0, 2, 5):
            FullDisk.steps, FullDisk.full_at = 0, room
            with pytest.raises(StoreError, match="No space left"):
                measure(own, store=f"full://{own.store}")
            assert files(own).items() <= whole.items(), "a file is whole or absent"
    finally:
        FullDisk.full_at = NEVER
    assert measure(own).ok and files(own) == whole
    shutil.rmtree(Path(own.store, "quality"))
    program = (
        "import sys, fsspec\nfrom tests.flows.disks import DyingDisk\nfrom flows.quality import run_quality\n"
        "from schemas.curation import QualityRequest\nfsspec.register_implementation('dying', DyingDisk)\n"
        "DyingDisk.dies_at = 6\nrun_quality(QualityRequest(store='dying://' + sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", program, own.store], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    whole_ones = {name: data for name, data in files(own).items() if not name.rpartition("/")[2].startswith(".tmp-")}
    assert len(whole_ones) == 1 and whole_ones.items() <= whole.items()
    summary = measure(own)
    assert summary.ok and (summary.shards, summary.kept) == (2, 1)
    assert {name: data for name, data in files(own).items() if ".tmp-" not in name} == whole


def test_a_changed_shard_is_measured_again_when_it_is_tagged_again(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.tag()
    measure(world)
    before = world.ask("select key, phash from quality where shard = '00001' order by sample")
    path = world.shard("00001", pictures(7, 4))
    os.utime(path, (1, 1))
    summary = measure(world)
    assert (summary.shards, summary.kept) == (0, 2), "the store knows nothing of it yet"
    world.tag()
    assert world.ask("select shard, count(phash) from quality group by all order by all") == [
        ("00000", 5),
        ("00001", 0),
    ]
    assert measure(world).shards == 1 and len(files(world)) == 2, "what it had before is gone"
    after = world.ask("select key, phash from quality where shard = '00001' order by sample")
    assert len(after) == 4 and not set(before) & set(after)


def test_a_shard_that_is_gone_changed_or_cut_costs_itself_alone(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=4)
    whole = build_tar(pictures(3, 5))
    world.raw_shard("00003", whole[: len(whole) // 2])
    world.tag()
    (tmp_path / "shards" / "00000.tar").unlink()
    os.utime(world.shard("00001", pictures(1, 6)), (1, 1))
    summary = measure(world)
    assert not summary.ok and (summary.shards, summary.kept) == (2, 0)
    reasons = {failure.shard: failure.reason for failure in summary.failures}
    assert "is not there" in reasons["00000"] and "tag it again" in reasons["00001"] and len(reasons) == 2
    measured = world.ask("select shard, count(*) = count(sharpness) from quality group by all order by all")
    assert measured == [("00000", False), ("00001", False), ("00002", True), ("00003", True)]
    assert "not measured: world/00000: missing" in "\n".join(summary.lines())


def test_a_shard_that_is_written_over_while_it_is_read_is_not_measured(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=1)
    fsspec.register_implementation("cutting", CuttingDisk, clobber=True)
    world.tag(shards=(f"cutting://{tmp_path}/shards/*.tar",))
    CuttingDisk.cuts = True
    try:
        summary = measure(world)
    finally:
        CuttingDisk.cuts = False
    assert [failure.shard for failure in summary.failures] == ["00000"] and files(world) == {}
    assert "tag it again" in summary.failures[0].reason


@pytest.mark.parametrize("shard", ["held-out/0", "train/0", "train/1"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_stops_its_own_view_and_is_made_again(own: World, shard: str, damage: str) -> None:
    measure(own)
    whole = files(own)
    assert audit_run(Folder(own.store)).ok
    (path,) = Path(own.store, "quality").glob(f"{shard}-*.parquet")
    DAMAGES[damage](path)
    with pytest.raises(StoreError, match=r"cannot be read.*(`clipdecoder quality` measures|`clipdecoder audit` says)"):
        own.ask("select count(*), count(sharpness) from quality where sharpness >= 0")
    assert own.ask("select count(*) from samples") == [(24,)] and own.ask("from duplicates") == []
    found = [finding for finding in audit_run(Folder(own.store)).findings if finding.code is FindingCode.CURATION]
    assert len(found) == 1 and path.name in found[0].message and "`clipdecoder quality` measures" in found[0].message
    summary = measure(own)
    assert (summary.shards, summary.kept, summary.damaged, summary.overview.measured) == (1, 2, 1, 23)
    assert "could not be read, and removed: 1 file of statistics" in summary.lines()
    assert files(own) == whole and audit_run(Folder(own.store)).ok


def test_statistics_that_do_not_raise_and_are_not_of_the_shard_are_made_again(own: World) -> None:
    measure(own)
    whole = files(own)
    first, second = sorted(Path(own.store, "quality", "train").glob("*.parquet"))
    second.write_bytes(first.read_bytes())
    assert measure(own).damaged == 1 and files(own) == whole


def test_a_damaged_file_of_a_shard_that_is_gone_makes_room_for_nulls(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.tag()
    measure(world)
    (tmp_path / "shards" / "00000.tar").unlink()
    (path,) = Path(world.store, "quality").glob("*/00000-*.parquet")
    path.write_bytes(b"")
    assert not measure(world, dataset="world").ok and not path.exists()
    assert world.ask("select shard, count(phash) from quality group by all order by all") == [
        ("00000", 0),
        ("00001", 5),
    ]


def test_strange_files_beside_statistics_are_in_nobodys_way(own: World) -> None:
    measure(own)
    for name in ("quality/README.txt", "quality/train/notes.parquet", "duplicates/notes.parquet"):
        path = Path(own.store, name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("not Parquet")
    assert own.ask("select count(sharpness) from quality") == [(23,)] and own.ask("from duplicates") == []
    report = audit_run(Folder(own.store))
    assert report.ok and [finding.code for finding in report.findings] == [FindingCode.LEFTOVER] * 2
    assert all("notes.parquet" in finding.message for finding in report.findings)
    summary = measure(own)
    assert (summary.kept, summary.damaged) == (3, 0) and Path(own.store, "quality/train/notes.parquet").exists()


def test_from_the_command_line_without_a_model(own: World) -> None:
    words = ["quality", "--store", own.store, "--decode-threads", "2"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["pictures"] == 23
    said = CliRunner().invoke(app, words).stdout
    assert "3 shards were measured before" in said and "of 23 measured pictures" in said and "clipdecoder sql" in said
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(repr(set(sys.modules)))"
    shutil.rmtree(Path(own.store, "quality"))
    done_alone = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert not {"torch", "prefect", "open_clip", "timm"} & eval(done_alone.stderr)
    assert CliRunner().invoke(app, ["quality", "--store", own.store, "--dataset", "x"]).exit_code != 0


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        run_quality(QualityRequest(store=str(tmp_path / "none")))
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreError, match="no tagged shard"):
        run_quality(QualityRequest(store=str(tmp_path / "store")))
    with pytest.raises(ConfigError):
        make_request(QualityRequest, store="x", dataset="../x")


def test_on_an_object_store(tmp_path: Path, bucket: str) -> None:
    world = make_world(tmp_path, images=3)
    source = Folder(f"{bucket}/shards")
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        source.write_bytes(path.name, path.read_bytes())
    store = f"{bucket}/store"
    world.tag(shards=(f"{bucket}/shards/*.tar",), store=store)
    summary = measure(world, store=store)
    assert summary.ok and (summary.shards, summary.pictures) == (2, 6)
    assert world.ask("select count(sharpness) from quality", store) == [(6,)]
    assert measure(world, store=store).kept == 2
    names = Folder(store).list("quality")
    with Folder(store).open(names[0]) as file:
        assert pq.read_table(file).num_rows == 3
