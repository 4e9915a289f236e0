"""Training, from annotated shards to a checkpoint: what it writes, what it must not know, and what stops it."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from safetensors.numpy import load_file

from flows.train import TrainWatch, run_train
from flows.training.plan import plan_train, read_novel, read_recipe
from schemas.errors import ConfigError, ModelError, RequestError, RunError, ShardPatternError, StoreError, TaxonomyError
from schemas.training import train_config
from storage.files import Folder, iter_leftovers
from storage.models import read_promotion
from storage.taxonomies import load_taxonomy
from tests.flows.annotated import (
    LABELS,
    NOVEL,
    TRAIN_PICTURES,
    AnnotatedWorld,
    make_written_world,
    recipe,
    scenes,
    side_files,
)
from tests.flows.conftest import Learned
from tests.flows.disks import NEVER, FullDisk
from tests.flows.world import taxonomy_text
from tests.nasty import TEXT_AS_JPEG

ROOT = Path(__file__).parents[3]
FILES = ("README.md", "calibration.parquet", "config.json", "metrics.json", "model.safetensors")


def epochs_of(world: AnnotatedWorld, store: str) -> tuple[str, list[tuple[str, int]]]:
    """Train into a store; return the model's id and the epochs that this took."""
    epochs: list[tuple[str, int]] = []
    watch = TrainWatch(on_epoch=lambda stage, report: epochs.append((stage, report.epoch)))
    summary = run_train(plan_train(world.train_request(store=store)), watch)
    assert summary is not None
    return summary.model_id, epochs


def states(world: AnnotatedWorld) -> list[str]:
    """Return the names of what trainings keep while they run."""
    return sorted(path.name for path in Path(world.store, "training").rglob("*") if path.is_file())


@pytest.fixture
def full_disk() -> Iterator[type[FullDisk]]:
    fsspec.register_implementation("full", FullDisk, clobber=True)
    yield FullDisk
    FullDisk.full_at = NEVER


# --- what comes of it ------------------------------------------------------------------------------------------------


def test_the_summary_says_what_was_learned_from(learned: Learned) -> None:
    world, summary = learned
    assert (summary.images, summary.train_images + summary.validation_images) == (TRAIN_PICTURES, TRAIN_PICTURES)
    assert (summary.seen_labels, summary.novel_labels) == (len(LABELS) - len(NOVEL), len(NOVEL))
    assert (summary.base, summary.epochs, summary.promoted) == ("bundled:scenes", 3, True)
    assert [branch.branch for branch in summary.branches] == ["clip", "local", "linear", "decoder", "fused"]
    assert summary.scorers == ["fused", "decoder", "clip+local", "clip"]
    assert summary.ece.keys() == {"seen", "novel"} and all(0 <= value < 0.3 for value in summary.ece.values() if value)
    assert (summary.without_positives, summary.unknown_labels, summary.damaged) == ([], {}, {})
    fused, clip = summary.branches[-1], summary.branches[0]
    assert fused.seen is not None and clip.seen is not None and fused.seen >= clip.seen
    text = "\n".join(summary.lines())
    assert f"model {summary.model_id}: trained 3 epochs" in text
    assert f"clipdecoder tag SHARDS --taxonomy {world.taxonomy} --model {summary.model_id}" in text


def test_a_checkpoint_is_a_folder_of_five_files(learned: Learned) -> None:
    world, summary = learned
    folder = Path(world.store, "models", summary.model_id)
    assert tuple(sorted(path.name for path in folder.iterdir() if path.is_file())) == FILES
    config = world.config(summary.model_id)
    checkpoint = config["checkpoint"]
    assert (config["kind"], config["calibration"]) == ("decoder", "fitted")
    assert config["seen_labels"] == [label for label in LABELS if label not in NOVEL]
    assert tuple(checkpoint["novel_labels"]) == NOVEL
    assert (checkpoint["train"]["seed"], checkpoint["data"]["images"]) == (0, TRAIN_PICTURES)
    assert checkpoint["weights_sha256"] == world.weights(summary.model_id)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(metrics["left_out"]) >= 3 and not set(metrics["left_out"]) & set(NOVEL)
    assert {record["stage"] for record in metrics["history"]} == {"choose", "final"}
    assert summary.model_id in (folder / "README.md").read_text()


def test_nothing_is_left_of_a_training_that_is_done(learned: Learned) -> None:
    assert states(learned[0]) == []
    assert list(iter_leftovers(Folder(learned[0].store), "training")) == []


def test_the_same_training_is_the_same_model(learned: Learned, annotated: AnnotatedWorld, tmp_path: Path) -> None:
    _, summary = learned
    store = str(tmp_path / "other")
    again, epochs = epochs_of(annotated, store)
    assert again == summary.model_id, "another store, another folder, and features made anew"
    assert epochs[-1] == ("final", 3)


