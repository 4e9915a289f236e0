"""A small annotated dataset of scenes on disk, and the commands on it as plain functions.

160 pictures in two shards to learn from and 80 in one to be judged by, 20 labels of which 5 are novel, and a recipe
that trains in a second or two.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from examples.scenes.render import COLOURS, NEVER_IN_CAPTIONS, iter_scenes, taxonomy_yaml
from flows.calibrate import CalibrateSummary, run_calibration
from flows.evaluate import EvaluationOutcome, plan_evaluation, run_evaluation
from flows.evaluation.judging import plan_judging
from flows.train import run_train
from flows.training.plan import plan_train
from flows.training.summary import TrainSummary
from schemas.config import CalibrateRequest, EvaluateRequest, TrainRequest, make_request
from schemas.training import TrainConfig, train_config
from storage.pack import pack
from tests.flows.world import World
from tests.nasty import Member

SHAPES = ("circle", "star", "square")
LABELS = tuple(f"{colour}-{shape}" for shape in SHAPES for colour in COLOURS)[:20]
NOVEL = tuple(sorted(set(LABELS) & NEVER_IN_CAPTIONS))[:5]
TRAIN_SEED, TEST_SEED = 0, 1
TRAIN_PICTURES, TEST_PICTURES = 160, 80

Picture = tuple[str, bytes, tuple[str, ...]]  # key, JPEG, labels
SideFile = Callable[[str, tuple[str, ...]], Any]  # of a key and its labels, what its .json says; None: there is none


def recipe(**changes: Any) -> TrainConfig:
    """Return a recipe of three epochs with a small head."""
    small = {"width": 64, "num_heads": 4, "feedforward_width": 64, "projection_width": 32, "batch_size": 32}
    shares = {"validation_share": 0.3, "holdout_label_share": 0.3}
    return train_config(**{**small, **shares, "epochs": 3, "learning_rate": 3e-3, **changes})


@lru_cache
def scenes(count: int, seed: int) -> tuple[Picture, ...]:
    """Return pictures with those of their labels that are in LABELS."""
    return tuple(
        (f"s{seed}-{key}", data, tuple(label for label in labels if label in LABELS))
        for key, data, labels in iter_scenes(count, seed)
    )


def side_files(pictures: Sequence[Picture], says: SideFile) -> list[Member]:
    """Return the pictures as members of a shard, each with what its side file says."""
    members: list[Member] = []
    for key, data, labels in pictures:
        members.append((f"{key}.jpg", data))
        said = says(key, labels)
        if said is not None:
            members.append((f"{key}.json", said if isinstance(said, bytes) else json.dumps(said).encode()))
    return members


@dataclass(frozen=True)
class AnnotatedWorld(World):
    """A folder with `shards/` to learn from, `test/` to be judged by, `taxonomy.yaml`, `novel.txt` and `store/`."""

    @property
    def test(self) -> str:
        return str(self.folder / "test" / "*.tar")

    @property
    def novel(self) -> str:
        return str(self.folder / "novel.txt")

    def train_request(self, **changes: Any) -> TrainRequest:
        values = {
            "shards": (str(self.folder / "shards" / "*.tar"),),
            "taxonomy": str(self.taxonomy),
            "store": self.store,
            "base": "bundled:scenes",
            "novel": self.novel,
            "name": "world",
            "recipe": recipe(),
        }
        return make_request(TrainRequest, **values | changes)

    def train(self, **changes: Any) -> TrainSummary:
        summary = run_train(plan_train(self.train_request(**changes)))
        assert summary is not None
        return summary

    def evaluate(self, **changes: Any) -> EvaluationOutcome:
        return run_evaluation(plan_evaluation(make_request(EvaluateRequest, **self._judge(changes))))

    def calibrate(self, **changes: Any) -> CalibrateSummary:
        return run_calibration(plan_judging(make_request(CalibrateRequest, **self._judge(changes))))

    def _judge(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        values = {"shards": (self.test,), "taxonomy": str(self.taxonomy), "store": self.store, "name": "test"}
        return values | dict(changes)

    def model_file(self, model_id: str, name: str) -> Path:
        return Path(self.store, "models", model_id, name)

    def config(self, model_id: str) -> dict[str, Any]:
        """Return a model's record as it is written."""
        found: dict[str, Any] = json.loads(self.model_file(model_id, "config.json").read_text())
        return found

    def calibration(self, model_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Return a model's calibration by scorer and label."""
        table = pq.read_table(self.model_file(model_id, "calibration.parquet")).to_pylist()
        return {(row["scorer"], row["label_id"]): row for row in table}

    def weights(self, model_id: str) -> str:
        """Return the checksum of a checkpoint's weights."""
        return hashlib.sha256(self.model_file(model_id, "model.safetensors").read_bytes()).hexdigest()


def make_annotated_world(folder: Path) -> AnnotatedWorld:
    """Return a world with nothing learned yet."""
    world = AnnotatedWorld(folder)
    world.taxonomy.write_text(taxonomy_yaml(LABELS))
    (folder / "novel.txt").write_text("\n".join(["# held out", *NOVEL]) + "\n")
    _pack(scenes(TRAIN_PICTURES, TRAIN_SEED), folder / "pictures", folder / "shards", per_shard=80)
    _pack(scenes(TEST_PICTURES, TEST_SEED), folder / "test-pictures", folder / "test", per_shard=80)
    return world


def copy_world(world: AnnotatedWorld, folder: Path) -> AnnotatedWorld:
    """Return a world of its own with the same shards, features, patch tokens and models."""
    shutil.copytree(world.folder, folder, ignore=shutil.ignore_patterns("*pictures"))
    return AnnotatedWorld(folder)


def make_written_world(folder: Path, says: SideFile, count: int = TRAIN_PICTURES) -> AnnotatedWorld:
    """Return a world whose one shard has the first training pictures with side files of one's own."""
    world = AnnotatedWorld(folder)
    world.taxonomy.write_text(taxonomy_yaml(LABELS))
    (folder / "novel.txt").write_text("\n".join(NOVEL) + "\n")
    world.shard("00000", side_files(scenes(TRAIN_PICTURES, TRAIN_SEED)[:count], says))
    return world


def _pack(pictures: Sequence[Picture], source: Path, target: Path, *, per_shard: int) -> None:
    source.mkdir()
    with (source / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "labels"])
        for key, data, labels in pictures:
            (source / f"{key}.jpg").write_bytes(data)
            table.writerow([f"{key}.jpg", ";".join(labels)])
    pack(str(source / "labels.csv"), str(target / "{:05d}.tar"), samples_per_shard=per_shard)
