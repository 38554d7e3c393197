"""Work handed to threads comes back to the event loop: all of it, once, whatever raises."""

import asyncio
import threading
import time
from contextlib import closing

import pytest

from serve.engine.threads import Threads


def test_every_result_comes_back_in_its_place() -> None:
    with closing(Threads(4, "test")) as threads:

        async def ask() -> list[int]:
            return await asyncio.gather(*(threads.run(lambda n=n: n * n) for n in range(5000)))  # type: ignore[misc]

        assert asyncio.run(ask()) == [n * n for n in range(5000)]


def test_an_error_of_the_work_is_raised_to_its_caller() -> None:
    with closing(Threads(1, "test")) as threads:

        async def ask() -> str:
            with pytest.raises(ZeroDivisionError):
                await threads.run(lambda: 1 / 0)
            return await threads.run(lambda: "and goes on")

        assert asyncio.run(ask()) == "and goes on"


def test_no_more_runs_at_once_than_there_are_threads() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    with closing(Threads(3, "test")) as threads:

        async def ask() -> None:
            await asyncio.gather(*(threads.run(work) for _ in range(30)))

        asyncio.run(ask())
    assert most == 3


def test_closing_finishes_what_was_handed_over_and_ends_the_threads() -> None:
    before = threading.active_count()
    threads = Threads(2, "test")
    done: list[int] = []

    async def ask() -> None:
        pending = [asyncio.ensure_future(threads.run(lambda n=n: done.append(n))) for n in range(50)]  # type: ignore[misc]
        await asyncio.sleep(0)
        await asyncio.to_thread(threads.close)
        await asyncio.gather(*pending)

    asyncio.run(ask())
    assert sorted(done) == list(range(50))
    assert threading.active_count() == before


def test_a_caller_that_stops_waiting_disturbs_no_other() -> None:
    finish = threading.Event()
    with closing(Threads(1, "test")) as threads:

        async def ask() -> str:
            cancelled = asyncio.ensure_future(threads.run(finish.wait))
            patient = asyncio.ensure_future(threads.run(lambda: "answered"))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            finish.set()
            return await patient

        assert asyncio.run(ask()) == "answered"
