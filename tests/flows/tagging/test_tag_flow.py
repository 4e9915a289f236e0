"""The Prefect side: the flow on a real server, its artifacts, its failed state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.world import World

pytestmark = pytest.mark.filterwarnings("default")  # Prefect's own dependencies warn


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """Start a real server on loopback with an empty database."""
    from flows.environment import make_prefect_quiet

    make_prefect_quiet()
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


def artifacts(key: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_=key)))


def test_the_flow_tags_and_leaves_artifacts(prefect_server: None, world: World) -> None:
    from flows.report.markdown import stored_markdown
    from flows.tag import tag

    summary = tag(world.request())
    assert summary.ok and (summary.samples, summary.tagged) == (10, 2)
    key = summary.run_id.lower()
    table, text = artifacts(f"shards-{key}"), artifacts(f"summary-{key}")
    assert '"00000"' in table[0].data and "10 images: 10 scored" in text[0].data
    figures = artifacts(f"report-{key}")
    assert (
        figures[0].data == stored_markdown(world.store, summary.run_id) and "10 images in 2 shards" in figures[0].data
    )
    again = tag(world.request())
    assert (again.tagged, again.resumed) == (0, 2)


def test_a_run_in_trouble_is_a_failed_state_that_says_why(prefect_server: None, world: World) -> None:
    from flows.tag import tag
    from flows.tagging.summary import TagSummary

    world.raw_shard("00002", b"no tar" * 500)
    state = tag(world.request(), return_state=True)
    assert state.is_failed() and "00002: not_a_tar" in str(state.message)
    summary = state.result(raise_on_failure=False)
    assert isinstance(summary, TagSummary) and summary.tagged == 2 and not summary.complete


def test_a_budget_stops_groups_that_have_not_begun(prefect_server: None, world: World) -> None:
    from flows.tag import tag

    for number in range(2, 12):
        world.shard(f"{number:05d}", [(f"{number}-{i}.jpg", b"text") for i in range(120)])
    state = tag(world.request(max_bad=0.1, shards_per_task=1), return_state=True)
    summary = state.result(raise_on_failure=False)
    assert state.is_failed() and summary.tagged < 12
