"""Threads joined by bounded queues: nothing piles up, all end together, and the first error of any is the caller's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

T = TypeVar("T")


class Ended(Exception):
    """The crew has ended, for an error or because nobody wants more: whoever waits leaves. No user meets it."""


class Depth(NamedTuple):
    """How full something was for a while, and how long threads waited for it, all of them together."""

    seconds: float  # the while
    mean: float
    most: int
    waited_to_put: float
    waited_to_get: float


class Meter:
    """Measures a depth that changes. Several threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = self._most = 0
        self._begin()

    def change(self, by: int) -> None:
        """Note that the depth has grown, or fallen."""
        with self._lock:
            self._pass()
            self._depth += by
            self._most = max(self._most, self._depth)

    def wait(self, *, to_put: float = 0.0, to_get: float = 0.0) -> None:
        """Add seconds that a thread waited."""
        with self._lock:
            self._to_put += to_put
            self._to_get += to_get

    def take(self) -> Depth:
        """Return what was measured since the last call, and begin anew."""
        with self._lock:
            self._pass()
            seconds = self._last - self._since
            mean = self._area / seconds if seconds else float(self._depth)
            depth = Depth(seconds, mean, self._most, self._to_put, self._to_get)
            self._begin()
        return depth

    def _begin(self) -> None:
        self._since = self._last = time.perf_counter()
        self._area = self._to_put = self._to_get = 0.0
        self._most = self._depth

    def _pass(self) -> None:
        now = time.perf_counter()
        self._area += self._depth * (now - self._last)
        self._last = now


class Pipe(Generic[T]):
    """A queue from some threads of a crew to others. Made by `Crew.pipe`.

    It holds items of `capacity` together, by the size that each is put with; one alone may be larger.
    """

    def __init__(self, crew: Crew, capacity: int) -> None:
        self.meter = Meter()
        self._crew = crew
        self._capacity = capacity
        self._items: deque[tuple[T, int]] = deque()
        self._used = 0
        self._closed = False
        self._changed = crew.condition()

    def put(self, item: T, size: int = 1) -> None:
        """Add an item; wait for room.

        Raises:
            Ended: the crew has ended.
        """
        with self._changed:
            waited = self._crew.wait(self._changed, lambda: not self._items or self._used + size <= self._capacity)
            self._items.append((item, size))
            self._used += size
            self.meter.change(1)  # before anybody can take it
            self._changed.notify_all()
        self.meter.wait(to_put=waited)

    def close(self) -> None:
        """Say that nothing more comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def ready(self) -> Iterator[T]:
        """Yield what is there, without waiting."""
        while True:
            with self._changed:
                if not self._items:
                    return
                item = self._take()
            self.meter.change(-1)
            yield item

    def __iter__(self) -> Iterator[T]:
        """Yield items until the pipe is closed and empty; several threads may share it.

        Raises:
            Ended: the crew has ended.
        """
        while True:
            with self._changed:
                waited = self._crew.wait(self._changed, lambda: bool(self._items) or self._closed)
                if not self._items:
                    return
                item = self._take()
            self.meter.wait(to_get=waited)
            self.meter.change(-1)
            yield item

    def _take(self) -> T:
        item, size = self._items.popleft()
        self._used -= size
        self._changed.notify_all()
        return item


class Latch:
    """Opens when all of a number of things are done, which is known only when the last is begun. See `Crew.latch`."""

    def __init__(self, crew: Crew, changed: threading.Condition) -> None:
        self._crew = crew
        self._changed = changed
        self._left = 1  # the one that `close` takes away

    def begin(self) -> None:
        """Note that something more is to be done."""
        with self._changed:
            self._left += 1

    def done(self) -> None:
        """Note that something is done."""
        with self._changed:
            self._left -= 1
            if not self._left:
                self._changed.notify_all()

    close = done  # nothing more will be begun

    def wait(self) -> float:
        """Wait until everything is done; return the seconds that it took.

        Raises:
            Ended: the crew has ended.
        """
        with self._changed:
            return self._crew.wait(self._changed, lambda: not self._left)


class Crew:
    """Threads that work for one caller, as a context: when it ends, so do they.

    The first error, of a thread or of the block itself, ends all, and comes out of the block.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conditions: list[threading.Condition] = []
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._ended = False
        self._latched = self.condition()

    def condition(self) -> threading.Condition:
        """Return a condition whose waiters leave when the crew ends. All share one lock, which is never held long."""
        condition = threading.Condition(self._lock)
        self._conditions.append(condition)
        return condition

    def pipe(self, capacity: int) -> Pipe[T]:
        """Return a queue between threads of the crew, the caller among them."""
        return Pipe(self, capacity)

    def latch(self) -> Latch:
        """Return a latch for threads of the crew."""
        return Latch(self, self._latched)

    def wait(self, changed: threading.Condition, ready: Callable[[], bool]) -> float:
        """Wait, with the lock held, until something is ready; return the seconds.

        Raises:
            Ended: the crew has ended.
        """
        if ready() and not self._ended:
            return 0.0
        started = time.perf_counter()
        changed.wait_for(lambda: self._ended or ready())
        if self._ended:
            raise Ended
        return time.perf_counter() - started

    def start(self, name: str, work: Callable[[], object]) -> None:
        """Begin some work in a thread of its own."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if not self._ended:
                self._error = error
            self._ended = True
            for condition in self._conditions:
                condition.notify_all()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all threads, and raise the first error if it was one of theirs."""
        self._end(error)
        for thread in self._threads:
            thread.join()
        if self._error is not None and self._error is not error and (error is None or isinstance(error, Exception)):
            raise self._error
