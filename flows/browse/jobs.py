"""Work that takes longer than a page may: it runs in a thread, and the page asks how far it is."""

from __future__ import annotations

import secrets
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from flows.browse.redaction import without_places
from schemas.errors import ClipdecoderError

_HELD = 50

Tell = Callable[[str], None]
Work = Callable[[Tell], dict[str, Any]]


@dataclass
class Job:
    """One piece of work."""

    name: str
    state: Literal["waiting", "working", "done", "failed"] = "waiting"
    says: str = "waiting for other work"
    result: dict[str, Any] | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """The work of one server, one piece at a time: a model in memory twice would be too much."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="browse")
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, work: Work) -> Job:
        """Begin some work. It is told how to say what it does, and returns what the page needs to show it."""
        job = Job(secrets.token_urlsafe(9))
        with self._lock:
            self._jobs[job.name] = job
            while len(self._jobs) > _HELD:
                self._jobs.popitem(last=False)
        self._pool.submit(_do, job, work)
        return job

    def find(self, name: str) -> Job | None:
        """Return some work by its name."""
        with self._lock:
            return self._jobs.get(name)

    def close(self) -> None:
        """Take no more work. What is being done ends by itself, and what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _do(job: Job, work: Work) -> None:
    def tell(text: str) -> None:
        job.says = text

    job.state = "working"
    try:
        job.result = work(tell)
        job.state = "done"
    except ClipdecoderError as error:
        job.says, job.state = without_places(str(error)), "failed"
    except Exception as error:  # noqa: BLE001  # the page must learn that it ended, whatever it was
        traceback.print_exc(file=sys.stderr)
        job.says, job.state = f"unexpected {type(error).__name__}; the server's terminal says more", "failed"
    finally:
        job.ended.set()
