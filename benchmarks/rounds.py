"""Times of several stages, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Times = Mapping[str, list[float]]  # seconds of each stage, one entry per round
Stages = Mapping[str, Callable[[], float]]  # each does its work and returns its seconds


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(stages: Stages, rounds: int) -> Times:
    """Return the seconds of each stage in rounds of all stages: what else the machine does then hits them alike."""
    times: dict[str, list[float]] = {stage: [] for stage in stages}
    for _ in range(rounds):
        for stage, work in stages.items():
            times[stage].append(work())
    return times


def ratio(times: Times, stage: str, to: str) -> float:
    """Return the median over rounds of one stage's time over another's."""
    return statistics.median(one / other for one, other in zip(times[stage], times[to], strict=True))
