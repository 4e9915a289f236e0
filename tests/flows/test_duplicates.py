"""Duplicates: groups that a person can trust, over all datasets, for SQL and export."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.duplicates import run_duplicates
from flows.export import run_export
from flows.quality import run_quality
from schemas.config import make_request
from schemas.curation import DuplicatesRequest, DuplicatesSummary, QualityRequest
from schemas.errors import ConfigError, ModelError, StoreError
from schemas.export import ExportRequest
from storage.audit import audit_run
from storage.embeddings import embedded_shards, iter_embeddings
from storage.files import Folder
from storage.findings import FindingCode
from storage.models import promote, read_models, write_model
from storage.runs import read_runs
from tests.damage import DAMAGES
from tests.flows.copies import make_copies_world
from tests.flows.world import World, make_world, pictures

COPIES = "select key, reason, dataset from duplicates where not representative order by key"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a tagged and measured world in which nobody has looked for duplicates."""
    world = make_copies_world(tmp_path_factory.mktemp("copies"))
    run_quality(QualityRequest(store=world.store))
    return world


@pytest.fixture
def own(measured: World, tmp_path: Path) -> World:
    """Return a copy of the store and of nothing else."""
    shutil.copytree(measured.store, tmp_path / "store")
    return replace(measured, folder=tmp_path)


def find(world: World, **options: Any) -> DuplicatesSummary:
    return run_duplicates(make_request(DuplicatesRequest, **{"store": world.store, **options}))


def embeddings(world: World) -> dict[tuple[str, str, int], np.ndarray[Any, np.dtype[np.float64]]]:
    folder = Folder(world.store)
    (model,) = read_models(folder).values()
    found = {}
    for shard in embedded_shards(read_runs(folder)):
        for chunk in iter_embeddings(folder, model.encoder_id, shard):
            for sample, row in zip(chunk.samples_N.tolist(), chunk.embeddings_ND.astype(np.float64), strict=True):
                found[shard.dataset, shard.shard, sample] = row / np.linalg.norm(row)
    return found


def test_copies_are_found_with_why_and_across_datasets(own: World) -> None:
    summary = find(own)
    assert own.ask(COPIES) == [
        ("again-scene-3", "same bytes", "train"),
        ("leaked-scene-5", "same picture", "held-out"),
        *((f"small-scene-{number}", "same picture", "train") for number in range(3)),
    ]
    assert summary.computed and (summary.groups, summary.across_datasets) == (5, 1)
    assert summary.members == {"same bytes": 1, "same picture": 4}
    assert (summary.record.embedded, summary.record.hashed, summary.record.facts.samples) == (23, 22, 23)
    kept = own.ask("select key, cosine, reason from duplicates where representative order by key")
    assert kept == [(f"scene-{number}", 1.0, None) for number in (0, 1, 2, 3, 5)]


@pytest.mark.parametrize("limit", [0.6, 0.8, 0.9, 0.97, 1.0])
def test_every_member_is_within_the_limit_of_its_representative_and_in_one_group(own: World, limit: float) -> None:
    find(own, min_cosine=limit)
    known = embeddings(own)
    rows = own.ask("select group_id, dataset, shard, sample, representative, cosine, reason from duplicates")
    leaders = {row[0]: row[1:4] for row in rows if row[4]}
    assert len(leaders) == len({row[0] for row in rows}) and len({row[1:4] for row in rows}) == len(rows)
    for group, *place, representative, cosine, reason in rows:
        exact = float(known[tuple(place)] @ known[leaders[group]])
        assert cosine == pytest.approx(exact, abs=2e-3)
        assert representative or exact >= limit - 1e-6 or reason == "same bytes"
    kept = own.ask(
        "select dataset, shard, sample from quality anti join (from duplicates where not representative) "
        "using (dataset, shard, sample)"
    )
    matrix = np.array([known[place] for place in kept])
    assert (np.triu(matrix @ matrix.T, 1) < limit + 1e-6).all(), "no two that are kept are alike"


