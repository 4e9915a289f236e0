"""`clipdecoder models`: what it says of promotions, and of what a model learned from."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from flows.cli.app import app
from storage.files import Folder
from storage.models import CURRENT, promote
from tests.flows.annotated import AnnotatedWorld


def say(world: AnnotatedWorld, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["models", *words, "--store", world.store])
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_promotion_names_the_command_that_scores_and_is_made_once(annotated: AnnotatedWorld, model_id: str) -> None:
    zero_shot = annotated.tag(model="bundled:scenes").plan.record.model_id
    promote(Folder(annotated.store), zero_shot, "for the test")
    said = say(annotated, "promote", model_id, "--force", "--reason", "better")
    assert f"promoted {model_id}, in place of {zero_shot}: better" in said
    assert f"next: clipdecoder backfill --store {annotated.store}   (model {model_id} lacks scores)" in said
    before = Path(annotated.store, CURRENT).read_bytes()
    again = say(annotated, "promote", model_id, "--reason", "again")
    assert f"{model_id} is promoted already" in again and "clipdecoder backfill" in again
    assert Path(annotated.store, CURRENT).read_bytes() == before
    back = say(annotated, "rollback")
    assert f"promoted {zero_shot}" in back and "backfill" not in back, "that one has its scores"


def test_learned_from_leaves_out_what_was_held_out(annotated: AnnotatedWorld) -> None:
    summary = annotated.train(held_out_share=0.3)
    data = annotated.config(summary.model_id)["checkpoint"]["data"]
    (row,) = [row for row in json.loads(say(annotated, "list", "--json")) if row["model_id"] == summary.model_id]
    assert row["learned_from"] == f"{data['train_images'] + data['validation_images']} images of world"
    assert data["held_out_images"] > 20 and data["train_images"] + data["validation_images"] < data["images"]
