"""What a measurement ran on: said beside every number."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    *("clipdecoder", "torch", "torchvision", "open_clip_torch", "simplejpeg", "pillow"),
    *("numpy", "pyarrow", "duckdb", "fsspec"),
)


def describe() -> list[str]:
    """Return hardware, date, commit and versions as Markdown list items."""
    return [
        f"- hardware: {_processor()}, {os.cpu_count()} cores, {_memory_gib()} GiB; load before the run: "
        f"{os.getloadavg()[0]:.1f}",
        f"- date: {datetime.now(UTC):%Y-%m-%d}; commit: {_commit()}",
        f"- Python {platform.python_version()}, " + ", ".join(_versions()),
    ]


def _versions() -> Iterator[str]:
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):  # run from a copy of the sources
            yield f"{name} {version(name)}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _commit() -> str:
    with suppress(FileNotFoundError):  # no git there
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"
    return "unknown"
