"""Retraining whole: a label is learned, the new model compared, promoted or kept back; killed anywhere it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.retraining.status import store_status
from flows.train import TrainWatch
from schemas.errors import ConfigError, ModelError, StoreError
from schemas.retraining import GateReport, RetrainPolicy
from storage.checkpoints import read_card
from storage.files import Folder
from storage.models import promote, read_model, read_promotion, rollback
from storage.retraining import find_gates, find_outcome, read_decisions
from tests.flows.annotated import LABELS, NOVEL, AnnotatedWorld, make_written_world
from tests.flows.grown import (
    CANARY_PICTURES,
    NEW,
    answer,
    copy_store,
    decide_here,
    make_grown_world,
    policy,
    retrain,
    true_answers,
)
from tests.flows.test_cli import clipdecoder
from tests.flows.world import World

ROOT = Path(__file__).parents[3]
RECIPE = """
epochs = 1
width = 64
num_heads = 4
feedforward_width = 64
projection_width = 32
validation_share = 0.3
holdout_label_share = 0.3
"""
Grown = tuple[AnnotatedWorld, str]
Refused = tuple[AnnotatedWorld, str, RetrainPolicy]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Return a world whose model lacks a label; for tests that change nothing."""
    return make_grown_world(tmp_path_factory.mktemp("grown"))


