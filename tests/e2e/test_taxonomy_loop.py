"""The whole loop on a real server: a label is added, applied, learned, judged, promoted, and every image scored anew.

The server is stopped and started between the steps, each step is a worker that does what is due and goes, and no
schedule takes part: what happens is what the events made happen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from examples.scenes.render import taxonomy_yaml
from schemas.events import GROUND_TRUTH_CHANGED, MODEL_PROMOTED, TAXONOMY_CHANGED
from storage.audit import audit_run
from storage.files import Folder
from storage.models import read_models, read_promotion
from tests.e2e.prefect_server import ROOT, PrefectServer, prefect_server, wait_for
from tests.flows.annotated import LABELS, NOVEL, AnnotatedWorld, make_annotated_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NEW = next(label for label in LABELS if label not in NOVEL)
POLICY = {"min_positives": 5, "max_seen_drop": 1.0, "max_novel_drop": 1.0, "max_rate_change": 1.0, "max_flip_rate": 1.0}


def world_before(folder: Path) -> AnnotatedWorld:
    """Return a tagged world whose model never heard of `NEW`; the side files speak of it already."""
    folder.mkdir()
    world = make_annotated_world(folder)
    world.taxonomy.write_text(taxonomy_yaml([label for label in LABELS if label != NEW]))
    trained = world.train(held_out_share=0.2)
    world.tag(model=trained.model_id)
    return world


def deployments_file(folder: Path) -> str:
    """Write the `prefect.yaml` of this repository with a policy for few pictures, and without schedules."""
    document = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for entry in document["deployments"]:
        entry["schedules"] = []
        if "policy" in entry["parameters"]["request"]:
            entry["parameters"]["request"]["policy"] = POLICY
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def states(server: PrefectServer, flow: str) -> list[str]:
    return [run["state_type"] for run in server.runs(flow)]


def scored_by(world: AnnotatedWorld, label: str) -> list[tuple[Any, ...]]:
    return world.ask(f"select model_id, count(distinct shard) from scores where label_id = '{label}' group by all")


def test_a_new_label_is_applied_learned_and_shown(tmp_path: Path) -> None:
    world = world_before(tmp_path / "world")
    old = world.ask("select distinct model_id from scores")[0][0]
    deploy = ("deploy", "--file", deployments_file(tmp_path), "--store", world.store, "--taxonomy", str(world.taxonomy))
    with prefect_server(tmp_path / "prefect") as server:
        server.clipdecoder(*deploy)
        first = (server.ask("deployments/filter", {}), server.ask("automations/filter", {}))
        report = json.loads(server.clipdecoder(*deploy, "--json"))
        again = (server.ask("deployments/filter", {}), server.ask("automations/filter", {}))
        assert [len(found) for found in again] == [len(found) for found in first] == [5, 3]
        assert "sync-taxonomy/sync-taxonomy" in report["deployments"] and not report["pool_created"]

        world.taxonomy.write_text(taxonomy_yaml(LABELS))
        server.prefect("deployment", "run", "sync-taxonomy/sync-taxonomy")
        server.work_once()
        assert states(server, "sync-taxonomy") == ["COMPLETED"]
        assert scored_by(world, NEW) == [(old, 2)]  # at once, by the model that never learned it
        (asked,) = wait_for(lambda: server.runs("retrain"))
        assert asked["parameters"]["event"]["added"] == [NEW] and asked["parameters"]["event"]["retrain"] is True
        assert asked["parameters"]["event"]["store"] == world.store

        server.restart()
        server.work_once()
        assert states(server, "retrain") == ["COMPLETED"]
        promotion = read_promotion(Folder(world.store))
        assert promotion is not None and promotion.model_id != old
        assert NEW in read_models(Folder(world.store))[promotion.model_id].seen_labels
        (asked,) = wait_for(lambda: server.runs("backfill"))
        assert asked["parameters"]["event"]["model_id"] == promotion.model_id

        server.restart()
        server.work_once()
        assert states(server, "backfill") == ["COMPLETED"]
        assert scored_by(world, NEW) == [(promotion.model_id, 2)]
        assert audit_run(Folder(world.store), None).ok

        told = [event for name in (TAXONOMY_CHANGED, GROUND_TRUTH_CHANGED) for event in server.events(name)]
        assert [event["event"] for event in told] == [TAXONOMY_CHANGED]
        server.ask("events", [again_as_new(told[0])])
        wait_for(lambda: len(server.runs("retrain")) == 2)
        server.prefect("deployment", "run", "sync-taxonomy/sync-taxonomy")
        server.work_once()
        assert states(server, "retrain") == ["COMPLETED"] * 2 and states(server, "sync-taxonomy") == ["COMPLETED"] * 2
        assert len(server.events(TAXONOMY_CHANGED)) == 2 and not server.events(GROUND_TRUTH_CHANGED)
        assert len(server.events(MODEL_PROMOTED)) == 1 and states(server, "backfill") == ["COMPLETED"]
        assert len(read_models(Folder(world.store))) == 2 and read_promotion(Folder(world.store)) == promotion
        assert server.events("prefect.automation.action.failed") == []


def again_as_new(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as if it were told a second time."""
    names = ("occurred", "event", "resource", "related", "payload")
    return {name: event[name] for name in names} | {"id": str(uuid4())}