def test_the_second_model_of_a_store_is_not_promoted(annotated: AnnotatedWorld, model_id: str) -> None:
    other = annotated.train(recipe=recipe(seed=1, epochs=1))
    assert other.model_id != model_id and not other.promoted
    assert any("models promote" in step for step in other.next_steps)
    for step in other.next_steps:
        assert shlex.split(step.rpartition("; ")[2])[-1] == annotated.store, "to be copied"
    promotion = read_promotion(Folder(annotated.store))
    assert promotion is not None and promotion.model_id == model_id


def test_without_novel_labels_all_are_learned(annotated: AnnotatedWorld) -> None:
    summary = annotated.train(novel=None, recipe=recipe(epochs=1))
    assert (summary.seen_labels, summary.novel_labels) == (len(LABELS), 0)


def test_too_few_labels_to_leave_any_out(annotated: AnnotatedWorld) -> None:
    summary = annotated.train(recipe=recipe(epochs=2, holdout_label_share=0.0))
    assert summary.epochs <= 2
    assert summary.ece["seen"] is not None
    assert all(branch.novel is None for branch in summary.branches)


def test_missing_is_unknown_learns_from_what_was_said(tmp_path: Path) -> None:
    world = make_written_world(
        tmp_path, lambda key, labels: {"labels": labels, "absent": [label for label in LABELS if label not in labels]}
    )
    said, unsaid = (world.train(recipe=recipe(epochs=1, missing=missing)) for missing in ("unknown", "negative"))
    weights = [load_file(world.model_file(model.model_id, "model.safetensors")) for model in (said, unsaid)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0] if name.startswith("head."))


# --- novel labels ----------------------------------------------------------------------------------------------------


def without_novel(key: str, labels: tuple[str, ...]) -> dict[str, list[str]]:
    return {"labels": [label for label in labels if label not in NOVEL]}


def novel_as_nonsense(key: str, labels: tuple[str, ...]) -> dict[str, list[str]]:
    rest = [label for label in labels if label not in NOVEL]
    return {"labels": [*rest, NOVEL[len(key + str(rest)) % len(NOVEL)]], "absent": [NOVEL[0]]}


def test_a_model_knows_nothing_of_novel_labels(tmp_path: Path) -> None:
    weights, digests, seconds = set(), set(), []
    for says in (lambda key, labels: {"labels": labels}, without_novel, novel_as_nonsense):
        folder = tmp_path / str(len(seconds))
        folder.mkdir()
        world = make_written_world(folder, says)
        model_id = world.train(recipe=recipe(epochs=2, distillation=0.5)).model_id
        weights.add(world.weights(model_id))
        digests.add(world.config(model_id)["checkpoint"]["data"]["digest"])
        seconds.append(model_id)
    assert len(weights) == 1, "bit for bit the same"
    assert len(digests) == 3, "though the ground truth is not"
    assert len(set(seconds)) == 1, "and so are maps and thresholds"


# --- killed ----------------------------------------------------------------------------------------------------------


def test_killed_in_the_second_stage_it_goes_on_to_the_same_model(annotated: AnnotatedWorld, model_id: str) -> None:
    shutil.rmtree(Path(annotated.store, "models"))
    command = [sys.executable, "-m", "tests.flows.dying_training", str(annotated.folder), "6"]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert states(annotated) == ["choose.safetensors", "final.safetensors", "log.jsonl"]
    next(Path(annotated.store, "training").iterdir()).joinpath(".tmp-0-final.safetensors").write_bytes(b"half")
    again, epochs = epochs_of(annotated, annotated.store)
    assert epochs == [("final", 2), ("final", 3)], "four steps are an epoch, and what is done is not done again"
    assert again == model_id
    assert states(annotated) == []
    metrics = json.loads(annotated.model_file(model_id, "metrics.json").read_text())
    told = [record["epoch"] for record in metrics["history"] if record["stage"] == "final"]
    assert told == [1, 2, 3], "also of what was learned before"


# --- a store that fails ----------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_in_the_end_keeps_what_was_learned(
    annotated: AnnotatedWorld, model_id: str, full_disk: type[FullDisk]
) -> None:
    shutil.rmtree(Path(annotated.store, "models"))
    store = f"full://{annotated.store}"

    def fill(stage: str, report: object) -> None:
        if stage == "final" and report.epoch == 3:  # type: ignore[attr-defined]
            full_disk.full_at = full_disk.steps + 4

    full_disk.full_at = NEVER
    plan = plan_train(annotated.train_request(store=store))
    with pytest.raises(RunError, match=r"after the last epoch kept: cannot write 'models/"):
        run_train(plan, TrainWatch(on_epoch=fill))
    assert not annotated.model_file(model_id, "config.json").exists(), "half a checkpoint is no model"
    full_disk.full_at = NEVER
    assert epochs_of(annotated, store) == (model_id, []), "no epoch is trained again"


