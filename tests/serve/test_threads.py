"""Work handed to threads comes back to the event loop: all of it, once, whatever raises."""

import asyncio
import threading
import time

import pytest

from serve.engine.threads import Threads


def test_every_result_comes_back_to_who_asked() -> None:
    threads = Threads(4, "test")

    async def ask() -> list[int]:
        return await asyncio.gather(*(threads.run(lambda n=n: n * n) for n in range(5000)))  # type: ignore[misc]

    try:
        assert asyncio.run(ask()) == [n * n for n in range(5000)]
    finally:
        threads.close()


def test_what_work_raises_is_raised_where_it_was_asked_for() -> None:
    threads = Threads(1, "test")

    async def ask() -> str:
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)
        return await threads.run(lambda: "and goes on")

    try:
        assert asyncio.run(ask()) == "and goes on"
    finally:
        threads.close()


def test_no_more_runs_at_once_than_there_are_threads() -> None:
    threads = Threads(3, "test")
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    async def ask() -> None:
        await asyncio.gather(*(threads.run(work) for _ in range(30)))

    try:
        asyncio.run(ask())
    finally:
        threads.close()
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


def test_who_gives_up_waiting_disturbs_nobody() -> None:
    threads = Threads(1, "test")
    let_go = threading.Event()

    async def ask() -> str:
        given_up = asyncio.ensure_future(threads.run(let_go.wait))
        patient = asyncio.ensure_future(threads.run(lambda: "answered"))
        await asyncio.sleep(0.01)
        given_up.cancel()
        let_go.set()
        return await patient

    try:
        assert asyncio.run(ask()) == "answered"
    finally:
        threads.close()
