"""Photos of many threads in few calls of the engine: each gets its own answer, and none is forgotten."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.engine.micro_batcher import MicroBatcher

Calls = list[list[float]]


def photo(value: float) -> Any:
    return np.full((1, 3), value, dtype=np.float32)


def doubling(calls: Calls, pause: Callable[[], object] = lambda: None) -> Callable[[Any], Any]:
    """An engine that answers twice the photo's value, and notes what was in each call."""

    def infer(batch: Any) -> Any:
        calls.append(batch[:, 0].tolist())
        pause()
        return batch[:, :1] * 2

    return infer


def all_of(batcher: MicroBatcher, values: list[float], threads: int) -> list[float]:
    with ThreadPoolExecutor(threads) as pool:
        return [float(found[0, 0]) for found in pool.map(lambda value: batcher(photo(value)), values)]


@settings(max_examples=25)
@given(threads=st.integers(1, 12), size=st.integers(1, 8), photos=st.integers(1, 60))
def test_every_photo_gets_its_own_answer_and_no_call_is_too_large(
    threads: int, size: int, photos: int
) -> None:
    calls: Calls = []
    values = [float(number) for number in range(photos)]
    assert all_of(MicroBatcher(doubling(calls), size), values, threads) == [2 * value for value in values]
    assert all(1 <= len(call) <= size for call in calls)
    assert sorted(value for call in calls for value in call) == values


def test_many_threads_for_a_while_lose_no_wakeup() -> None:
    """A lost one would leave a thread waiting for ever, and this test with it."""
    calls: Calls = []
    batcher = MicroBatcher(doubling(calls), 4)
    values = [float(number) for number in range(4000)]
    assert all_of(batcher, values, 16) == [2 * value for value in values]
    assert max(map(len, calls)) <= 4


def test_only_one_call_runs_at_a_time() -> None:
    inside, most = 0, 0

    def infer(batch: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1
        return batch[:, :1]

    all_of(MicroBatcher(infer, 4), [float(number) for number in range(100)], 8)
    assert most == 1


class Held:
    """An engine whose first call takes until it is let go."""

    def __init__(self) -> None:
        self.calls: Calls = []
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, batch: Any) -> Any:
        self.calls.append(batch[:, 0].tolist())
        self.entered.set()
        assert self.go.wait(10)
        return batch[:, :1] * 2


def waiting(batcher: MicroBatcher, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(batcher._pending) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_first_is_computed_at_once_and_the_rest_gather_oldest_first() -> None:
    engine = Held()
    batcher = MicroBatcher(engine, 3)
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(batcher, photo(0))]
        assert engine.entered.wait(10)
        for value in range(1, 8):
            pending.append(pool.submit(batcher, photo(value)))
            waiting(batcher, value)
        engine.go.set()
        assert [float(one.result()[0, 0]) for one in pending] == [2.0 * value for value in range(8)]
    assert engine.calls == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_an_error_reaches_every_photo_of_its_call_and_no_other() -> None:
    engine = Held()

    def infer(batch: Any) -> Any:
        logits = engine(batch)
        if 2 in batch[:, 0]:
            raise ValueError("no such photo")
        return logits

    batcher = MicroBatcher(infer, 2)
    with ThreadPoolExecutor(5) as pool:
        pending = [pool.submit(batcher, photo(0))]
        assert engine.entered.wait(10)
        for value in range(1, 5):
            pending.append(pool.submit(batcher, photo(value)))
            waiting(batcher, value)
        engine.go.set()
        outcomes = [one.exception() or float(one.result()[0, 0]) for one in pending]
    assert engine.calls == [[0], [1, 2], [3, 4]]
    assert [str(outcome) for outcome in outcomes] == ["0.0", "no such photo", "no such photo", "6.0", "8.0"]
    # And it goes on afterwards.
    assert float(batcher(photo(5))[0, 0]) == 10


def test_too_few_rows_are_an_error_for_all_and_no_one_hangs() -> None:
    batcher = MicroBatcher(lambda batch: batch[:0, :1], 4)
    with pytest.raises(RuntimeError, match="1 photos and 0 rows of logits"):
        batcher(photo(1))
    with pytest.raises(RuntimeError):
        all_of(batcher, [1.0, 2.0, 3.0], 3)


def test_a_batch_is_computed_as_it_is() -> None:
    calls: Calls = []
    batch = np.concatenate([photo(value) for value in range(5)])
    assert MicroBatcher(doubling(calls), 2)(batch)[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert calls == [[0, 1, 2, 3, 4]]