def test_a_disk_that_is_full_during_training_is_a_failure_and_no_refusal(
    annotated: AnnotatedWorld, full_disk: type[FullDisk]
) -> None:
    plan = plan_train(annotated.train_request(store=f"full://{annotated.store}", recipe=recipe(seed=3)))

    def fill(stage: str, report: object) -> None:
        full_disk.full_at = full_disk.steps

    full_disk.full_at = NEVER
    with pytest.raises(RunError, match=r"No space left on device"):
        run_train(plan, TrainWatch(on_epoch=fill))
    assert "choose.safetensors" in states(annotated)


def test_a_loss_that_is_not_finite_ends_the_training_with_its_state_kept(annotated: AnnotatedWorld) -> None:
    wild = recipe(learning_rate=1e9, warmup=0.9, ema_decay=0.0, max_grad_norm=1e9)
    with pytest.raises(RunError, match=r"not finite") as caught:
        annotated.train(recipe=wild)
    assert "epoch" in str(caught.value) and "learning_rate" in str(caught.value)
    assert len(list(Path(annotated.store, "models").iterdir())) == 2, "current.json and the model of before"


# --- refused ---------------------------------------------------------------------------------------------------------


def test_nothing_annotated(annotated: AnnotatedWorld) -> None:
    for number in range(2):
        annotated.shard(f"{number:05d}", side_files(scenes(TRAIN_PICTURES, 0)[:30], lambda key, labels: None))
    with pytest.raises(RequestError, match=r"no sample of these 2 shards is annotated"):
        annotated.train()


