"""What compares two models where the canary shard has to be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from flows.retraining.compare import Comparison, compare
from flows.retraining.sources import Canary, find_canary
from schemas.config import MAX_PIXELS, RetrainRequest
from schemas.errors import RunError
from storage.files import Folder, fingerprint_of
from storage.models import read_model
from storage.patterns import ShardRef
from storage.runs import read_runs
from storage.taxonomies import load_taxonomy, put_in_force, write_taxonomy
from tests.flows.annotated import AnnotatedWorld
from tests.flows.grown import copy_store, make_grown_world, policy


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[AnnotatedWorld, str]:
    """Return a world with a trained model; for tests that change nothing."""
    return make_grown_world(tmp_path_factory.mktemp("grown"))


def case(world: AnnotatedWorld, model_id: str, url: Path) -> Comparison:
    """Compare a model with itself; the canary is at `url`, with the bytes that it has now, and not stored."""
    folder = Folder(world.store)
    fingerprint = fingerprint_of(fsspec.filesystem("file").info(str(url)))
    ref = ShardRef(shard="new", url=f"file://{url}", fingerprint=fingerprint)
    record = read_model(folder, model_id)
    return Comparison(
        request=RetrainRequest(store=world.store, policy=policy(), batch_size=16),
        decision_id="d",
        asking=frozenset(),
        taxonomy=load_taxonomy(str(world.taxonomy)),
        runs=read_runs(folder),
        canary=Canary(dataset="canary", ref=ref, max_pixels=MAX_PIXELS),
        current=record,
        new=record,
    )


def test_gates_that_wait_for_a_shard_are_not_passed_by(grown: tuple[AnnotatedWorld, str], tmp_path: Path) -> None:
    world, model_id = grown
    with pytest.raises(RunError, match="run the same command again when it can be read"):
        compare(case(world, model_id, tmp_path))  # a folder: it is there, and cannot be read


def test_a_canary_that_is_gone_measures_nothing(grown: tuple[AnnotatedWorld, str], tmp_path: Path) -> None:
    world, model_id = grown
    shard = tmp_path / "new.tar"
    shard.write_bytes(b"")
    wanted = case(world, model_id, shard)
    shard.unlink()
    report = compare(wanted)
    assert report.passed and report.canary is None
    assert [gate.passed for gate in report.gates] == [True, True, None, None, None]
    assert "canary shard cannot be read" in report.gates[-1].why


def test_a_merged_label_is_tagged_as_the_views_show_it(grown: tuple[AnnotatedWorld, str], tmp_path: Path) -> None:
    """Scores of the label that was merged count for the one that is left, of the old model and of the new one."""
    (tmp_path / "own").mkdir()
    world, model_id = copy_store(grown[0], tmp_path / "own"), grown[1]
    folder = Folder(world.store)
    tagged = "select label_id, count(*) from tags where dataset = 'canary' group by all order by 2 desc, 1 limit 2"
    (gone, _), (kept, alone) = world.ask(tagged)
    old = load_taxonomy(str(world.taxonomy))
    labels = [label.model_copy(update={"merged_into": kept}) if label.id == gone else label for label in old.labels]
    merged = old.model_copy(update={"labels": tuple(labels)})
    write_taxonomy(folder, merged)
    put_in_force(folder, merged)

    canary = find_canary(read_runs(folder), "canary/00000")
    report = compare(replace(case(world, model_id, world.taxonomy), taxonomy=merged, canary=canary))
    both = world.ask(f"select count(*) from tags where dataset = 'canary' and label_id = '{kept}'")[0][0]
    found = next(label for label in report.labels if label.label_id == kept)
    assert report.canary_images == 60 and both > alone
    assert found.rate_before == found.rate_after == pytest.approx(both / 60)
    assert found.ap_before == found.ap_after is not None
    assert gone not in {label.label_id for label in report.labels}
