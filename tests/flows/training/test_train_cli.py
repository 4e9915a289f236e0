"""Training and what follows it as commands; backbones of other kinds; two processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from clipdecoder.encoders.open_clip_models import BUNDLED
from flows.cli.app import main
from flows.tagging.plan import plan_tag
from schemas.errors import RequestError, TaxonomyError
from storage.audit import audit_run
from storage.files import Folder
from storage.taxonomies import load_taxonomy
from tests.flows.annotated import LABELS, NOVEL, TEST_PICTURES, TRAIN_PICTURES, AnnotatedWorld, recipe
from tests.flows.test_cli import clipdecoder
from tests.flows.world import decoded

ROOT = Path(__file__).parents[3]
RECIPE = """epochs = 1
width = 64
num_heads = 4
feedforward_width = 64
projection_width = 32
batch_size = 16
validation_share = 0.3
holdout_label_share = 0.3
"""
TABLE_WIDTH = 24


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return what runs a command in this process, where the models are loaded already."""
    monkeypatch.setenv("CLIPDECODER_ORCHESTRATE", "false")

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["clipdecoder", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Said(ended.value.code if isinstance(ended.value.code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def words(annotated: AnnotatedWorld) -> list[str]:
    """Return what all commands on this world have in common."""
    return ["--taxonomy", str(annotated.taxonomy), "--store", annotated.store]


def train_words(world: AnnotatedWorld) -> list[str]:
    file = world.folder / "recipe.toml"
    file.write_text(RECIPE)
    shards = str(world.folder / "shards" / "*.tar")
    return ["train", shards, "--base", "bundled:scenes", "--novel", world.novel, "--config", str(file)]


def test_the_commands_one_after_the_other(
    annotated: AnnotatedWorld, words: list[str], command: Callable[..., Said]
) -> None:
    trained = command(*train_words(annotated), *words, "--seed", "4", "--name", "world", "--json")
    assert trained.code == 0, trained.err
    summary = json.loads(trained.out)
    assert (summary["images"], summary["epochs"], summary["promoted"]) == (TRAIN_PICTURES, 1, False)
    assert annotated.config(summary["model_id"])["checkpoint"]["train"]["seed"] == 4

    judged = command(
        *("evaluate", annotated.test, *words, "--model", summary["model_id"], "--novel", annotated.novel),
        *("-o", str(annotated.folder / "out"), "--json"),
    )
    assert judged.code == 0, judged.err
    assert json.loads(judged.out)["model_id"] == summary["model_id"]
    assert json.loads((annotated.folder / "out" / "metrics.json").read_text()) == json.loads(judged.out)

    fitted = command("calibrate", annotated.test, *words, "--model", summary["model_id"])
    assert fitted.code == 0, fitted.err
    found = re.match(r"model (\w+): (\w+), calibrated on 80 images", fitted.out)
    assert found is not None and found[2] == summary["model_id"]

    tagged = command("tag", annotated.test, *words, "--model", found[1], "--scorer", "fused", "--json")
    assert tagged.code == 0, tagged.err
    assert json.loads(tagged.out)["calibration"] == "fitted"


def test_tables_for_people_say_what_was_left_out(
    annotated: AnnotatedWorld, words: list[str], command: Callable[..., Said]
) -> None:
    both = [str(annotated.folder / "shards" / "*.tar"), annotated.test]
    done = command("evaluate", *both, *words, "--novel", annotated.novel, "--name", "both")
    assert done.code == 0, done.err
    assert "160 annotated images were left out: the model had learned from such" in done.err
    assert "fused" in done.out and "chance" in done.out and "report: " in done.out


def test_a_failure_is_exit_1_and_a_refusal_exit_2(
    annotated: AnnotatedWorld, words: list[str], command: Callable[..., Said]
) -> None:
    train = train_words(annotated)
    (annotated.folder / "recipe.toml").write_text("epoch = 3\n")
    refused = command(*train, *words)
    assert refused.code == 2 and "unknown training setting 'epoch'; known: alpha" in refused.err
    (annotated.folder / "recipe.toml").write_text("epochs = = 3\n")
    refused = command(*train, *words)
    assert refused.code == 2 and "not valid TOML" in refused.err
    wild = RECIPE.replace("epochs = 1", "epochs = 3") + "learning_rate = 1e9\nwarmup = 0.9\nmax_grad_norm = 1e9\n"
    (annotated.folder / "recipe.toml").write_text(wild)
    failed = command(*train, *words, "--name", "world")
    assert failed.code == 1 and "not finite" in failed.err
    learned = command("evaluate", train[1], *words, "--name", "world")
    assert learned.code == 2 and "learned from every one of the 160 annotated images" in learned.err


def test_a_checkpoint_whose_base_has_changed_is_refused(annotated: AnnotatedWorld, words: list[str]) -> None:
    base = annotated.folder / "clip"
    shutil.copytree(BUNDLED / "scenes", base)
    model_id = annotated.train(base=f"open_clip:{base}", recipe=recipe(epochs=1)).model_id
    [file] = base.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("visual."))
    save_file(weights | {name: weights[name] + np.float32(0.5).astype(weights[name].dtype)}, file)
    done = clipdecoder("tag", annotated.test, *words, "--model", model_id)
    assert done.returncode == 2
    assert f"model {model_id} was trained with backbone" in done.stderr
    assert "its weights or its preprocessing have changed; put the old ones back, or train again" in done.stderr


def test_two_processes_train_one_model(annotated: AnnotatedWorld, words: list[str]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    store = str(annotated.folder / "new")
    command = [*launcher, "-m", "flows.cli", *train_words(annotated), *words[:2], "--store", store, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["images"], summary["epochs"]) == (TRAIN_PICTURES, 1), "one answer, of one process"
    assert sorted(path.name for path in Path(store, "models").iterdir()) == sorted(
        ["current.json", summary["model_id"]]
    )
    outcome = annotated.tag(store=store, name="shards")
    assert outcome.complete and outcome.plan.record.model_id == summary["model_id"]


# --- a backbone without texts of its own -----------------------------------------------------------------------------


@pytest.fixture
def backbone(tmp_path: Path) -> str:
    """Return a tiny timm model with random weights."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    save_tensors(network.state_dict(), tmp_path / "weights.safetensors")
    return f"timm:test_resnet[size=64]/{tmp_path / 'weights.safetensors'}"


def write_table(world: AnnotatedWorld, *, without: str | None = None) -> str:
    """Write an embedding of every text of the taxonomy, those of one label excepted; return its spec."""
    vocabulary = load_taxonomy(str(world.taxonomy)).vocabulary()
    texts = [text for label in vocabulary if label.label_id != without for text in label.texts]
    random = np.random.default_rng(0)
    vectors = random.normal(size=(len(texts), TABLE_WIDTH)).astype(np.float32)
    table = pa.table({"text": texts, "embedding": list(vectors)})
    pq.write_table(table, world.folder / "texts.parquet")
    return f"table:{world.folder / 'texts.parquet'}"


def test_a_timm_backbone_with_a_table_of_texts(annotated: AnnotatedWorld, backbone: str) -> None:
    changes: dict[str, Any] = {"base": backbone, "text": write_table(annotated), "recipe": recipe(epochs=1)}
    summary = annotated.train(**changes)
    assert summary.scorers == ["fused", "decoder", "clip"]
    assert [branch.branch for branch in summary.branches] == ["linear", "decoder", "fused"]
    config = annotated.config(summary.model_id)
    assert config["name"] == backbone and config["checkpoint"]["text"] == changes["text"]
    for scorer in summary.scorers:
        outcome = annotated.tag(model=summary.model_id, scorer=scorer)
        assert outcome.complete and decoded(outcome) == 0
        assert audit_run(Folder(annotated.store), outcome.plan.record.run_id).ok
    evaluation = annotated.evaluate(model=summary.model_id, novel=annotated.novel).evaluation
    names = [row.scorer for row in evaluation.scorers]
    assert names == ["fused", "decoder", "linear", "ridge", "label_ridge", "constant", "chance"]
    assert evaluation.num_images == TEST_PICTURES
    again = annotated.calibrate(model=summary.model_id)
    assert annotated.config(again.model_id)["checkpoint"]["text"] == changes["text"]


def test_a_table_that_lacks_a_text(annotated: AnnotatedWorld, backbone: str) -> None:
    text = write_table(annotated, without=NOVEL[0])
    with pytest.raises(TaxonomyError) as caught:
        annotated.train(base=backbone, text=text)
    assert NOVEL[0] in str(caught.value) and NOVEL[0].replace("-", " ") in str(caught.value)
    assert len(caught.value.problems) == 3, "one for each template"


def test_a_table_and_a_taxonomy_that_grew_apart(annotated: AnnotatedWorld, backbone: str) -> None:
    model_id = annotated.train(base=backbone, text=write_table(annotated), recipe=recipe(epochs=1)).model_id
    taxonomy = annotated.taxonomy.read_text()
    annotated.taxonomy.write_text(taxonomy + "  - {id: dog, name: dog}\n")
    with pytest.raises(TaxonomyError, match="dog"):
        plan_tag(annotated.request(model=model_id))
    (annotated.folder / "texts.parquet").unlink()
    annotated.taxonomy.write_text(taxonomy)
    store = shutil.copytree(annotated.store, f"{annotated.store}-elsewhere")
    with pytest.raises(RequestError, match=r"texts\.parquet: cannot be read"):
        plan_tag(annotated.request(model=model_id, store=str(store)))
    assert len(LABELS) == 20