@pytest.fixture(scope="module")
def after(before: Grown, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Return the world when it was retrained on, and the new model; for tests that change nothing."""
    world = copy_store(before[0], tmp_path_factory.mktemp("retrained"))
    outcome = retrain(world)
    assert outcome.model_id is not None, outcome.reasons
    return world, outcome.model_id


@pytest.fixture(scope="module")
def refused(before: Grown, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """Return the world when it was retrained on under limits that no other model keeps, the model, and the policy."""
    world = copy_store(before[0], tmp_path_factory.mktemp("refused"))
    strict = policy(max_flip_rate=0.0, recipe=recipe_file(world.folder, seed=1))
    outcome = retrain(world, strict)
    assert outcome.state == "refused" and outcome.model_id is not None, outcome.reasons
    return world, outcome.model_id, strict


def recipe_file(folder: Path, **changes: int) -> str:
    """Write a recipe of one epoch."""
    path = folder / "recipe.toml"
    path.write_text(RECIPE + "".join(f"{name} = {value}\n" for name, value in changes.items()))
    return str(path)


def no_training(stage: str, done: int, total: int) -> None:
    assert stage == "features", f"nothing is to be trained again, and {stage} was"


def current(world: World) -> str | None:
    promotion = read_promotion(Folder(world.store))
    return promotion.model_id if promotion is not None else None


def gates_of(world: World, model_id: str) -> GateReport:
    report = find_gates(Folder(world.store), model_id)
    assert report is not None
    return report


def test_a_label_with_answers_is_learned_and_the_new_model_promoted(before: Grown, after: Grown) -> None:
    world, new = after
    folder = Folder(world.store)
    (decision,) = read_decisions(folder)
    assert decision.retrain and decision.asking == (NEW,) and decision.model_id == before[1]
    outcome, report, record = find_outcome(folder, decision.decision_id), gates_of(world, new), read_model(folder, new)
    assert outcome is not None and outcome.state == "promoted" and current(world) == new
    assert set(record.seen_labels) == ({*LABELS, NEW} - set(NOVEL)), "what was held out stays held out"
    assert record.checkpoint is not None and record.checkpoint.data is not None
    assert (report.current_model_id, report.learned_by_current) == (before[1], 0)
    assert report.held_out_images == record.checkpoint.data.held_out_images >= 20
    assert report.canary == "canary/00000" and report.canary_images == CANARY_PICTURES
    assert [(gate.name, gate.passed) for gate in report.gates] == [
        ("seen_map", True),
        ("novel_map", True),
        ("asked_map", True),
        ("positive_rate", True),
        ("flip_rate", True),
    ]
    learned = next(label for label in report.labels if label.label_id == NEW)
    assert learned.group == "learned" and learned.ap_before is not None and learned.ap_after is not None
    assert report.asked == (learned,) and learned.ap_interval is not None
    said = f"{'1' if report.gained else 'none'} of 1 compared label that asked for retraining gained beyond chance;"
    card = read_card(folder, new)
    assert said in outcome.reasons[0] and NEW in outcome.reasons[0]
    assert card.count("## Against the model before") == 1 and said in card and "seen_map" in card
    assert {label.label_id for label in report.labels if label.group == "novel"} <= set(NOVEL)
    promotion = read_promotion(folder)
    assert promotion is not None and promotion.history == (before[1],) and promotion.forced == ()
    became = "gained" if report.gained else "within noise"
    assert promotion.reason == f"retraining {decision.decision_id} for {NEW} ({became})"


def test_gates_of_before_chance_was_told_from_change_are_read(after: Grown, tmp_path: Path) -> None:
    world, new = copy_store(after[0], tmp_path), after[1]
    path = Path(world.store, "models", new, "gates.json")
    report = json.loads(path.read_text())
    report.pop("gained")
    report["gates"] = [gate for gate in report["gates"] if gate["name"] != "asked_map"]
    for record, fields in [(gate, ("within_noise", "interval")) for gate in report["gates"]] + [
        (label, ("asked", "ap_interval")) for label in report["labels"]
    ]:
        for field in fields:
            record.pop(field)
    path.write_text(json.dumps(report))
    assert gates_of(world, new).passed and gates_of(world, new).asked == ()
    assert "seen_map" in say("models", "show", new, "--store", world.store)


def test_one_state_is_retrained_on_once(after: Grown, tmp_path: Path) -> None:
    world = copy_store(after[0], tmp_path)
    folder = Folder(world.store)
    outcome = find_outcome(folder, read_decisions(folder)[0].decision_id)
    assert retrain(world, watch=TrainWatch(on_progress=no_training)) == outcome
    decision = decide_here(world)
    assert not decision.retrain and "was retrained on before" in decision.reasons[0]
    rollback(folder, "worse")
    assert retrain(world) == outcome and current(world) != after[1], "who went back is not overruled"


def test_a_failed_gate_keeps_the_old_model_until_somebody_forces_it(
    before: Grown, refused: Refused, tmp_path: Path
) -> None:
    world, new = copy_store(refused[0], tmp_path), refused[1]
    folder = Folder(world.store)
    report = gates_of(world, new)
    assert current(world) == before[1] and report.holding == ("flip_rate",)
    outcome = find_outcome(folder, report.decision_id)
    assert outcome is not None and outcome.reasons and all(name in " ".join(outcome.reasons) for name in report.holding)
    with pytest.raises(ModelError, match=r"did not pass .*--force"):
        promote(folder, new, "I like it")
    assert promote(folder, new, "I like it", force=True).forced == report.holding
    status = "\n".join(store_status(folder).lines())
    assert f"forced: {', '.join(report.holding)}" in status and "outcome: refused" in status and "failed" in status
    assert rollback(folder, "not so good").model_id == before[1]


def test_the_state_is_left_alone_after_a_refusal(refused: Refused) -> None:
    world, new, strict = refused
    assert retrain(world, strict, TrainWatch(on_progress=no_training)).model_id == new
    assert current(world) != new


def test_another_limit_is_another_question_and_finds_the_training(refused: Refused, tmp_path: Path) -> None:
    world, new, strict = copy_store(refused[0], tmp_path), *refused[1:]
    outcome = retrain(world, strict.model_copy(update={"max_flip_rate": 1.0}), TrainWatch(on_progress=no_training))
    assert (outcome.state, outcome.model_id, current(world)) == ("promoted", new, new)
    assert gates_of(world, new).decision_id == outcome.decision_id


def test_too_little_to_learn_from_is_declined_and_not_tried_again(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": list(labels)}, count=12)
    world.tag()
    wanted = policy(min_positives=1, canary=None)
    declined = retrain(world, wanted)
    assert declined.state == "declined" and declined.model_id is None
    assert "too few to train on" in declined.reasons[0]
    assert retrain(world, wanted) == declined
    assert not decide_here(world, wanted).retrain


def test_nothing_to_learn_is_declined_and_kept_once(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: None, count=2)
    world.tag()
    declined = retrain(world, policy(canary=None))
    assert declined.state == "declined" and "no ground truth yet" in declined.reasons[0]
    assert retrain(world, policy(canary=None)) == declined
    assert find_outcome(Folder(world.store), declined.decision_id) == declined


def test_switched_off_nothing_is_trained_and_nothing_settled(before: Grown, tmp_path: Path) -> None:
    world = copy_store(before[0], tmp_path)
    off = retrain(world, policy(enabled=False), TrainWatch(on_progress=no_training))
    assert off.state == "declined" and "switched off" in off.reasons[0]
    assert decide_here(world).retrain


def test_a_canary_that_is_no_shard_is_refused_before_anything_is_trained(before: Grown, tmp_path: Path) -> None:
    world = copy_store(before[0], tmp_path)
    with pytest.raises(
        ConfigError, match="unknown tagged shard 'nowhere'; known: canary/00000, world/00000, world/00001"
    ):
        retrain(world, policy(canary="nowhere"), TrainWatch(on_progress=no_training))


def test_without_a_taxonomy_in_force_there_is_nothing_to_decide(world: World) -> None:
    with pytest.raises(StoreError, match="no taxonomy is applied"):
        retrain(world)


def test_plain_clip_gives_way_to_what_was_trained(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": list(labels)})
    world.tag()
    zero_shot = current(world)
    outcome = retrain(world, policy(recipe=recipe_file(tmp_path), canary=None))
    assert outcome.state == "promoted" and outcome.model_id is not None, outcome.reasons
    report = gates_of(world, outcome.model_id)
    assert report.current_model_id == zero_shot and report.canary is None
    assert [(gate.name, gate.passed) for gate in report.gates] == [
        ("seen_map", True),
        ("novel_map", None),
        ("asked_map", True),
        ("positive_rate", None),
        ("flip_rate", None),
    ]
    record = read_model(Folder(world.store), outcome.model_id)
    assert record.checkpoint is not None and record.checkpoint.train is not None and record.checkpoint.train.epochs == 1


def test_a_shard_that_is_gone_is_learned_from_where_its_features_are_stored(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": list(labels)})
    world.tag(store_tokens=True)
    (tmp_path / "shards" / "00000.tar").unlink()
    outcome = retrain(world, policy(recipe=recipe_file(tmp_path), canary="00000"))
    assert outcome.state == "promoted", outcome.reasons


@pytest.mark.slow
def test_killed_in_training_or_in_any_write_it_is_finished_by_the_same_call(
    before: Grown, after: Grown, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.dying_retraining", before[0].store, after[0].store, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] >= 12, "gates, promotion and outcome are written in several steps each"
    assert result["wrong"] == []


def test_a_label_below_the_bar_asks_once_there_is_more_to_learn_from(after: Grown, tmp_path: Path) -> None:
    world = copy_store(after[0], tmp_path)
    bar = policy(ap_below=1.0)
    worst = min(gates_of(world, after[1]).labels, key=lambda label: (label.group != "seen", label.ap_after or 1))
    before = {label.label_id: label for label in decide_here(world, bar).labels}[worst.label_id]
    assert not before.retrain and before.average_precision == worst.ap_after
    assert "no ground truth that the current model was not trained with" in before.reason
    missed = next(key for key, value in true_answers(worst.label_id).items() if not value)
    answer(world, {missed: 1}, worst.label_id)
    decision = decide_here(world, bar)
    assert worst.label_id in decision.asking and NEW not in decision.asking
    assert any(
        "and there is ground truth that the current model was not trained with" in why for why in decision.reasons
    )


def test_an_evaluation_tells_the_precision_of_a_model_that_was_trained_by_hand(before: Grown, tmp_path: Path) -> None:
    world = copy_store(before[0], tmp_path)
    bar = policy(ap_below=1.0, min_positives=200)
    assert {label.average_precision for label in decide_here(world, bar).labels} == {None}
    evaluated = world.evaluate(shards=(before[0].test,), novel=None).evaluation
    known = {label.label_id: label.average_precision for label in evaluated.labels}
    decision = decide_here(world, bar)
    assert all(label.average_precision == known[label.label_id] for label in decision.labels)
    assert sum(label.average_precision is not None for label in decision.labels) > 10
    assert not decision.retrain, "it was trained on all that there is"


def test_status_loads_neither_torch_nor_prefect(after: Grown) -> None:
    words = ["taxonomy", "status", "--store", after[0].store, "--json"]
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stderr.split()} & {"torch", "prefect", "open_clip", "timm"}


def test_the_commands_show_it(after: Grown) -> None:
    world, new = after

    def as_json(*words: str) -> Any:
        return json.loads(say(*words, "--store", world.store, "--json"))

    status = as_json("taxonomy", "status")
    assert status["model"]["model_id"] == new
    (taxonomy,) = status["taxonomies"]
    assert (taxonomy["active"], taxonomy["seen"]) == (len(LABELS) + 1, len(LABELS) + 1 - len(NOVEL))
    assert taxonomy["outcome"]["state"] == "promoted" and taxonomy["gates"]["passed"]
    assert as_json("models", "show", new)["gates"]["new_model_id"] == new
    gates = {row["model_id"]: row["gates"] for row in as_json("models", "list")}
    assert gates[new] == "passed" and set(gates.values()) == {"passed", ""}
    text = say("taxonomy", "status", "--store", world.store)
    assert "clipdecoder backfill" in text and "outcome: promoted" in text
    shown = say("models", "show", new, "--store", world.store)
    assert shown.count("seen_map:") == 1 and "## Against" not in shown, "the card's last chapter is told as tables"


def test_the_plan_of_a_retraining_is_told_and_nothing_written(before: Grown) -> None:
    world = before[0]
    (world.folder / "clipdecoder.toml").write_text("[retraining]\nmin_positives = 10\nheld_out_share = 0.25\n")
    files = sorted(Path(world.store).rglob("*"))
    done = clipdecoder("retrain", "--plan", "--store", world.store, cwd=world.folder)
    assert done.returncode == 0, done.stderr
    assert f"{NEW}: 14 positives" in done.stdout and "retraining on taxonomy scenes: yes" in done.stdout
    assert sorted(Path(world.store).rglob("*")) == files


def test_what_was_decided_before_is_told_as_such(after: Grown) -> None:
    folder = after[0].folder
    (folder / "clipdecoder.toml").write_text("[retraining]\n" + tomlish(policy()))
    done = clipdecoder("retrain", "--store", after[0].store, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["outcome"]["state"] == "promoted" and told["gates"]["passed"] and told["decision"]["retrain"]
    text = clipdecoder("retrain", "--store", after[0].store, cwd=folder).stdout
    assert f"next: clipdecoder backfill --store {after[0].store}   (model {after[1]} lacks scores)" in text


def tomlish(wanted: RetrainPolicy) -> str:
    values = {name: value for name, value in wanted.model_dump().items() if value is not None}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def say(*words: str) -> str:
    """Return what a command prints, run in this process."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout
