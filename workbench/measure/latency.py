"""Who is faster, and by how much: rounds of fresh launches, timed in turns.

On a shared machine the speed itself drifts, so two artifacts timed one after the other can differ by a
third for no reason. Here every artifact of a run is open at once, one computes at a time, and what counts
is the ratio to the baseline within a turn, a few milliseconds apart. Launching a process is itself a
source of variation (memory layout, for one), so launches are repeated and are the unit of the interval.
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Protocol

from workbench.isolate import ChildError
from workbench.measure.stats import hodges_lehmann, percentile
from workbench.results import Latency

BURST = 2  # calls a turn: the first finds another session's data in the caches, the second is hot


@dataclass(frozen=True, slots=True)
class WarmUp:
    """settled: the last ten calls took what the ten before had taken."""

    calls: int
    settled: bool


class Subject(Protocol):
    """One launched session, ready to be timed (`worker.Worker`, or a simulated one in tests)."""

    def ready(self) -> None: ...
    def warm_up(self) -> WarmUp: ...
    def burst(self, calls: int) -> tuple[int, ...]: ...


Launch = Callable[[str], AbstractContextManager[Subject]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    rounds: of fresh launches; 6 are the fewest that give a 95 % interval.
    turns: per round; 6 rounds of 50 give the 299 samples p99 needs.
    budget_s: for the timing of all rounds together; turns are cut short, rounds never.
    """

    rounds: int = 6
    turns: int = 50
    budget_s: float = 180.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed call. order: position among the launches of its round; place: within its turn."""

    variant: str
    round: int
    order: int
    turn: int
    place: int
    cold: bool
    time_ns: int


@dataclass(slots=True)
class Measured:
    """All samples of a session, which variants failed and why, and which launches never settled."""

    samples: list[Sample] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)


def measure(
    variants: Sequence[str],
    launch: Launch,
    plan: Plan,
    *,
    progress: Callable[[int, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Time all variants against each other. A variant that fails is left out from there on."""
    rng = random.Random(plan.seed)
    measured = Measured()
    for number in range(plan.rounds):
        order = [name for name in variants if name not in measured.failed]
        rng.shuffle(order)
        with contextlib.ExitStack() as stack:
            subjects = _launch_all(order, launch, stack, measured)
            deadline = clock() + plan.budget_s / plan.rounds
            for turn in range(plan.turns):
                _one_turn(number, turn, order, subjects, rng, measured)
                progress(number * plan.turns + turn + 1, plan.rounds * plan.turns)
                if clock() > deadline:
                    break
    return measured


def _launch_all(
    order: Sequence[str], launch: Launch, stack: contextlib.ExitStack, measured: Measured
) -> dict[str, Subject]:
    """Open a fresh process per variant and warm each up, in this order."""
    subjects = {name: stack.enter_context(launch(name)) for name in order}
    for name in order:
        subject = subjects[name]
        with _failure_noted(name, subjects, measured):
            subject.ready()
            if not subject.warm_up().settled:
                measured.unsettled.add(name)
    return subjects


def _one_turn(
    number: int,
    turn: int,
    order: Sequence[str],
    subjects: dict[str, Subject],
    rng: random.Random,
    measured: Measured,
) -> None:
    permutation = list(subjects)
    rng.shuffle(permutation)
    for place, name in enumerate(permutation):
        with _failure_noted(name, subjects, measured):
            for index, time_ns in enumerate(subjects[name].burst(BURST)):
                sample = Sample(name, number, order.index(name), turn, place, index == 0, time_ns)
                measured.samples.append(sample)


@contextlib.contextmanager
def _failure_noted(name: str, subjects: dict[str, Subject], measured: Measured) -> Iterator[None]:
    try:
        yield
    except ChildError as error:
        measured.failed[name] = error.message
        subjects.pop(name, None)


def summarize(measured: Measured, variant: str, baseline: str) -> Latency:
    """One variant's latency, and its log-ratio to the baseline for every round both took part in."""
    own = [s for s in measured.samples if s.variant == variant]
    hot = [s.time_ns for s in own if not s.cold]
    return Latency(
        batch_size=1,
        samples=len(hot),
        mean_ns=fmean(hot),
        p50_ns=median(hot),
        p90_ns=percentile(hot, 0.90),
        p95_ns=percentile(hot, 0.95),
        p99_ns=percentile(hot, 0.99),
        cold_p50_ns=median(s.time_ns for s in own if s.cold),
        round_log_ratios=round_log_ratios(measured, variant, baseline),
        settled=variant not in measured.unsettled,
    )


def round_log_ratios(measured: Measured, variant: str, baseline: str) -> tuple[float, ...]:
    """Per round, the Hodges-Lehmann estimate of log(variant / baseline) over its turns.

    Paired first, then summarised: two calls of one turn saw the same speed of the machine.
    """
    turns: dict[tuple[int, int], dict[str, int]] = {}
    for s in measured.samples:
        if not s.cold and s.variant in (variant, baseline):
            turns.setdefault((s.round, s.turn), {})[s.variant] = s.time_ns
    rounds: dict[int, list[float]] = {}
    for (number, _), times in turns.items():
        if len(times) == len({variant, baseline}):
            rounds.setdefault(number, []).append(math.log(times[variant] / times[baseline]))
    return tuple(hodges_lehmann(logs) for _, logs in sorted(rounds.items()))


def save_samples(measured: Measured, path: Path) -> None:
    """Every raw sample, as `latency.parquet`; times in nanoseconds."""
    import os

    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("variant", "round", "order", "turn", "place", "cold", "time_ns")
    columns = {name: [getattr(sample, name) for sample in measured.samples] for name in names}
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.table(columns), temporary, compression="zstd")
    os.replace(temporary, path)
