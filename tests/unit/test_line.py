"""The line in front of the threads: its arithmetic, with a clock of its own."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge

import serve.line
from serve.line import SMOOTHING, STUCK_S, Job, Line
from serve.responses import ApiError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(serve.line, "time", clock)
    return clock


def line(budget_s: float = 1.0, *, places: int = 2, seconds: float = 0.1) -> Line:
    made = Line(budget_s, Gauge("depth", "Of the line.", registry=CollectorRegistry()))
    made.open(places, seconds)
    return made


def joined(line: Line, count: int = 1) -> list[Job[None]]:
    jobs: list[Job[None]] = [Job(lambda: None, math.inf) for _ in range(count)]
    for job in jobs:
        line.join(job)
    return jobs


def depth(line: Line) -> float:
    found: float = line._depth._value.get()
    return found


def test_who_finds_a_free_thread_never_waits(clock: Clock) -> None:
    full = line(0.0, seconds=3600)
    for _ in range(2):
        full.check()
        joined(full)
    full.check()  # all threads are busy, and nobody stands before him
    assert full.waiting == 0


def test_it_takes_as_many_as_can_be_served_within_the_budget(clock: Clock) -> None:
    """Two threads at a tenth of a second each: twenty a second."""
    twenty = line(1.0)
    joined(twenty, 2 + 20)
    assert depth(twenty) == twenty.waiting == 20
    twenty.check()
    joined(twenty)
    with pytest.raises(ApiError) as refused:
        twenty.check()
    assert (refused.value.status, refused.value.code) == (429, "overloaded")
    assert refused.value.headers == {"Retry-After": "2"}


@given(
    places=st.integers(1, 64),
    seconds=st.floats(0.0001, 10),
    budget_s=st.floats(0, 60),
    jobs=st.integers(0, 300),
)
def test_nobody_is_taken_whose_turn_comes_after_the_budget(
    places: int, seconds: float, budget_s: float, jobs: int
) -> None:
    some = line(budget_s, places=places, seconds=seconds)
    joined(some, jobs)
    wait_s = max(0, jobs - places) * seconds / places
    try:
        some.check()
    except ApiError as error:
        assert wait_s > budget_s
        assert error.headers is not None
        assert wait_s <= int(error.headers["Retry-After"]) < wait_s + 2
    else:
        assert wait_s <= budget_s


def test_it_learns_how_long_a_photo_takes(clock: Clock) -> None:
    learning = line(1.0, places=1, seconds=0.0)
    for _ in range(60):
        (job,) = joined(learning)
        job()
        learning.leave(job)
    assert learning._seconds == 0

    def slow() -> None:
        clock.now += 0.5

    for _ in range(30):
        job = Job(slow, math.inf)
        learning.join(job)
        job()
        learning.leave(job)
    assert learning._seconds == pytest.approx(0.5 * (1 - (1 - SMOOTHING) ** 30))
    joined(learning, 1 + 3)
    with pytest.raises(ApiError):
        learning.check()


def test_what_was_dropped_says_nothing_of_how_long_a_photo_takes(clock: Clock) -> None:
    one = line(seconds=0.2)
    late: Job[None] = Job(lambda: None, clock.now - 1)
    one.join(late)
    with pytest.raises(ApiError) as dropped:
        late()
    one.leave(late)
    assert (dropped.value.status, dropped.value.code) == (504, "deadline-passed")
    assert late.started is None
    assert one._seconds == 0.2
    assert depth(one) == one.waiting == 0


def test_a_job_begins_until_its_deadline_and_raises_what_it_raises(clock: Clock) -> None:
    def broken() -> None:
        clock.now += 3
        raise ValueError("broken")

    job: Job[None] = Job(broken, clock.now)
    with pytest.raises(ValueError, match="broken"):
        job()
    assert (job.started, job.ended) == (100.0, 103.0)


def test_whoever_leaves_makes_room(clock: Clock) -> None:
    full = line(0.0, places=1)
    jobs = joined(full, 3)
    with pytest.raises(ApiError):
        full.check()
    full.leave(jobs[2])
    full.leave(jobs[0])
    full.check()
    assert depth(full) == 0


def test_stuck_is_when_every_thread_has_been_at_one_photo_for_a_minute(clock: Clock) -> None:
    two = line(places=2)
    first, second, third = joined(two, 3)
    assert not two.stuck()  # nobody began
    first.started = clock.now
    clock.now += STUCK_S + 1
    assert not two.stuck()  # the other thread is free
    second.started = clock.now
    assert not two.stuck()  # and has just begun
    clock.now += STUCK_S + 1
    assert two.stuck()
    second.ended = clock.now
    assert not two.stuck()  # it came back
    two.leave(second)
    third.started = clock.now
    assert not two.stuck()
    two.leave(first)
    assert not two.stuck()


def test_an_idle_server_is_not_stuck(clock: Clock) -> None:
    idle = line()
    clock.now += 10 * STUCK_S
    assert not idle.stuck()
