"""Threads that end together: nothing piles up, nothing hangs, and the first error is the one that is seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from clipdecoder.pipes import Crew, Depth, Ended, Meter, Pipe


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def count_into(pipe: Pipe[int], numbers: Iterator[int] | range) -> Callable[[], None]:
    def work() -> None:
        for number in numbers:
            pipe.put(number)
        pipe.close()

    return work


def test_items_come_in_order_and_no_more_than_fit_are_held() -> None:
    put = 0

    def numbers() -> Iterator[int]:
        nonlocal put
        for number in range(50):
            put += 1
            yield number

    with Crew() as crew:
        pipe: Pipe[int] = crew.pipe(3)
        crew.start("put", count_into(pipe, numbers()))
        for taken, number in enumerate(pipe):
            assert number == taken
            assert put <= taken + 1 + 3 + 1, "those that are held, and one that waits for room"
    assert taken == 49


def test_items_have_sizes_and_one_alone_may_be_larger() -> None:
    with Crew() as crew:
        pipe: Pipe[str] = crew.pipe(10)
        crew.start("put", lambda: [pipe.put(item, size) for item, size in (("huge", 99), ("a", 6), ("b", 4), ("c", 1))])
        for expected in ("huge", "a", "b", "c"):
            assert next(iter(pipe)) == expected
        assert list(pipe.ready()) == []


def test_several_threads_share_a_pipe() -> None:
    found: list[int] = []
    with Crew() as crew:
        pipe: Pipe[int] = crew.pipe(4)
        latch = crew.latch()

        def take() -> None:
            found.extend(pipe)
            latch.done()

        for _ in range(3):
            latch.begin()
            crew.start("take", take)
        latch.close()
        count_into(pipe, range(100))()
        latch.wait()
    assert sorted(found) == list(range(100))


@pytest.mark.parametrize("caller", ["takes", "puts", "waits for a latch"])
def test_an_error_of_a_thread_ends_all_and_reaches_the_caller(caller: str) -> None:
    def fail() -> None:
        time.sleep(0.02)
        raise OSError("the first")

    with pytest.raises(OSError, match="the first"), Crew() as crew:
        empty, full = crew.pipe(1), crew.pipe(1)
        full.put(0)
        crew.start("waits for something", lambda: list(empty))
        crew.start("waits for room", lambda: full.put(1))
        crew.start("waits for a latch", crew.latch().wait)
        crew.start("fails", fail)
        if caller == "takes":
            next(iter(empty))
        elif caller == "puts":
            full.put(2)
        else:
            crew.latch().wait()


def test_the_callers_own_error_is_seen_if_it_is_the_first() -> None:
    def fail_at_the_end(pipe: Pipe[int]) -> None:
        try:
            pipe.put(1)
        except Ended:
            raise ValueError("afterwards") from None

    with pytest.raises(KeyError, match="mine"), Crew() as crew:
        pipe: Pipe[int] = crew.pipe(1)
        pipe.put(0)
        crew.start("put", lambda: fail_at_the_end(pipe))
        raise KeyError("mine")


def test_an_interrupt_of_the_caller_is_never_replaced() -> None:
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise OSError

    with pytest.raises(KeyboardInterrupt), Crew() as crew:
        crew.start("fails", fail)
        failed.wait()
        time.sleep(0.01)
        raise KeyboardInterrupt


def test_leaving_early_ends_all() -> None:
    with Crew() as crew:
        pipe: Pipe[int] = crew.pipe(1)
        crew.start("put", count_into(pipe, range(1000)))
        assert next(iter(pipe)) == 0


def test_a_latch_opens_when_all_that_was_begun_is_done() -> None:
    with Crew() as crew:
        latch = crew.latch()
        latch.begin()
        latch.done()
        latch.begin()
        latch.close()
        opener = threading.Timer(0.3, latch.done)
        opener.start()
        assert latch.wait() > 0
        assert latch.wait() == 0
        opener.join()


def test_a_meter_averages_over_time_and_begins_anew() -> None:
    meter = Meter()
    meter.change(2)
    time.sleep(0.04)
    meter.change(-1)
    meter.wait(to_put=1.5, to_get=0.5)
    first = meter.take()
    assert isinstance(first, Depth)
    assert first.most == 2 and 1 < first.mean <= 2 and first.seconds >= 0.04
    assert (first.waited_to_put, first.waited_to_get) == (1.5, 0.5)
    second = meter.take()
    assert (second.most, second.waited_to_put, second.waited_to_get) == (1, 0, 0)


def test_waiting_is_measured() -> None:
    with Crew() as crew:
        pipe: Pipe[int] = crew.pipe(1)

        def slow() -> None:
            time.sleep(0.3)
            count_into(pipe, range(3))()

        crew.start("put", slow)
        assert list(pipe) == [0, 1, 2]
        facts = pipe.meter.take()
    assert facts.waited_to_get > 0 and facts.most == 1
