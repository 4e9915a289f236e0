"""A plan that was made before its flow is started: used by the next flow of the same request, once."""

from __future__ import annotations

from contextvars import copy_context
from dataclasses import dataclass

import pytest

from flows.apply import plan_apply
from flows.handover import handed_over, planned
from flows.tagging.plan import plan_tag
from schemas.config import ApplyRequest
from tests.flows.taxonomies.test_backfill import GROWN
from tests.flows.world import World, taxonomy_text


@dataclass(frozen=True)
class Made:
    request: str
    number: int = 0


@dataclass(frozen=True)
class Other:
    request: str


def ask(request: str = "a") -> int:
    return planned(request, Made, lambda: Made(request, number=-1)).number


def test_the_flow_of_this_request_has_it_once_and_every_other_plans_for_itself() -> None:
    assert ask() == -1
    with handed_over(Made("a", 7)):
        assert ask("b") == -1 and planned("a", Other, lambda: Other("new")).request == "new"
        assert copy_context().run(ask) == 7, "a flow may run in a copy of the context"
        assert ask() == -1
    with handed_over(Made("a", 7)):
        pass
    assert ask() == -1


def test_a_flow_within_a_flow_is_handed_its_own() -> None:
    with handed_over(Made("a", 1)):
        with handed_over(Made("b", 2)):
            assert ask("b") == 2
        assert ask() == 1


@pytest.mark.e2e
@pytest.mark.filterwarnings("default")
def test_flows_take_what_is_handed_over(world: World) -> None:
    """What a second planning would read is gone by then."""
    from flows.environment import make_prefect_quiet

    make_prefect_quiet()
    from prefect.testing.utilities import prefect_test_harness

    from flows.deployed.apply import apply_taxonomy
    from flows.tag import tag

    with prefect_test_harness(server_startup_timeout=120):
        plan = plan_tag(world.request())
        world.taxonomy.rename(world.folder / "grown.yaml")
        with handed_over(plan):
            assert tag(plan.request).ok
        world.taxonomy.write_text(taxonomy_text(GROWN))
        applied = plan_apply(ApplyRequest(taxonomy=str(world.taxonomy), store=world.store, batch_size=4))
        world.taxonomy.unlink()
        with handed_over(applied):
            summary = apply_taxonomy(applied.request)
    assert summary.ok and summary.put_in_force and summary.backfills
    assert world.ask("select count(distinct label_id) from scores") == [(len(GROWN),)]
