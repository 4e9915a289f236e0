"""A plan that a command has made already, for the flow that it starts in its own process.

A flow's parameters are data that Prefect keeps and shows, and a plan is neither; so it is handed over beside them, and
a flow that somebody else starts makes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar


class Plan(Protocol):
    """What is planned for one request."""

    @property
    def request(self) -> Any:
        """What it is a plan for."""


PlanT = TypeVar("PlanT", bound=Plan)

# At most one plan; in a list, since a flow may run in a copy of the context, and is to take it away for all.
_waiting: ContextVar[list[Plan] | None] = ContextVar("waiting", default=None)


@contextmanager
def handed_over(plan: Plan) -> Iterator[None]:
    """Let the next flow in this block that asks for such a plan have this one."""
    token = _waiting.set([plan])
    try:
        yield
    finally:
        _waiting.reset(token)


def planned(request: object, kind: type[PlanT], make: Callable[[], PlanT]) -> PlanT:
    """Return the plan of a request: the one that was handed over, which serves once, else a new one.

    Args:
        request: what is to be done.
        kind: of plan.
        make: plans anew.
    """
    waiting = _waiting.get()
    if waiting and isinstance(plan := waiting[0], kind) and plan.request == request:
        waiting.clear()
        return plan
    return make()
