"""Whether to retrain: evidence counted as training counts it, reasons in sentences, once for each state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.models import load_model
from flows.retraining.evidence import Evidence, read_evidence
from flows.tagging.features import FeatureRequest
from flows.training.ground_truth import Source, gather
from schemas.digests import digest_of
from schemas.errors import StoreError
from schemas.retraining import LabelEvidence, RetrainDecision, RetrainPolicy
from schemas.training import Missing
from storage.annotations import read_answers
from storage.files import Folder
from storage.patterns import list_shards
from storage.retraining import find_decision, read_decisions
from storage.runs import read_runs
from storage.taxonomies import load_taxonomy
from tests.flows.annotated import SideFile, make_written_world
from tests.flows.grown import answer, decide_here, put_taxonomy
from tests.flows.world import LABELS, World, make_world, pictures, taxonomy_text
from tests.stores import make_model

KEYS = [f"s{shard}-{number}" for shard in (0, 1) for number in range(5)]
RED, BLUE = LABELS[:2]
FEW = RetrainPolicy(min_positives=3, min_held_out=1)


@pytest.fixture
def tagged(world: World) -> World:
    """Return ten pictures that the bundled model has tagged, and that nobody has annotated."""
    world.tag()
    return world


def of(decision: RetrainDecision, label_id: str) -> LabelEvidence:
    return next(label for label in decision.labels if label.label_id == label_id)


def files(world: World) -> dict[str, bytes]:
    store = Path(world.store)
    return {str(path): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def count(world: World, missing: Missing = "negative", **changes: bool) -> Evidence:
    folder = Folder(world.store)
    taxonomy = load_taxonomy(str(world.taxonomy))
    return read_evidence(folder, read_runs(folder), taxonomy, missing=missing, held_out_share=0.3, **changes)


def test_without_ground_truth_it_says_how_to_get_some(tagged: World) -> None:
    decision = decide_here(tagged)
    assert not decision.retrain and decision.labels == ()
    assert "no ground truth yet" in decision.reasons[0] and "review export" in decision.reasons[0]


def test_what_came_to_the_policy_later_leaves_old_decisions_as_they_were(tagged: World) -> None:
    made = decide_here(tagged, FEW)
    asked = FEW.model_dump(mode="json", exclude={"enabled", "require_gain"})
    state = {"taxonomy": made.taxonomy_digest, "ground_truth": made.ground_truth_digest, "policy": asked}
    assert made.decision_id == digest_of(state)
    assert decide_here(tagged, FEW.model_copy(update={"require_gain": True})).decision_id != made.decision_id


def test_a_folder_that_is_no_store_is_refused(world: World) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        decide_here(world)


def test_a_label_with_enough_positives_asks_and_one_with_fewer_says_what_it_lacks(tagged: World) -> None:
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 1, 0, 0), strict=False)), RED)
    answer(tagged, dict(zip(KEYS, (1, 1, 0), strict=False)), BLUE)
    decision = decide_here(tagged, FEW)
    assert decision.retrain and decision.asking == (RED,)
    assert decision.reasons == ("red-circle: 4 positives and 2 negatives, and the current model was not trained on it",)
    assert of(decision, BLUE).reason == "2 positives, 3 needed"
    declined = decide_here(tagged, RetrainPolicy(min_positives=5))
    assert not declined.retrain and "red-circle: 4 positives, 5 needed" in declined.reasons[0]


def test_a_label_that_nobody_denied_asks_for_nothing(tagged: World) -> None:
    answer(tagged, dict.fromkeys(KEYS, 1), RED)
    decision = decide_here(tagged, FEW)
    assert not decision.retrain and "no negative" in of(decision, RED).reason


def test_keys_that_no_picture_has_are_no_evidence(tagged: World) -> None:
    answer(tagged, {f"elsewhere-{number}": number % 2 for number in range(20)}, RED)
    assert decide_here(tagged, FEW).labels == ()


def test_a_doubt_takes_back_a_yes_and_is_no_answer(tagged: World) -> None:
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    assert decide_here(tagged, FEW).retrain
    answer(tagged, {KEYS[0]: None}, RED)
    decision = decide_here(tagged, FEW)
    assert not decision.retrain and of(decision, RED).positives == 2


def test_retired_and_merged_labels_do_not_ask_and_a_merge_brings_its_positives(tagged: World) -> None:
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    answer(tagged, dict(zip(KEYS[4:], (1, 0), strict=False)), BLUE)
    text = taxonomy_text().replace("name: red circle}", "name: red circle, retired: true}")
    put_taxonomy(tagged, text)
    assert [label.label_id for label in decide_here(tagged, FEW).labels] == [BLUE]
    put_taxonomy(tagged, taxonomy_text().replace("name: red circle}", f"name: red circle, merged_into: {BLUE}}}"))
    decision = decide_here(tagged, FEW)
    assert decision.asking == (BLUE,) and (of(decision, BLUE).positives, of(decision, BLUE).negatives) == (4, 2)


def test_a_label_that_the_model_was_trained_on_does_not_ask(tagged: World) -> None:
    make_model(Folder(tagged.store), "trained", seen=(RED,))
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    decision = decide_here(tagged, FEW)
    assert not decision.retrain and decision.model_id == "trained" and of(decision, RED).seen
    assert of(decision, RED).reason == "the current model was trained on it"
    assert "no label asks for it (blue-star: no answers yet; " in decision.reasons[0]
    make_model(Folder(tagged.store), "all", seen=LABELS)
    assert decide_here(tagged, FEW).reasons == (
        "the current model was trained on all labels that have ground truth (1)",
    )


def test_a_decision_is_made_once_for_each_state(tagged: World) -> None:
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    first = decide_here(tagged, FEW)
    assert decide_here(tagged, FEW) == first == find_decision(Folder(tagged.store), first.decision_id)
    make_model(Folder(tagged.store), "trained", seen=(RED,))
    assert decide_here(tagged, FEW) == first, "a promotion is no part of the state: what was begun is gone on with"
    answer(tagged, {KEYS[0]: 1}, RED)
    assert decide_here(tagged, FEW) == first, "the same answer again is no other state"
    answer(tagged, {KEYS[8]: 1}, RED)
    other = decide_here(tagged, FEW)
    assert other.decision_id != first.decision_id
    put_taxonomy(tagged, taxonomy_text().replace("name: t", "name: t", 1).replace("blue star", "star in blue"))
    assert decide_here(tagged, FEW).decision_id not in (first.decision_id, other.decision_id)
    assert decide_here(tagged, RetrainPolicy(min_positives=9)).decision_id not in (first.decision_id, other.decision_id)
    assert len(read_decisions(Folder(tagged.store))) == 4


def test_a_no_is_thought_over_when_the_model_is_another(tagged: World) -> None:
    folder = Folder(tagged.store)
    make_model(folder, "trained", seen=(RED,))
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    no = decide_here(tagged, FEW)
    make_model(folder, "other")
    yes = decide_here(tagged, FEW)
    assert (no.retrain, yes.retrain) == (False, True) and no.decision_id == yes.decision_id
    assert find_decision(folder, yes.decision_id) == yes


def test_switched_off_it_decides_and_says_so(tagged: World) -> None:
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    off = decide_here(tagged, FEW.model_copy(update={"enabled": False}))
    assert not off.retrain and off.asking == (RED,) and "switched off" in off.reasons[0]
    on = decide_here(tagged, FEW)
    assert on.retrain and on.decision_id == off.decision_id
    assert not decide_here(tagged, FEW.model_copy(update={"enabled": False})).retrain


def test_too_few_held_out_pictures_are_announced(tagged: World) -> None:
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    decision = decide_here(tagged, RetrainPolicy(min_positives=3))
    assert decision.retrain
    assert "held-out images of 4 annotated ones are fewer than the 20 that it takes" in decision.reasons[-1]


def test_a_plan_writes_nothing(tagged: World) -> None:
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    for path in (Path(tagged.store) / "side_labels").rglob("*.parquet"):
        path.unlink()
    before = files(tagged)
    planned = decide_here(tagged, FEW, keep=False)
    assert files(tagged) == before
    made = decide_here(tagged, FEW)
    assert made.model_copy(update={"decided_at": planned.decided_at}) == planned
    assert any("side_labels" in path for path in files(tagged)), "side files that nobody had kept are read once"


def test_a_shard_that_is_gone_counts_as_long_as_its_side_files_were_kept(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": list(labels)}, count=12)
    world.tag()
    known = count(world)
    (tmp_path / "shards" / "00000.tar").unlink()
    assert count(world) == known and known.images == 12 and known.unread == ()
    next((tmp_path / "store" / "side_labels").rglob("*.parquet")).unlink()
    assert count(world).unread == (("world", "00000"),)
    assert "1 tagged shard," in decide_here(world).reasons[-1]


def one_in_three(key: str, labels: tuple[str, ...]) -> dict[str, list[str]] | None:
    """Return side files of which a third name what is there, a third also what is not, and a third are missing."""
    place = int(key.rpartition("-")[2]) % 3
    return [{"labels": list(labels)}, {"labels": list(labels), "absent": ["white-star", "red-square"]}, None][place]


@pytest.mark.parametrize("missing", ["negative", "unknown"])
@pytest.mark.parametrize("says", [one_in_three, lambda key, labels: {"labels": list(labels)}])
def test_evidence_is_what_training_would_count(tmp_path: Path, says: SideFile, missing: Missing) -> None:
    world = make_written_world(tmp_path, says, count=30)
    world.tag()
    keys = [key for (key,) in world.ask("select key from samples order by sample")]
    answer(world, dict(zip(keys, (1, 0, None) * 4, strict=False)), "white-star")
    answer(world, dict(zip(keys[9:], (0, None, 1) * 3, strict=False)), "blue-star")
    evidence = count(world, missing)
    model = load_model(Folder(world.store), None, "cpu")
    taxonomy = load_taxonomy(str(world.taxonomy))
    request = world.request()
    wanted = FeatureRequest(
        store=world.store,
        dataset="world",
        encoder_id=model.record.encoder_id,
        batch_size=4,
        decode_threads=0,
        max_pixels=request.max_pixels,
    )
    source = Source(wanted=wanted, shards=list_shards(request.shards).shards)
    label_ids = [label.id for label in taxonomy.active_labels()]
    with gather([source], model.encoders.image, taxonomy, read_answers(Folder(world.store))) as images:
        targets_NK = images.targets(label_ids, missing).dense()
        assert evidence.images == len(images)
    for value, counts in ((1, evidence.positives), (0, evidence.negatives)):
        assert [counts.get(label_id, 0) for label_id in label_ids] == np.sum(targets_NK == value, axis=0).tolist()
    assert 0 < evidence.held_out < evidence.images


def test_several_datasets_are_one_evidence(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.tag()
    other = World(tmp_path / "two")
    other.shard("00000", pictures(7, 5))
    other.taxonomy.write_text(taxonomy_text())
    other.tag(store=world.store, name="other")
    answer(world, {KEYS[0]: 1, "s7-0": 1, "s7-1": 1, "s7-2": 0}, RED)
    assert of(decide_here(world, FEW), RED).positives == 3


def test_copies_of_a_picture_are_no_further_evidence(tagged: World, tmp_path: Path) -> None:
    before = count(tagged)
    tagged.tag(name="again")
    answer(tagged, {KEYS[0]: 1, KEYS[1]: 1, KEYS[2]: 0}, RED)
    after = count(tagged)
    assert before.images == 0 and after.images == 3 and after.held_out <= 3
    assert (after.positives[RED], after.negatives[RED]) == (2, 1)


def test_labels_of_another_taxonomy_are_not_forgotten(tagged: World) -> None:
    """A model that learns this taxonomy would not know the labels that it was trained on of the other one."""
    text = tagged.taxonomy.read_text()
    put_taxonomy(tagged, taxonomy_text([BLUE, "black-moon"], name="other"))
    put_taxonomy(tagged, text)
    answer(tagged, dict(zip(KEYS, (1, 1, 1, 0), strict=False)), RED)
    make_model(Folder(tagged.store), "both", seen=(BLUE, "black-moon"))
    decision = decide_here(tagged, FEW)
    assert not decision.retrain and decision.asking == (RED,)
    assert "trained on 1 labels of taxonomy other (black-moon)" in decision.reasons[0]
    assert "put all labels into one taxonomy" in decision.reasons[0]
    make_model(Folder(tagged.store), "this", seen=(BLUE,))
    assert decide_here(tagged, FEW).retrain