def test_a_representative_has_the_most_pixels_then_bytes(own: World) -> None:
    find(own, min_cosine=0.8)
    worst = own.ask(
        "select bool_and((l.width * l.height, l.bytes) >= (m.width * m.height, m.bytes)) from duplicates d "
        "join quality m using (dataset, shard, sample) join (select group_id, width, height, bytes from duplicates "
        "join quality using (dataset, shard, sample) where representative) l using (group_id)"
    )
    assert worst == [(True,)]


def test_hashes_join_what_embeddings_do_not(own: World) -> None:
    find(own, min_cosine=1)
    assert [row[0] for row in own.ask(COPIES)] == ["again-scene-3"]
    summary = find(own, min_cosine=1, max_phash=6)
    assert summary.computed and {row[0] for row in own.ask(COPIES)} >= {"leaked-scene-5", "small-scene-0"}
    far = own.ask(
        "with hashed as (select * from duplicates join quality using (dataset, shard, sample)) "
        "select max(bit_count(xor(a.phash, b.phash))) from hashed a join hashed b using (group_id) "
        "where b.representative"
    )
    assert far[0][0] <= 6


def test_the_same_again_computes_nothing_and_what_changed_is_computed_anew(own: World) -> None:
    first = find(own)
    (path,) = Path(own.store, "duplicates").iterdir()
    data, inode = path.read_bytes(), path.stat().st_ino
    again = find(own)
    assert not again.computed and path.stat().st_ino == inode and "nothing has changed" in "\n".join(again.lines())
    assert again.record == first.record and (again.groups, again.members) == (first.groups, first.members)
    assert find(own, min_cosine=0.9).computed
    path.write_bytes(b"damaged")
    assert find(own).computed and path.read_bytes() == data, "equal samples give equal bytes"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_stops_its_own_view_and_is_computed_again(own: World, damage: str) -> None:
    find(own)
    (path,) = Path(own.store, "duplicates").glob("*.parquet")
    whole = path.read_bytes()
    DAMAGES[damage](path)
    with pytest.raises(
        StoreError, match=r"cannot be read.*(`clipdecoder duplicates` computes|`clipdecoder audit` say)"
    ):
        own.ask("from duplicates")
    assert own.ask("select count(*), count(sharpness) from quality") == [(23, 23)]
    found = [finding for finding in audit_run(Folder(own.store)).findings if finding.code is FindingCode.CURATION]
    assert len(found) == 1 and "`clipdecoder duplicates` computes it again" in found[0].message
    assert find(own).computed and path.read_bytes() == whole and audit_run(Folder(own.store)).ok


def test_groups_are_shown_whichever_model_is_promoted(own: World) -> None:
    """A model that was just trained has no run yet, and the encoder of another one."""
    find(own)
    folder = Folder(own.store)
    (record,) = read_models(folder).values()
    write_model(folder, record.model_copy(update={"model_id": "trained"}))
    promote(folder, "trained", "test")
    (path,) = Path(own.store, "duplicates").glob("*.parquet")
    path.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="`clipdecoder duplicates` computes it again"):
        own.ask("from duplicates")
    assert [each.code for each in audit_run(folder).findings if path.name in each.message] == [FindingCode.CURATION]


def test_damaged_statistics_are_measured_first(own: World) -> None:
    first = find(own)
    _, path = sorted(Path(own.store, "quality", "train").glob("*.parquet"))
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="`clipdecoder quality` measures its shard again"):
        find(own)
    run_quality(QualityRequest(store=own.store))
    again = find(own)
    assert not again.computed and again.record == first.record


