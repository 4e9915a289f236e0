"""Environment of the command line: set before Prefect and torch are imported, and only where the user set nothing."""

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


def share_processors() -> None:
    """Let torch's threads sleep while they wait for each other.

    They would spin, and where another process has one of the processors, each step of a training then waits for a
    time slice: 1.3 seconds instead of 0.2, measured on two processors beside one busy process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
