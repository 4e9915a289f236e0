"""The audit passes what is whole, and finds each way in which a store can be not whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import StoreError
from schemas.manifest import Fingerprint, Part, ShardReport
from schemas.sample import SampleStatus, ShardStatus
from schemas.tables import SCORES
from storage.annotations import Annotation, write_annotations
from storage.audit import audit_run
from storage.files import Folder, checksum, fingerprint_of
from storage.findings import AuditReport, FindingCode, RunCounts
from storage.patterns import ShardRef
from storage.runs import report_path
from storage.side_labels import side_labels
from tests.nasty import build_tar, cut_tar, jpeg
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

TAXONOMY = make_taxonomy("ant", "bee")
EMPTY = SampleStatus.EMPTY


class World:
    """Two real shards of three images each, one of them failed, and a store with an unfinished run over them.

    (Without a manifest the reports are what counts, so that a test can change one.)
    """

    def __init__(self, root: Path) -> None:
        self.shards, self.store = root / "shards", root / "store"
        self.shards.mkdir()
        self.folder = Folder(str(self.store))
        make_model(self.folder)
        for name in ("00", "01"):
            self.write_shard(name)
        self.tag()

    def write_shard(self, name: str, images: int = 3) -> None:
        members = [(f"{name if number else 'shared'}-{number}.jpg", jpeg(number)) for number in range(images)]
        (self.shards / f"{name}.tar").write_bytes(build_tar([*members, ("readme.md", b"x")]))

    def fingerprint(self, name: str) -> Fingerprint:
        return fingerprint_of(fsspec.filesystem("file").info(str(self.shards / f"{name}.tar")))

    def shard(self, name: str, **values: object) -> Shard:
        fields: dict[str, object] = {
            "scores": {"ant": [0.9, None, 0.2], "bee": [0.5, None, 0.6]},
            "statuses": (OK, EMPTY, OK),
            "keys": ["shared-0", f"{name}-1", f"{name}-2"],
            "fingerprint": self.fingerprint(name),
            "url": f"{self.shards}/{name}.tar",
        }
        return Shard(**(fields | values))  # type: ignore[arg-type]

    def tag(self, *, complete: bool = True, **values: object) -> None:
        """Write the run; `values` change what it says of shard 00."""
        shards = {"00": self.shard("00", **values), "01": self.shard("01")}
        place: dict[str, Any] = {"root": str(self.shards), "patterns": (f"{self.shards}/*.tar",), "top_k": 2}
        make_run(self.folder, "r1", TAXONOMY, shards, complete=complete, **place)

    def rewrite(self, kind: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Change a part of shard 00, and let the report name the new bytes."""
        (self.store / "runs/r1/manifest.json").unlink(missing_ok=True)
        report = self.report()
        path = self.store / report.parts[kind].path
        table = change(pq.read_table(path))
        pq.write_table(table, path)
        data = path.read_bytes()
        part = Part(path=report.parts[kind].path, rows=table.num_rows, bytes=len(data), sha256=checksum(data))
        self.save(report.model_copy(update={"parts": report.parts | {kind: part}}))

    def report(self) -> ShardReport:
        return ShardReport.model_validate_json((self.store / report_path("r1", "00")).read_bytes())

    def save(self, report: ShardReport) -> None:
        (self.store / report_path("r1", "00")).write_text(report.model_dump_json())

    def codes(self) -> set[str]:
        """Return what is found of shard 00; nothing may be found of shard 01."""
        findings = audit_run(self.folder).findings
        assert {finding.shard for finding in findings} <= {"00", None}
        return {finding.code.value for finding in findings} - {"incomplete"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_whole_run_passes_with_its_counts(world: World) -> None:
    report = audit_run(world.folder)
    counts = RunCounts(run_id="r1", shards=2, images=6, samples=6, ok=4, failed=2, scores=8, shared_keys=1)
    assert report == AuditReport(runs=(counts,), findings=())
    assert report.ok
    assert report.lines() == [
        "passed: r1: 2 shards, 6 images in them, 6 rows = 4 ok + 2 failed, 8 scores, 1 keys in more than one shard"
    ]
    assert json.loads(report.model_dump_json())["ok"] is True


def test_a_truncated_shard_passes_when_the_report_says_so(world: World) -> None:
    path = world.shards / "00.tar"
    path.write_bytes(cut_tar(path.read_bytes(), "00-2.jpg"))
    world.tag()
    report = audit_run(world.folder)
    assert [finding.code for finding in report.findings] == [FindingCode.SHARD_UNREADABLE]
    assert not report.ok
    images = report.runs[0].images - 3
    statuses = (OK, EMPTY, OK)[:images]
    scores = {"ant": [0.9, None, 0.2][:images], "bee": [0.5, None, 0.6][:images]}
    keys = ["shared-0", "00-1", "00-2"][:images]
    world.tag(statuses=statuses, scores=scores, keys=keys, status=ShardStatus.TRUNCATED)
    assert audit_run(world.folder).ok


def test_parts_must_be_there_and_be_what_was_written(world: World) -> None:
    path = world.store / world.report().parts["scores"].path
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert world.codes() == {"part_changed"}
    path.write_bytes(data + b"x")
    assert world.codes() == {"part_changed"}
    path.unlink()
    assert world.codes() == {"part_missing"}
    message = audit_run(world.folder).lines()[0]
    assert message.startswith("FAILED part_missing: r1 00: runs/r1/scores/00.parquet is not there; run the same")


def test_parts_must_be_parquet_with_our_columns(world: World) -> None:
    world.rewrite("scores", lambda table: table.drop_columns(["odds"]))
    assert world.codes() == {"part_unreadable"}
    report = world.report()
    path = world.store / report.parts["samples"].path
    path.write_bytes(b"not parquet")
    part = report.parts["samples"].model_copy(update={"bytes": 11, "sha256": checksum(b"not parquet")})
    world.save(report.model_copy(update={"parts": report.parts | {"samples": part}}))
    assert world.codes() == {"part_unreadable"}


def test_a_report_without_parts_is_found(world: World) -> None:
    (world.store / "runs/r1/manifest.json").unlink()
    world.save(world.report().model_copy(update={"parts": {}}))
    assert world.codes() == {"part_missing"}


def test_rows_must_be_every_ordinal_once(world: World) -> None:
    world.rewrite("samples", lambda table: table.take([0, 2]))
    assert world.codes() == {"rows"}
    world.tag()
    world.rewrite("samples", lambda table: table.take([0, 1, 1]))
    assert world.codes() == {"rows"}


def test_a_row_lost_at_the_end_shows_against_the_report_and_the_tar(world: World) -> None:
    world.rewrite("samples", lambda table: table.slice(0, 2))
    assert world.codes() == {"rows", "images", "scores"}


def test_the_reports_counts_must_be_the_rows(world: World) -> None:
    (world.store / "runs/r1/manifest.json").unlink()
    world.save(world.report().model_copy(update={"statuses": {OK: 3}}))
    assert world.codes() == {"rows"}
    report = world.report().model_copy(update={"statuses": {OK: 2, EMPTY: 1}})
    part = report.parts["scores"].model_copy(update={"rows": 5})
    world.save(report.model_copy(update={"parts": report.parts | {"scores": part}}))
    assert world.codes() == {"rows"}


def _scores(*rows: tuple[int, str]) -> Callable[[pa.Table], pa.Table]:
    maps = {"slope": 1.0, "intercept": 0.0}
    cells = [{"shard": "00", "sample": s, "label_id": label, "odds": 0} | maps for s, label in rows]
    return lambda _: pa.Table.from_pylist(cells, schema=SCORES)


WHOLE = ((0, "ant"), (2, "ant"), (0, "bee"), (2, "bee"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((*WHOLE, (1, "bee")), "not ok: 1"),
        ((*WHOLE, (3, "bee")), "not ok: 3"),
        ((*WHOLE, (-1, "bee")), "not ok: -1"),
        (WHOLE[:3], "fewer than 2 scores of samples 2"),
        ((), "fewer than 2 scores of samples 0, 2"),
        ((*WHOLE, (2, "bee")), "two scores of one label"),
        ((*WHOLE, (2, "cow")), "did not score: cow"),
    ],
)
def test_scores_are_of_ok_samples_each_label_once_and_enough(
    world: World, rows: tuple[tuple[int, str], ...], message: str
) -> None:
    world.rewrite("scores", _scores(*rows))
    assert world.codes() == {"scores"}
    assert message in "\n".join(audit_run(world.folder).lines())


def test_the_shard_must_have_the_bytes_and_the_images_that_were_scored(world: World) -> None:
    world.write_shard("00", images=4)
    assert world.codes() == {"shard_changed"}
    world.tag()
    assert world.codes() == {"images"}


def test_a_shard_that_is_gone_is_a_warning(world: World) -> None:
    (world.shards / "00.tar").unlink()
    report = audit_run(world.folder)
    assert [(finding.code.value, finding.shard, finding.warning) for finding in report.findings] == [
        ("shard_gone", "00", True)
    ]
    assert report.ok and report.runs[0].images == 3
    (world.shards / "01.tar").unlink()
    assert {finding.code.value for finding in audit_run(world.folder).findings} == {"shard_gone", "unlistable"}


def test_shards_without_a_report_and_a_run_without_a_manifest_fail(world: World) -> None:
    world.write_shard("02")
    (world.store / "runs/r1/manifest.json").unlink()
    (world.store / report_path("r1", "01")).unlink()
    report = audit_run(world.folder)
    assert [(finding.code.value, finding.shard) for finding in report.findings] == [
        ("incomplete", None),
        ("no_report", "01"),
        ("no_report", "02"),
    ]
    assert not report.ok


def test_leftovers_are_listed_and_harmless(world: World) -> None:
    (world.store / "runs/r1/scores/.tmp-0-00.parquet").write_bytes(b"x")
    report = audit_run(world.folder)
    assert [(finding.code.value, finding.warning) for finding in report.findings] == [("leftover", True)]
    assert report.ok
    make_run(world.folder, "r2", TAXONOMY, {}, dataset="roads")
    assert FindingCode.LEFTOVER not in {finding.code for finding in audit_run(world.folder, "r2").findings}


def test_a_run_is_named_as_by_other_commands(world: World) -> None:
    make_run(world.folder, "r2-street", TAXONOMY, {}, hours=1)
    make_run(world.folder, "roads-1", TAXONOMY, {}, dataset="roads")
    for name, run_id in (("r1", "r1"), ("r2-s", "r2-street"), ("street", "r2-street"), ("roads", "roads-1")):
        assert run_ids(world.folder, name) == [run_id]
    with pytest.raises(StoreError, match="may be r1, roads-1, r2-street; write more"):
        audit_run(world.folder, "r")
    with pytest.raises(StoreError, match="name is empty; leave it out for the newest, or name one of r1"):
        audit_run(world.folder, "")


def run_ids(folder: Folder, run_id: str | None = None) -> list[str]:
    return [run.run_id for run in audit_run(folder, run_id).runs]


def test_every_run_that_the_views_show_is_audited(world: World) -> None:
    place: dict[str, Any] = {"root": str(world.shards), "patterns": (f"{world.shards}/*.tar",)}
    extended = make_taxonomy("ant", "bee", "cow")
    cows = {name: world.shard(name, scores={"cow": [0.9, None, 0.2]}) for name in ("00", "01")}
    make_run(world.folder, "r2", extended, cows, hours=1, labels=["cow"], **place)
    report = audit_run(world.folder)
    assert report.ok
    assert [line.partition(" shards")[0] for line in report.lines()] == ["passed: r1: 2", "passed: r2: 2"]

    part = world.store / world.report().parts["scores"].path
    part.write_bytes(part.read_bytes()[:-1])
    lines = audit_run(world.folder).lines()
    assert lines[0].startswith("FAILED part_changed: r1 00: ")
    assert [line.partition(" shards")[0] for line in lines[1:]] == ["FAILED: r1: 2", "passed: r2: 2"]

    everything = {name: world.shard(name) for name in ("00", "01")}
    make_run(world.folder, "r3", TAXONOMY, everything, hours=2, **place)
    assert run_ids(world.folder) == ["r2", "r3"], "nothing of r1 is shown any more"


def test_runs_of_a_model_that_is_not_shown_count_only_while_they_are_the_newest(world: World) -> None:
    make_model(world.folder, "m2", promoted=False)
    make_run(world.folder, "trial", TAXONOMY, {"00": world.shard("00")}, hours=-1, model_id="m2")
    assert run_ids(world.folder) == ["r1"]
    make_run(world.folder, "later", TAXONOMY, {"00": world.shard("00")}, hours=1, model_id="m2")
    assert run_ids(world.folder) == ["r1", "later"]


def test_the_newest_run_of_each_dataset_is_audited_or_the_one_named(world: World) -> None:
    for run_id, dataset, hours in (("older", "roads", 1), ("newer", "roads", 2)):
        make_run(world.folder, run_id, TAXONOMY, {}, hours=hours, dataset=dataset)
    assert set(run_ids(world.folder)) == {"r1", "newer"}
    assert run_ids(world.folder, "older") == ["older"]
    with pytest.raises(StoreError, match="unknown run 'nope'; known: newer, older, r1"):
        audit_run(world.folder, "nope")


def test_a_store_without_runs_does_not_pass(tmp_path: Path) -> None:
    report = audit_run(Folder(str(tmp_path)))
    assert report.lines() == ["FAILED no_run: the store has no run; `clipdecoder tag` makes one"]
    assert not report.ok


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at .*clipdecoder tag"):
        audit_run(Folder(str(tmp_path / "missing")))


def test_a_remote_run_is_proven_as_well(bucket: str) -> None:
    shards, folder = Folder(f"{bucket}/shards"), Folder(f"{bucket}/store")
    shards.write_bytes("00.tar", build_tar([("a.jpg", jpeg())]))
    shard = Shard(
        scores={"ant": [0.9]},
        statuses=(OK,),
        fingerprint=fingerprint_of(shards.fs.info(shards.path("00.tar"))),
        url=f"{shards.url}/00.tar",
    )
    make_model(folder)
    make_run(folder, "r1", TAXONOMY, {"00": shard}, root=shards.url, patterns=(f"{shards.url}/*.tar",))
    report = audit_run(folder)
    (run,) = report.runs
    assert (run.images, run.samples, run.scores, report.findings) == (1, 1, 1, ())


@pytest.mark.parametrize("path", ["runs/r1/run.json", "taxonomies/*.json", "models/m1/config.json"])
@pytest.mark.parametrize("damage", ["lost", "torn"])
def test_a_record_that_is_lost_or_torn_is_found(world: World, path: str, damage: str) -> None:
    for file in Path(world.folder.root).glob(path):
        if damage == "lost":
            file.unlink()
        else:
            file.write_text(file.read_text()[:20])
    report = audit_run(world.folder)
    assert not report.ok and FindingCode.RECORD in {finding.code for finding in report.findings}


def test_a_truncated_shard_is_a_warning(world: World) -> None:
    whole = build_tar([("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])
    (world.shards / "cut.tar").write_bytes(cut_tar(whole, "b.jpg"))
    statuses = (OK, SampleStatus.TRUNCATED)
    shard = world.shard("cut", statuses=statuses, keys=["a", "b"], scores={}, status=ShardStatus.TRUNCATED)
    make_run(world.folder, "cut", TAXONOMY, {"cut": shard}, hours=1)
    report = audit_run(world.folder, "cut")
    assert FindingCode.SHARD_CUT in {finding.code for finding in report.findings}


def test_many_findings_of_a_kind_are_told_as_a_number(world: World) -> None:
    world.tag()
    for number in range(30):
        (world.shards / f"new-{number}.tar").write_bytes(build_tar([]))
    lines = audit_run(world.folder).lines()
    assert sum("no_report" in line for line in lines) == 11 and any("20 more of no_report" in line for line in lines)


def test_ground_truth_that_the_views_cannot_read_is_found(world: World) -> None:
    path = (
        world.store / write_annotations(world.folder, [Annotation(key="a", label_id="ant", value=1, source="me")]).path
    )
    ref = ShardRef(shard="00", url=f"{world.shards}/00.tar", fingerprint=world.fingerprint("00"))
    side_labels(world.folder, "street", ref)
    assert world.codes() == set()
    path.write_bytes(path.read_bytes()[:-9])
    side = world.store / "side_labels/street/00.parquet"
    pq.write_table(pq.read_table(side).replace_schema_metadata(), side)
    findings = audit_run(world.folder).findings
    assert [finding.code for finding in findings] == [FindingCode.GROUND_TRUTH] * 2
    assert "import its answers again" in findings[0].message and "read from its shard again" in findings[1].message
