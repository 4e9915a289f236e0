"""An annotated world whose model lacks a label that people have answered for since it was trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from examples.scenes.render import taxonomy_yaml
from flows.retraining.decide import decide
from flows.retraining.run import run_retrain
from flows.train import TrainWatch
from schemas.config import RetrainRequest
from schemas.retraining import RetrainDecision, RetrainOutcome, RetrainPolicy
from storage.annotations import Annotation, write_annotations
from storage.files import Folder
from storage.taxonomies import load_taxonomy, put_in_force, write_taxonomy
from tests.flows.annotated import (
    LABELS,
    TRAIN_PICTURES,
    TRAIN_SEED,
    AnnotatedWorld,
    iter_scenes,
    make_annotated_world,
    scenes,
    side_files,
)
from tests.flows.world import World

CANARY_PICTURES, CANARY_SEED = 60, 2
NEW = "black-moon"  # 14 of the 160 pictures have it
HELD_OUT_SHARE = 0.25
POLICY = RetrainPolicy(
    min_positives=10, held_out_share=HELD_OUT_SHARE, max_seen_drop=0.2, max_novel_drop=0.2, canary="canary/00000"
)


def policy(**changes: Any) -> RetrainPolicy:
    return POLICY.model_copy(update=changes)


def put_taxonomy(world: World, text: str) -> None:
    """Put a version of the taxonomy in force, as `taxonomy apply` does."""
    world.taxonomy.write_text(text)
    taxonomy = load_taxonomy(str(world.taxonomy))
    write_taxonomy(Folder(world.store), taxonomy)
    put_in_force(Folder(world.store), taxonomy)


def answer(world: World, values: dict[str, int | None], label_id: str = NEW) -> None:
    """Keep answers about one label, by key."""
    rows = [Annotation(key=key, label_id=label_id, value=value, source="me") for key, value in values.items()]
    write_annotations(Folder(world.store), rows)


def true_answers(label_id: str = NEW) -> dict[str, int]:
    """Return what is true of a label, for every picture to learn from."""
    pictures = iter_scenes(TRAIN_PICTURES, TRAIN_SEED)
    return {f"s{TRAIN_SEED}-{key}": int(label_id in labels) for key, _, labels in pictures}


def make_grown_world(folder: Path) -> tuple[AnnotatedWorld, str]:
    """Return a world with a trained model, a new label, and answers for it; and the model's id.

    All is tagged, and 60 pictures more that nobody annotated, so that no model has learned from them.
    """
    world = make_annotated_world(folder)
    summary = world.train(held_out_share=HELD_OUT_SHARE)
    world.tag()
    canary = World(folder / "canary")
    canary.shard("00000", side_files(scenes(CANARY_PICTURES, CANARY_SEED), lambda key, labels: None))
    world.tag(shards=(str(canary.folder / "shards" / "*.tar"),), name="canary")
    put_taxonomy(world, taxonomy_yaml((*LABELS, NEW)))
    answer(world, dict(true_answers()))
    return world, summary.model_id


def copy_store(world: AnnotatedWorld, folder: Path) -> AnnotatedWorld:
    """Return the world with a store of its own; the shards stay where they are, as the store knows them."""
    shutil.copytree(world.store, folder / "store")
    for name in ("taxonomy.yaml", "novel.txt"):
        shutil.copy(world.folder / name, folder / name)
    return AnnotatedWorld(folder)


def decide_here(world: World, wanted: RetrainPolicy = POLICY, *, keep: bool = True) -> RetrainDecision:
    return decide(Folder(world.store), load_taxonomy(str(world.taxonomy)), wanted, keep=keep)


def retrain(world: World, wanted: RetrainPolicy = POLICY, watch: TrainWatch | None = None) -> RetrainOutcome:
    return run_retrain(RetrainRequest(store=world.store, policy=wanted), watch)