def test_words_that_are_no_label_are_counted_and_named(tmp_path: Path) -> None:
    def says(key: str, labels: tuple[str, ...]) -> dict[str, list[str]]:
        return {"labels": [*labels, "dog", *(["cat"] if key.endswith("1") else [])]}

    summary = make_written_world(tmp_path, says).train(recipe=recipe(epochs=1))
    assert summary.unknown_labels == {"dog": TRAIN_PICTURES, "cat": TRAIN_PICTURES // 10}
    assert "no label of the taxonomy: 2 words of side files: 'dog' (160), 'cat' (16)" in "\n".join(summary.lines())


def test_only_words_that_are_no_label(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": ["dog"]}, 30)
    with pytest.raises(RequestError, match=r"the side files say 'dog', the taxonomy knows red-circle"):
        world.train()


def test_only_novel_labels_are_annotated(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": [NOVEL[0]]}, 30)
    with pytest.raises(RequestError, match=r"no label of the taxonomy has 1 training images or more, novel ones left"):
        world.train()


def test_a_label_without_positives_is_named_and_not_learned(tmp_path: Path) -> None:
    lost = next(label for label in LABELS if label not in NOVEL)
    world = make_written_world(tmp_path, lambda key, labels: {"labels": [name for name in labels if name != lost]})
    summary = world.train(recipe=recipe(epochs=1))
    assert summary.without_positives == [lost]
    assert f"1 label has too few training images: {lost}" in "\n".join(summary.lines())
    assert lost not in world.config(summary.model_id)["seen_labels"]


def test_too_few_images(tmp_path: Path) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": labels}, 12)
    with pytest.raises(RequestError, match=r"12 annotated images, .* are too few to train on: at least 20"):
        world.train()
    assert not Path(world.store, "models").exists()


def test_damaged_pictures_and_side_files_among_good_ones(tmp_path: Path) -> None:
    def says(key: str, labels: tuple[str, ...]) -> object:
        return b"{" if key.endswith("03") else {"labels": "dog"} if key.endswith("04") else {"labels": labels}

    world = make_written_world(tmp_path, says)
    members = side_files(scenes(TRAIN_PICTURES, 0), says)
    world.shard("00000", [*members, ("bad.jpg", TEXT_AS_JPEG), ("bad.json", b'{"labels": ["red-circle"]}')])
    summary = world.train(recipe=recipe(epochs=1))
    assert summary.images == TRAIN_PICTURES - 4
    assert len(summary.damaged) == 4
    text = "\n".join(summary.lines())
    assert "4 side files cannot be used" in text and "must be a list of texts" in text


def test_novel_ids_that_are_wrong_are_named_with_their_lines(tmp_path: Path, annotated: AnnotatedWorld) -> None:
    taxonomy = load_taxonomy(str(annotated.taxonomy))
    novel = tmp_path / "labels.txt"
    novel.write_text("# one a line\nred-circle  # the first\n\nred-cirle\n  blue-circle\nblue-circle\nblue\n")
    with pytest.raises(TaxonomyError) as caught:
        read_novel(str(novel), taxonomy)
    assert len(caught.value.problems) == 2
    assert f"{novel}:4: unknown label 'red-cirle'" in str(caught.value) and f"{novel}:7: " in str(caught.value)
    novel.write_text("# one a line\nred-circle  # the first\n\n  blue-circle\nblue-circle\n")
    assert read_novel(str(novel), taxonomy) == ("red-circle", "blue-circle")
    novel.write_text("\n".join(LABELS))
    with pytest.raises(RequestError, match="names every label of the taxonomy"):
        read_novel(str(novel), taxonomy)
    with pytest.raises(RequestError, match="cannot be read"):
        read_novel(str(tmp_path / "absent.txt"), taxonomy)


def test_recipes(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('epochs = 7\nmissing = "unknown"\n')
    assert read_recipe(str(file), {"epochs": None, "seed": 5}) == train_config(epochs=7, missing="unknown", seed=5)
    assert read_recipe(str(file), {"epochs": 2}).epochs == 2, "what is given wins"
    for text, message in (
        ("epoch = 3", "unknown training setting 'epoch'; known: .*epochs"),
        ("epochs = 0", "training setting epochs = 0: "),
        ("epochs = ", "recipe.toml: not valid TOML"),
        ("width = 30", "width 30 is no multiple of num_heads 8"),
        ("finetune = 0", "training setting finetune = 0"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_recipe(str(file), {})


def test_requests_that_cannot_be_carried_out(annotated: AnnotatedWorld, tmp_path: Path) -> None:
    def refused(error: type[RequestError], message: str, **changes: object) -> None:
        with pytest.raises(error, match=message):
            plan_train(annotated.train_request(**changes))

    refused(ShardPatternError, "matches no shard", shards=(str(tmp_path / "*.tar"),))
    refused(ModelError, "unknown", base="bundled:nothing")
    refused(ModelError, "has no text tower: name a text encoder beside it", base="timm:mobilenetv2_100.ra_in1k")
    refused(RequestError, "cannot be read", text=f"table:{tmp_path / 'absent.parquet'}")
    refused(TaxonomyError, "problem", taxonomy=str(annotated.folder / "novel.txt"))
    refused(ModelError, "device", device="cuda:99")
    refused(ConfigError, r"finetune = 9, and the backbone has \d blocks", recipe=recipe(finetune=9))


def test_two_datasets_of_one_name(annotated: AnnotatedWorld, model_id: str) -> None:
    annotated.tag(model=model_id)
    with pytest.raises(StoreError, match="give this one a name of its own with --name"):
        plan_train(annotated.train_request(shards=(annotated.test,)))


def test_a_missing_shard_is_a_failure(annotated: AnnotatedWorld) -> None:
    shards = tuple(str(annotated.folder / "shards" / f"{number:05d}.tar") for number in (0, 9))
    with pytest.raises(RunError, match=r"00009\.tar is not there; .*run the same command again"):
        annotated.train(shards=shards)


def test_a_taxonomy_of_other_labels(annotated: AnnotatedWorld) -> None:
    annotated.taxonomy.write_text(taxonomy_text(("red-banana", "blue-banana")))
    with pytest.raises(RequestError, match="no annotation names a label of taxonomy 't'"):
        annotated.train(novel=None)


# --- the backbone trained too ----------------------------------------------------------------------------------------


def test_a_backbone_that_is_trained_too(annotated: AnnotatedWorld, model_id: str) -> None:
    base = annotated.config(model_id)
    tuned = annotated.train(recipe=recipe(finetune=1, epochs=1, backbone_learning_rate=1e-3))
    config = annotated.config(tuned.model_id)
    assert config["encoder_id"] != base["encoder_id"] and config["text_encoder_id"] == base["text_encoder_id"]
    assert config["checkpoint"]["finetuned"] and config["checkpoint"]["base"] == "bundled:scenes"
    names = load_file(annotated.model_file(tuned.model_id, "model.safetensors"))
    trained = [name for name in names if name.startswith("backbone.")]
    blocks = {name.split("resblocks.")[1][0] for name in trained if "resblocks." in name}
    assert blocks == {"3"}, "the last of four"
    outcome = annotated.tag(model=tuned.model_id)
    assert outcome.complete and sum(report.decoded for report in outcome.reports.values()) == TRAIN_PICTURES
    evaluation = annotated.evaluate(model=tuned.model_id).evaluation
    assert evaluation.scorers[0].seen is not None and evaluation.scorers[0].scorer == "fused"
