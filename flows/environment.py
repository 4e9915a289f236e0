"""Environment of the command line: set before Prefect and torch are imported, and only where the user set nothing."""

from __future__ import annotations

import gc
import math
import os
from pathlib import Path

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


def has_server() -> bool:
    """Whether Prefect would tell a server that somebody set up: in the environment, or in one of its own files.

    Without Prefect, whose import takes seconds: where a file only may say so the answer is yes.
    """
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    files = (profiles, Path("prefect.toml"), Path("pyproject.toml"), Path(".env"))
    return "PREFECT_API_URL" in os.environ or any(_names_server(file) for file in files)


def _names_server(file: Path) -> bool:
    try:
        text = file.read_text()
    except OSError:
        return False
    return "PREFECT_API_URL" in text or "[tool.prefect" in text or file.name == "prefect.toml"


def share_processors() -> None:
    """Let torch have a thread for each core that is ours, and let threads sleep while they wait for each other.

    They would spin, and where another process has one of the processors, each step of a training then waits for a
    time slice: 1.3 seconds instead of 0.2, measured on two processors beside one busy process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def end_soon() -> None:
    """Look for no cycles of garbage: a command that answers once ends before they matter, and looking takes a tenth."""
    gc.disable()


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may use: in a container they can be fewer than the machine has.

    Args:
        quota: where Linux says how much of the processors a container may use: microseconds in how many, or "max".
    """
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(ours, math.ceil(int(allowed) / int(period))))
    except (OSError, ValueError):
        return ours
