"""Running a Prefect flow from the command line: its result, or the error that a user can do something about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")


def run_flow(flow: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a flow in this process and return its result, which a run that failed has as well.

    Raises:
        ConfigError: the Prefect server that PREFECT_API_URL names does not answer.
        Exception: whatever the flow raised.
    """
    try:
        result: Any = flow(*arguments, **options, return_state=True).result(raise_on_failure=False)
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        from schemas.errors import ConfigError

        raise ConfigError(
            f"the Prefect server does not answer ({error}); start it, unset PREFECT_API_URL, or set "
            "CLIPDECODER_ORCHESTRATE=false to run without Prefect"
        ) from None
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def held(variable: ContextVar[ValueT], value: ValueT) -> Iterator[None]:
    """Give a context variable a value while the block runs."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
