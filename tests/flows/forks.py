"""Forks of a process that has loaded what takes long and computed nothing: a hundred killed runs cost seconds."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401 - its OpenBLAS has threads from here on, and ends them by itself before a fork

KILLED = "signal 9"
_TASKS = Path("/proc/self/task")
_OF_LIBRARIES = {task.name for task in _TASKS.iterdir()}
_OF_ARROW = "jemalloc_bg_thd"  # its allocator stops it before a fork


def in_fork(work: Callable[[], Any]) -> tuple[str, Any]:
    """Return how a fork that does `work` ended (`done`, `signal 9`, or a traceback), and what `work` returned.

    Refuses to fork beside threads of DuckDB, Arrow or torch: the child would wait for ever now and then, or crash.
    """
    assert not (threads := _threads()), f"a fork beside threads: {threads}"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        end, result = "done", None
        try:
            result = work()
        except BaseException:  # noqa: BLE001 - whatever it is, the parent tells it
            end = traceback.format_exc()
        with os.fdopen(writer, "w") as pipe:
            json.dump([end, result], pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}", None
    end, result = json.loads(text)
    return end, result


def asked(question: Callable[[], Any]) -> Any:
    """Return the answer (JSON) of a question that starts threads, such as a query, and leave none behind."""
    end, answer = in_fork(question)
    assert end == "done", end
    return answer


def _threads() -> list[str]:
    names = [(task / "comm").read_text().strip() for task in _TASKS.iterdir() if task.name not in _OF_LIBRARIES]
    return [name for name in names if name != _OF_ARROW]
