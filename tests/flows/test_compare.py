"""What compares two models where the canary shard has to be read."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from flows.retraining.compare import Comparison, compare
from flows.retraining.sources import Canary
from schemas.config import MAX_PIXELS, RetrainRequest
from schemas.errors import RunError
from storage.files import Folder, fingerprint_of
from storage.models import read_model
from storage.patterns import ShardRef
from storage.runs import read_runs
from storage.taxonomies import load_taxonomy
from tests.flows.annotated import AnnotatedWorld
from tests.flows.grown import make_grown_world, policy


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
    assert [gate.passed for gate in report.gates] == [True, True, None, None]
    assert "canary shard cannot be read" in report.gates[-1].why