def test_groups_are_out_of_date_when_a_shard_was_tagged_since(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=3)
    world.shard("00002", pictures(0, 3))
    world.tag()
    find(world)
    assert len(world.ask("from duplicates")) == 6 and audit_run(Folder(world.store)).ok
    names = world.ask("select key, group_id from duplicates where representative order by key")
    world.shard("00000", pictures(5, 4))
    world.tag()
    # The representatives stood in the shard that changed: nothing is left of their groups, nobody is called a copy.
    assert world.ask("from duplicates") == []
    stale = [each for each in audit_run(Folder(world.store)).findings if each.code is FindingCode.STALE]
    assert len(stale) == 1 and stale[0].warning and "clipdecoder duplicates" in stale[0].message
    assert find(world).computed and world.ask("from duplicates") == []
    world.shard("00003", pictures(0, 3))
    world.tag()
    find(world)
    assert world.ask("select key, group_id from duplicates where representative order by key") == names


def test_a_group_of_which_one_is_left_is_none(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=3)
    world.shard("00002", pictures(0, 3))
    world.tag()
    find(world)
    world.shard("00002", pictures(5, 4))
    world.tag()
    assert world.ask("from duplicates") == []


def test_hashes_that_are_asked_for_and_not_there_are_said(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=1)
    world.tag()
    assert "5 samples have no perceptual hash: `clipdecoder quality`" in "\n".join(find(world, max_phash=4).lines())
    assert "perceptual" not in "\n".join(find(world).lines())


def test_samples_without_an_embedding_are_compared_by_their_bytes_alone(own: World) -> None:
    (model,) = read_models(Folder(own.store)).values()
    shutil.rmtree(Path(own.store, "features", model.encoder_id, "train"))
    summary = find(own)
    assert own.ask(COPIES) == [("again-scene-3", "same bytes", "train")] and summary.record.embedded == 6
    assert "17 samples have no embedding" in "\n".join(summary.lines())
    assert find(own, max_phash=6).groups > 1
    assert own.ask("select count(*) from duplicates where cosine is null and reason = 'same picture'")[0][0] >= 3


def test_damaged_embeddings_cost_their_shard_and_are_tried_again(own: World) -> None:
    (path,) = Path(own.store, "features").glob("*/held-out/*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(200) + whole[300:])
    summary = find(own)
    assert not summary.ok and "cannot be read" in summary.record.unreadable[0]
    assert ("leaked-scene-5", "same picture", "held-out") not in own.ask(COPIES)
    path.write_bytes(whole)
    assert find(own).ok and ("leaked-scene-5", "same picture", "held-out") in own.ask(COPIES)


def test_what_is_kept_can_be_exported(measured: World, own: World) -> None:
    find(own)
    sql = (
        "select dataset, shard, key from quality anti join (from duplicates where not representative) "
        "using (dataset, shard, sample) where phash is not null"
    )
    summary = run_export(ExportRequest(store=own.store, sql=sql, to=str(own.folder / "out" / "{:05d}.tar")))
    assert summary.ok and summary.samples == 23 - 5 - 1


def test_from_the_command_line(own: World) -> None:
    words = ["duplicates", "--store", own.store, "--min-cosine", "0.97"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["groups"] >= 4
    said = CliRunner().invoke(app, words).stdout
    assert "copies of another one: " in said and "anti join" in said
    for wrong in (["--min-cosine", "2"], ["--max-phash", "40"], ["--model", "nothing"]):
        refused = CliRunner().invoke(app, ["duplicates", "--store", own.store, *wrong])
        assert isinstance(refused.exception, ConfigError | ModelError)
    with pytest.raises(StoreError, match="there is no store"):
        run_duplicates(DuplicatesRequest(store=str(own.folder / "none")))


def test_on_an_object_store(measured: World, bucket: str) -> None:
    folder = Folder(f"{bucket}/store")
    for path in sorted(Path(measured.store).rglob("*")):
        if path.is_file():
            folder.write_bytes(str(path.relative_to(measured.store)), path.read_bytes())
    summary = find(measured, store=folder.url)
    assert summary.ok and summary.groups == 5
    assert len(measured.ask(COPIES, folder.url)) == 5 and not find(measured, store=folder.url).computed
    assert io.BytesIO(folder.read_bytes(folder.list("duplicates")[0])).read(4) == b"PAR1"
