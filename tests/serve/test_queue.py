"""The queue in front of the threads: its arithmetic, with a clock of its own."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge

import serve.engine.queue
from serve.engine.queue import SMOOTHING, STUCK_S, QueuedJob, RequestQueue
from serve.errors import ApiError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(serve.engine.queue, "time", clock)
    return clock


def queue(budget_s: float = 1.0, *, threads: int = 2, photo_s: float = 0.1) -> RequestQueue:
    made = RequestQueue(budget_s, Gauge("depth", "Of the queue.", registry=CollectorRegistry()))
    made.configure(threads, photo_s)
    return made


def add_jobs(queue: RequestQueue, count: int = 1) -> list[QueuedJob[None]]:
    jobs: list[QueuedJob[None]] = [QueuedJob(lambda: None, math.inf) for _ in range(count)]
    for job in jobs:
        queue.add(job)
    return jobs


def depth(queue: RequestQueue) -> float:
    found: float = queue._depth._value.get()
    return found


def test_a_request_that_finds_a_free_thread_never_waits(clock: Clock) -> None:
    full = queue(0.0, photo_s=3600)
    for _ in range(2):
        full.check_wait()
        add_jobs(full)
    full.check_wait()  # all threads are busy, and nothing is queued
    assert full.waiting == 0


def test_it_takes_as_many_as_can_be_served_within_the_budget(clock: Clock) -> None:
    """Two threads at a tenth of a second each: twenty a second."""
    twenty = queue(1.0)
    add_jobs(twenty, 2 + 20)
    assert depth(twenty) == twenty.waiting == 20
    twenty.check_wait()
    add_jobs(twenty)
    with pytest.raises(ApiError) as refused:
        twenty.check_wait()
    assert (refused.value.status, refused.value.code) == (429, "overloaded")
    assert refused.value.headers == {"Retry-After": "2"}


@given(
    threads=st.integers(1, 64),
    photo_s=st.floats(0.0001, 10),
    budget_s=st.floats(0, 60),
    jobs=st.integers(0, 300),
)
def test_no_request_is_taken_whose_turn_comes_after_the_budget(
    threads: int, photo_s: float, budget_s: float, jobs: int
) -> None:
    some = queue(budget_s, threads=threads, photo_s=photo_s)
    add_jobs(some, jobs)
    wait_s = max(0, jobs - threads) * photo_s / threads
    try:
        some.check_wait()
    except ApiError as error:
        assert wait_s > budget_s
        assert error.headers is not None
        assert wait_s <= int(error.headers["Retry-After"]) < wait_s + 2
    else:
        assert wait_s <= budget_s


def test_it_learns_how_long_a_photo_takes(clock: Clock) -> None:
    learning = queue(1.0, threads=1, photo_s=0.0)
    for _ in range(60):
        (job,) = add_jobs(learning)
        job()
        learning.remove(job)
    assert learning._photo_s == 0

    def slow() -> None:
        clock.now += 0.5

    for _ in range(30):
        job = QueuedJob(slow, math.inf)
        learning.add(job)
        job()
        learning.remove(job)
    assert learning._photo_s == pytest.approx(0.5 * (1 - (1 - SMOOTHING) ** 30))
    add_jobs(learning, 1 + 3)
    with pytest.raises(ApiError):
        learning.check_wait()


def test_what_was_dropped_says_nothing_of_how_long_a_photo_takes(clock: Clock) -> None:
    one = queue(photo_s=0.2)
    late: QueuedJob[None] = QueuedJob(lambda: None, clock.now - 1)
    one.add(late)
    with pytest.raises(ApiError) as dropped:
        late()
    one.remove(late)
    assert (dropped.value.status, dropped.value.code) == (504, "deadline-passed")
    assert late.started_at is None
    assert one._photo_s == 0.2
    assert depth(one) == one.waiting == 0


def test_a_job_begins_until_its_deadline_and_raises_what_it_raises(clock: Clock) -> None:
    def broken() -> None:
        clock.now += 3
        raise ValueError("broken")

    job: QueuedJob[None] = QueuedJob(broken, clock.now)
    with pytest.raises(ValueError, match="broken"):
        job()
    assert (job.started_at, job.ended_at) == (100.0, 103.0)


def test_a_job_that_ends_makes_room(clock: Clock) -> None:
    full = queue(0.0, threads=1)
    jobs = add_jobs(full, 3)
    with pytest.raises(ApiError):
        full.check_wait()
    full.remove(jobs[2])
    full.remove(jobs[0])
    full.check_wait()
    assert depth(full) == 0


def test_stuck_is_when_every_thread_has_been_at_one_photo_for_a_minute(clock: Clock) -> None:
    two = queue(threads=2)
    first, second, third = add_jobs(two, 3)
    assert not two.stuck()  # none has begun
    first.started_at = clock.now
    clock.now += STUCK_S + 1
    assert not two.stuck()  # the other thread is free
    second.started_at = clock.now
    assert not two.stuck()  # and has just begun
    clock.now += STUCK_S + 1
    assert two.stuck()
    second.ended_at = clock.now
    assert not two.stuck()  # it came back
    two.remove(second)
    third.started_at = clock.now
    assert not two.stuck()
    two.remove(first)
    assert not two.stuck()


def test_an_idle_server_is_not_stuck(clock: Clock) -> None:
    idle = queue()
    clock.now += 10 * STUCK_S
    assert not idle.stuck()
