"""Groups of shards shared out to one process for each device: several GPUs of one machine, or parts of a processor.

What a store holds does not depend on who ran a group, so nothing else knows of it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace

from flows.environment import share_processors, usable_cores
from flows.tagging.outcomes import GroupOutcome
from flows.tagging.plan import TagPlan
from flows.tagging.run import Execute, Groups, Stop, tag_group
from schemas.errors import RunError


def execute_on_all(plan: TagPlan, groups: Groups, stop: Stop, otherwise: Execute) -> Iterator[GroupOutcome]:
    """Run groups on every device that the request names, else by `otherwise`; see `flows.tagging.run.Execute`."""
    if len(groups) <= 1:
        return otherwise(plan, groups, stop)
    from clipdecoder.encoders.model import list_devices

    devices = list_devices(plan.request.device)
    if len(devices) == 1:
        return otherwise(plan, groups, stop)
    return execute_in_processes(plan, groups, stop, devices[: len(groups)])


def execute_in_processes(plan: TagPlan, groups: Groups, stop: Stop, devices: Sequence[str]) -> Iterator[GroupOutcome]:
    """Run groups in one process for each device, and yield each outcome as it comes; see `flows.tagging.run.Execute`.

    Raises:
        RunError: a process died; what is done stays done.
    """
    waiting, threads = deque(groups), max(1, usable_cores() // len(devices))
    running: dict[Future[GroupOutcome], int] = {}
    with ExitStack() as stack:
        # Spawned: neither CUDA nor an object store's client may be forked.
        context = multiprocessing.get_context("spawn")
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, initializer=_begin, initargs=(threads,)))
            for _ in devices
        ]
        idle = list(range(len(devices)))
        while running or (waiting and not stop()):
            while idle and waiting and not stop():
                place = idle.pop()
                here = _on(plan, devices[place], threads)
                running[pools[place].submit(tag_group, here, waiting.popleft())] = place
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                idle.append(running.pop(future))
                yield _outcome(future)


def _begin(threads: int) -> None:
    """Have as many threads as is this process's share, in place of what its parent has for itself."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    share_processors()


def _on(plan: TagPlan, device: str, threads: int) -> TagPlan:
    threads = plan.request.decode_threads or threads
    return replace(plan, request=plan.request.model_copy(update={"device": device, "decode_threads": threads}))


def _outcome(future: Future[GroupOutcome]) -> GroupOutcome:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a process that tagged shards died, perhaps for lack of memory; what is done stays done, and the same "
            "command goes on"
        ) from error
