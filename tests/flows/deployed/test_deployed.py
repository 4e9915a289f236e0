"""The flows that deployments run, as runs on a real Prefect server: what they do, show, and have to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from examples.scenes.render import taxonomy_yaml
from flows.cli.app import app
from schemas.config import ApplyRequest
from schemas.retraining import RetrainDecision, RetrainPolicy
from storage.files import Folder
from storage.models import read_models, read_promotion
from tests.flows.annotated import LABELS, NOVEL, AnnotatedWorld, make_annotated_world
from tests.flows.grown import put_taxonomy

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]  # Prefect's own dependencies warn

NEW = next(label for label in LABELS if label not in NOVEL)
POLICY = RetrainPolicy(min_positives=5, max_seen_drop=1, max_novel_drop=1, max_rate_change=1, max_flip_rate=1)


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """Start a real server on loopback with an empty database."""
    from flows.environment import make_prefect_quiet

    make_prefect_quiet()
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedWorld:
    """Return a tagged world whose model never heard of `NEW`; the side files speak of it already."""
    world = make_annotated_world(tmp_path_factory.mktemp("tagged"))
    world.taxonomy.write_text(taxonomy_yaml([label for label in LABELS if label != NEW]))
    world.tag(model=world.train(held_out_share=0.2).model_id)
    world.taxonomy.write_text(taxonomy_yaml(LABELS))
    return world


def artifact(key: str) -> str:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_=key)))
    return str(max(found, key=lambda one: one.created).data)


def flow_runs(name: str) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[name])))


def subflows(name: str) -> list[Any]:
    return [run for run in flow_runs(name) if run.parent_task_run_id is not None]


def test_one_flow_does_it_all_and_a_second_has_nothing_to_do(prefect_server: None, tagged: AnnotatedWorld) -> None:
    from flows.deployed.apply import apply_taxonomy

    request = ApplyRequest(taxonomy=str(tagged.taxonomy), store=tagged.store, policy=POLICY, batch_size=4)
    summary = apply_taxonomy(request)
    assert summary.ok and summary.put_in_force and summary.retraining.state == "promoted"
    promotion = read_promotion(Folder(tagged.store))
    assert promotion is not None and promotion.model_id == summary.retraining.model_id
    assert tagged.ask(f"select distinct model_id from scores where label_id = '{NEW}'") == [(promotion.model_id,)]
    assert len(subflows("backfill")) == 2 and len(subflows("retrain")) == 1
    page = artifact(f"retraining-{summary.decision.decision_id}")
    assert NEW in page and "seen_map" in page and "outcome: promoted" in page
    assert "in force now" in artifact("taxonomy-%")

    again = apply_taxonomy(request)
    assert again.unchanged and not again.decision.retrain
    assert len(subflows("backfill")) == 2 and len(read_models(Folder(tagged.store))) == 2


def test_the_commands_are_runs_that_prefect_shows(prefect_server: None, annotated: AnnotatedWorld) -> None:
    annotated.tag()
    put_taxonomy(annotated, taxonomy_yaml(LABELS, ["teal-moon"]))

    def runs(name: str) -> list[Any]:
        return [run for run in flow_runs(name) if run.parameters["request"]["store"] == annotated.store]

    def said(*words: str) -> Any:
        through_prefect = {"CLIPDECODER_ORCHESTRATE": "true"}
        done = CliRunner().invoke(app, [*words, "--store", annotated.store, "--json"], env=through_prefect)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert said("backfill", "--plan")["taxonomies"] and not said("retrain", "--plan")["outcome"]
    assert not runs("backfill") and not runs("retrain")
    assert said("backfill")["runs"][0]["labels"] == ["teal-moon"] and len(runs("backfill")) == 1
    told = said("retrain")
    assert told["outcome"]["state"] == "declined" and len(runs("retrain")) == 1
    assert "teal-moon" in artifact(f"retraining-{told['decision']['decision_id']}")
    assert said("taxonomy", "withdraw", "scenes", "--plan")["planned"] and not flow_runs("withdraw-taxonomy")
    assert said("taxonomy", "withdraw", "scenes")["in_force"] and len(flow_runs("withdraw-taxonomy")) == 1
    assert "out of force now" in artifact("taxonomy-%")
    assert not said("taxonomy", "withdraw", "scenes")["in_force"] and len(flow_runs("withdraw-taxonomy")) == 1


def test_plans_load_no_prefect(annotated: AnnotatedWorld) -> None:
    annotated.tag()
    put_taxonomy(annotated, taxonomy_yaml(LABELS, ["teal-moon"]))
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(' '.join(sys.modules))"
    for command in ("backfill", "retrain"):
        words = [sys.executable, "-c", program, command, "--plan", "--store", annotated.store]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert "teal-moon" in done.stdout or "1 query" in done.stdout
        assert "prefect" not in {name.partition(".")[0] for name in done.stderr.split()}


def decision(decision_id: str, taxonomy_digest: str, minutes: int, *, retrain: bool = False) -> RetrainDecision:
    return RetrainDecision(
        decision_id=decision_id,
        taxonomy="scenes",
        taxonomy_digest=taxonomy_digest,
        ground_truth_digest="g",
        model_id=None,
        retrain=retrain,
        reasons=(),
        labels=(),
        policy=POLICY,
        decided_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes),
    )


def summary_of(made: RetrainDecision, *, put_in_force: bool = False) -> Any:
    from flows.taxonomies.apply_summary import ApplySummary

    return ApplySummary.model_construct(taxonomy="scenes", decision=made, put_in_force=put_in_force)


def test_nothing_new_is_not_told() -> None:
    from flows.deployed.sync_taxonomy import is_news

    made = decision("d1", "a", 0)
    assert is_news(summary_of(made), [])
    assert not is_news(summary_of(made), [made])
    assert is_news(summary_of(made, put_in_force=True), [made])
    waiting = decision("d2", "a", 1, retrain=True)  # its event was lost, or its retraining killed
    assert is_news(summary_of(waiting), [made, waiting])


def test_the_event_says_what_changed() -> None:
    from flows.deployed.sync_taxonomy import which_event
    from schemas.events import GROUND_TRUTH_CHANGED, TAXONOMY_CHANGED

    first, second, third = decision("d1", "a", 0), decision("d2", "b", 1), decision("d3", "b", 2)
    assert which_event(summary_of(first), []) == TAXONOMY_CHANGED
    assert which_event(summary_of(second, put_in_force=True), [first]) == TAXONOMY_CHANGED
    assert which_event(summary_of(second), [first, second]) == TAXONOMY_CHANGED  # told a second time
    assert which_event(summary_of(third), [first, second]) == GROUND_TRUTH_CHANGED
    assert which_event(summary_of(first, put_in_force=True), [first, second, third]) == TAXONOMY_CHANGED  # and back
