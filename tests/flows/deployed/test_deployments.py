"""`prefect.yaml` says things that Prefect understands: flows, parameters, triggers; and what `deploy` makes of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from flows.deployed.deployments import SILENCE, DeployOptions, find_server, read_document, with_options
from schemas.errors import ConfigError
from schemas.events import GROUND_TRUTH_CHANGED, MODEL_PROMOTED, TAXONOMY_CHANGED, ModelPromoted, TaxonomyChanged

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("default")  # Prefect's own dependencies warn

DOCUMENT = read_document(ROOT / "prefect.yaml")
DEPLOYMENTS = {entry["name"]: entry for entry in DOCUMENT["deployments"]}
TRIGGERS = [(name, trigger) for name, entry in DEPLOYMENTS.items() for trigger in entry.get("triggers", [])]

CHANGE = TaxonomyChanged(
    store="store",
    taxonomy='street "east"',
    taxonomy_digest="0123456789abcdef",
    added=("dog", "bus"),
    reworded=(),
    decision_id="fedcba9876543210",
    retrain=True,
    reasons=("dog: 24 positives, and the model has not seen it; {{ this }} is no template",),
)
PROMOTION = ModelPromoted(store="store", model_id="0123", previous=None, reason="all gates passed")


def flow_of(entry: dict[str, Any]) -> Any:
    path, _, name = entry["entrypoint"].partition(":")
    return getattr(import_module(path.removesuffix(".py").replace("/", ".")), name)


def received(event: dict[str, Any]) -> Any:
    """Return an event as the server has it."""
    from prefect.events import Event
    from prefect.server.events.schemas.events import ReceivedEvent

    sent = Event(occurred=datetime.now(UTC), **event)
    return ReceivedEvent.model_validate(sent.model_dump(mode="json") | {"received": datetime.now(UTC)})


def as_server_has_it(name: str, spec: dict[str, Any]) -> Any:
    """Return the automation that the server keeps for a trigger."""
    from prefect.cli.deploy._triggers import _initialize_deployment_triggers
    from prefect.server.events.schemas.automations import Automation

    (trigger,) = _initialize_deployment_triggers(name, [spec])
    trigger.set_deployment_id(uuid4())
    return Automation.model_validate(trigger.as_automation().model_dump(mode="json") | {"id": str(uuid4())})


def rendered(automation: Any, event: Any) -> dict[str, Any]:
    """Return the parameters of the run that the server would start on an event."""
    from prefect.server.events.schemas.automations import TriggeredAction

    (action,) = automation.actions
    triggered = TriggeredAction(
        automation=automation, triggered=datetime.now(UTC), triggering_labels={}, triggering_event=event, action=action
    )
    parameters: dict[str, Any] = asyncio.run(action.render_parameters(triggered))
    return parameters


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_fit_the_flow(name: str) -> None:
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools import validate

    entry = DEPLOYMENTS[name]
    flow = flow_of(entry)
    flow.validate_parameters(entry["parameters"])
    assert validate(entry["parameters"], parameter_schema(flow).model_dump(), raise_on_error=True) == []


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_deployment_runs_alone_is_looked_after_and_has_a_pool(name: str) -> None:
    entry = DEPLOYMENTS[name]
    assert entry["concurrency_limit"]["limit"] == 1
    assert entry["concurrency_limit"]["collision_strategy"] in {"ENQUEUE", "CANCEL_NEW"}
    assert entry["tags"] == ["clipdecoder"] and entry["work_pool"]["name"] == "clipdecoder"
    beat = int(entry["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert beat * 3 < SILENCE.total_seconds()


def test_the_five_are_there() -> None:
    assert sorted(DEPLOYMENTS) == ["backfill", "evaluate", "nightly", "retrain", "sync-taxonomy"]
    scheduled = {name for name, entry in DEPLOYMENTS.items() if any(s["active"] for s in entry.get("schedules", []))}
    assert scheduled == {"nightly", "sync-taxonomy"}
    assert [name for name, _ in TRIGGERS] == ["retrain", "backfill"]


def test_one_policy_decides_and_acts() -> None:
    sync, retrain = (DEPLOYMENTS[name]["parameters"]["request"] for name in ("sync-taxonomy", "retrain"))
    assert sync["policy"] == retrain["policy"]


@pytest.mark.parametrize("name", [name for name, _ in TRIGGERS])
def test_a_trigger_looks_at_the_store_of_its_deployment(name: str) -> None:
    entry = DEPLOYMENTS[name]
    for trigger in entry["triggers"]:
        assert trigger["match"]["clipdecoder.store"] == entry["parameters"]["request"]["store"]


@pytest.mark.parametrize("event_name", [TAXONOMY_CHANGED, GROUND_TRUTH_CHANGED])
def test_a_change_triggers_retraining_with_a_typed_payload(event_name: str) -> None:
    from flows.deployed.events import change_event

    entry = DEPLOYMENTS["retrain"]
    automation = as_server_has_it("retrain", entry["triggers"][0])
    event = received(change_event(event_name, CHANGE))
    assert automation.trigger.covers(event)
    parameters = entry["parameters"] | rendered(automation, event)
    assert parameters["event"]["added"] == ["dog", "bus"] and parameters["event"]["retrain"] is True
    assert flow_of(entry).validate_parameters(parameters)["event"] == CHANGE


def test_a_promotion_triggers_the_backfill() -> None:
    from flows.deployed.events import promotion_event

    entry = DEPLOYMENTS["backfill"]
    automation = as_server_has_it("backfill", entry["triggers"][0])
    event = received(promotion_event(PROMOTION))
    assert event.event == MODEL_PROMOTED and automation.trigger.covers(event)
    assert flow_of(entry).validate_parameters(entry["parameters"] | rendered(automation, event))["event"] == PROMOTION


def test_what_asks_for_no_retraining_and_other_stores_trigger_nothing() -> None:
    from flows.deployed.events import change_event

    automation = as_server_has_it("retrain", DEPLOYMENTS["retrain"]["triggers"][0])
    for other in ({"retrain": False}, {"store": "s3://other/store"}, {"store": "store/2"}):
        event = received(change_event(TAXONOMY_CHANGED, CHANGE.model_copy(update=other)))
        assert not automation.trigger.covers(event)


def test_many_labels_make_no_event_that_is_refused() -> None:
    from flows.deployed.events import MAX_NAMED, change_event

    many = CHANGE.model_copy(update={"added": tuple(f"label-{i:06d}" for i in range(200_000))})
    event = received(change_event(TAXONOMY_CHANGED, many))
    assert len(event.payload["added"]) == MAX_NAMED


def test_a_misspelt_parameter_does_not_fit() -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.tag import tag

    with pytest.raises(ParameterTypeError):
        tag.validate_parameters({"request": {"shards": ["a.tar"], "taxonomy": "t", "store": "s", "flor": 1}})


def test_prefect_yaml_names_the_locked_version() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\nprefect=={DOCUMENT['prefect-version']} " in lock


def test_options_replace_what_the_file_says() -> None:
    options = DeployOptions(pool="gpu", store="s3://b/[a]", taxonomies=("new.yaml",), suffix="b")
    changed = {entry["name"]: entry for entry in with_options(DOCUMENT, options)["deployments"]}
    assert sorted(changed) == sorted(f"{name}-b" for name in DEPLOYMENTS)
    assert {entry["work_pool"]["name"] for entry in changed.values()} == {"gpu"}
    assert {entry["parameters"]["request"]["store"] for entry in changed.values()} == {"s3://b/[a]"}
    assert changed["nightly-b"]["parameters"]["request"]["taxonomy"] == "new.yaml"
    assert "taxonomy" not in changed["retrain-b"]["parameters"]["request"]
    assert changed["retrain-b"]["work_pool"]["job_variables"] == DEPLOYMENTS["retrain"]["work_pool"]["job_variables"]
    assert read_document(ROOT / "prefect.yaml") == DOCUMENT


def test_a_store_with_a_pattern_in_its_name_is_matched_by_its_name() -> None:
    from flows.deployed.events import change_event

    changed = with_options(DOCUMENT, DeployOptions(store="s3://b/[a]*"))["deployments"]
    (entry,) = (entry for entry in changed if entry["name"] == "retrain")
    automation = as_server_has_it("retrain", entry["triggers"][0])
    for store, covered in (("s3://b/[a]*", True), ("s3://b/ab", False)):
        event = received(change_event(TAXONOMY_CHANGED, CHANGE.model_copy(update={"store": store})))
        assert automation.trigger.covers(event) is covered


def test_several_taxonomies_make_a_deployment_each() -> None:
    changed = with_options(DOCUMENT, DeployOptions(taxonomies=("a/objects.yaml", "scenes.yaml")))["deployments"]
    taxonomies = {entry["name"]: entry["parameters"]["request"].get("taxonomy") for entry in changed}
    assert taxonomies["sync-taxonomy-objects"] == "a/objects.yaml" and taxonomies["nightly-scenes"] == "scenes.yaml"
    assert len(changed) == 8 and taxonomies["retrain"] is None
    with pytest.raises(ConfigError, match="nightly-objects"):
        with_options(DOCUMENT, DeployOptions(taxonomies=("a/objects.yaml", "b/objects.yaml")))


def test_what_is_no_prefect_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--file"):
        read_document(tmp_path / "prefect.yaml")
    for text, problem in (("a: [", "not YAML"), ("name: x", "no deployments")):
        (tmp_path / "prefect.yaml").write_text(text)
        with pytest.raises(ConfigError, match=problem):
            read_document(tmp_path / "prefect.yaml")


def test_without_a_server_nothing_is_deployed() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigError, match="prefect server start"),
    ):
        find_server()
    gone = {PREFECT_API_URL: "http://127.0.0.1:9/api"}
    with temporary_settings(gone), pytest.raises(ConfigError, match="no Prefect server answers"):
        find_server()


def test_a_document_survives_its_way_to_prefect() -> None:
    changed = with_options(DOCUMENT, DeployOptions(store="s3://b/store"))
    assert yaml.safe_load(yaml.safe_dump(changed, sort_keys=False)) == changed
