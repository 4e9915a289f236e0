"""Prefect, quiet and private on the command line: set before it is imported, and only where the user set nothing."""

from __future__ import annotations

import os

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # What Prefect would log as an error, with a traceback, the command line says in a sentence.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # A first start on an empty home takes 14 to 22 seconds; the default limit is 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def make_prefect_quiet() -> None:
    """Give Prefect's settings our defaults: no telemetry, no log of its own, time to start."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
