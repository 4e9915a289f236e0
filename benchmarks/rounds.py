"""Times of several stages, taken in turns."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

Times = Mapping[str, list[float]]  # seconds of each stage, one entry per round
Stages = Mapping[str, Callable[[], float]]  # each does its work and returns its seconds


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Cost(NamedTuple):
    """Seconds by the clock, and of processors: of all threads, and of the processes started meanwhile that ended."""

    wall: float
    cpu: float


Costs = Mapping[str, list[Cost]]  # of each stage, one entry per round


def cost(work: Callable[[], object]) -> Cost:
    """Return what one call costs. On a machine with other work, processor seconds are the ones to compare."""
    started, used = time.perf_counter(), _processor_seconds()
    work()
    return Cost(time.perf_counter() - started, _processor_seconds() - used)


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def alternate_costs(stages: Mapping[str, Callable[[], Cost]], rounds: int) -> Costs:
    """Return what each stage costs in rounds of all stages; see `alternate`."""
    costs: dict[str, list[Cost]] = {stage: [] for stage in stages}
    for _ in range(rounds):
        for stage, work in stages.items():
            costs[stage].append(work())
    return costs


def median_of(values: list[Cost]) -> Cost:
    """Return the medians over rounds."""
    return Cost(statistics.median(one.wall for one in values), statistics.median(one.cpu for one in values))


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
