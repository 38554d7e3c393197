"""Who is faster, and by how much: rounds of fresh launches, timed in turns.

On a shared machine the speed itself drifts, so two artifacts timed one after the other can differ by a
third for no reason. Here every artifact is open at once, one computes at a time, and what counts is the
ratio to the baseline within a turn, milliseconds apart. Launching a process is itself a source of
variation (memory layout, for one), so launches are repeated and are the unit of the interval.
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Protocol

from workbench.measure import early_stopping
from workbench.measure.records import BASELINE, TWIN, Environment, Latency, TimingEnd
from workbench.measure.stats import Ratio, hodges_lehmann, percentile, percentile_upper_bound
from workbench.system.child import ChildError
from workbench.system.progress import Progress, Report, Standing, time_left_s

BURST_NS = 5e6  # of hot calls in a turn: long against the switch between processes
BURST_CALLS = (2, 20)  # and within these bounds
TURNS_NS = 3e8  # of hot calls in a round, per variant


@dataclass(frozen=True, slots=True)
class WarmUp:
    """settled: the last ten calls took what the ten before had taken. typical_ns: their median."""

    calls: int
    settled: bool
    typical_ns: float


class Subject(Protocol):
    """One launched session, ready to be timed (`worker.Worker`, or a simulated one in tests)."""

    def ready(self) -> None: ...
    def warm_up(self) -> WarmUp: ...
    def burst(self, calls: int) -> tuple[int, ...]:
        """Wall times in nanoseconds of calls made back to back."""
        ...

    def preemptions(self) -> int:
        """How often the processor was taken from it so far (involuntary context switches)."""
        ...


class Watch(Protocol):
    """What else the machine does while a round is timed."""

    def begin(self) -> None: ...
    def end(self) -> Environment: ...


Launch = Callable[[str], AbstractContextManager[Subject]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    rounds: of fresh launches, at most; fewer where every interval is narrow enough sooner.
    least_rounds: 6 are the fewest that give a 95 % interval.
    turns: per round, at most. budget_s: for all rounds together.
    repeats: of rounds in which the machine was busy with something else. insist: make `least_rounds`
    whatever the budget, with fewer turns once it is spent.
    """

    rounds: int = 20
    least_rounds: int = 6
    turns: int = 60
    least_turns: int = 10
    budget_s: float = 180.0
    repeats: int = 3
    insist: bool = False
    seed: int = 0
    rules: early_stopping.Rules = field(default_factory=early_stopping.Rules)


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed call. order: position among the launches of its round; place: within its turn; call: within
    its burst, where call 0 finds another session's data in the caches (cold)."""

    variant: str
    round: int
    order: int
    turn: int
    place: int
    call: int
    time_ns: int


@dataclass(slots=True)
class Measured:
    """One session: all samples, and what became of the variants.

    batch_sizes: photos per call, where not 1. environments: per round; unused: rounds that were repeated
    because the machine was disturbed. pruned: variants dropped early, with the bound that did it.
    ended: why no more rounds followed.
    """

    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    environments: list[Environment] = field(default_factory=list)
    unused: set[int] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    pruned: dict[str, early_stopping.LostRace] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)
    ended: TimingEnd | None = None

    @property
    def rounds(self) -> int:
        """Rounds that count."""
        return len(self.environments) - len(self.unused)


def measure(
    variants: Sequence[str],
    launch: Launch,
    plan: Plan,
    *,
    baseline: str,
    twin: str,
    contenders: Collection[str],
    batch_sizes: Mapping[str, int],
    watch: Watch,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
    into: Measured | None = None,
) -> Measured:
    """Time all variants against the baseline until every interval is narrow enough, or the budget ends.

    twin: a second copy of the baseline under another name; what it differs by is the noise floor.
    contenders: those that may win; whoever cannot be the fastest of them any more is dropped.
    batch_sizes: photos per call, where not 1. into: filled as it goes, so that an interruption leaves what
    was measured.
    A variant that fails is left out from there on; the baseline's failure ends the session.
    """
    rng = random.Random(plan.seed)
    # Every round is a look, so more rounds than the rules know of share the same error.
    rules = replace(plan.rules, looks=max(plan.rules.looks, plan.rounds))
    measured = Measured() if into is None else into
    measured.batch_sizes = batch_sizes
    ratios: dict[str, dict[int, float]] = {}
    started = clock()

    shown = standings(variants, ratios, measured, twin)

    def report_progress() -> None:
        left = _left_s(measured.rounds, plan, clock() - started)
        report(Progress("timing", measured.rounds, plan.rounds, "", left, shown))

    while not measured.ended:
        began = clock()
        late_already = began - started > plan.budget_s
        gone = measured.failed.keys() | measured.pruned.keys()
        alive = [name for name in variants if name not in gone]
        turns = plan.least_turns if late_already else plan.turns
        this_round = replace(plan, turns=turns)
        _one_round(alive, launch, this_round, rng, watch, measured, report_progress)
        if baseline in measured.failed:
            measured.ended = "baseline_failed"
            break
        number = len(measured.environments) - 1
        for name, values in log_ratios(measured, baseline, only_round=number).items():
            ratios.setdefault(name, {}).update(values)
        running = [name for name in alive if name not in measured.failed and name != twin]
        racing = {name: ratios[name] for name in running if name in ratios}
        late = early_stopping.dropped(racing, contenders, rules)
        measured.pruned |= {name: lost for name, lost in late.items() if name != baseline}
        shown = standings(variants, ratios, measured, twin)
        report_progress()
        left = racing.keys() - measured.pruned.keys() - {baseline}
        if measured.rounds >= plan.rounds:
            measured.ended = "rounds"
        elif measured.rounds >= plan.least_rounds and early_stopping.narrow(ratios, left, rules):
            measured.ended = "narrow"
        elif plan.insist and measured.rounds < plan.least_rounds:
            continue
        elif (clock() - started) + (clock() - began) > plan.budget_s:
            measured.ended = "budget"
            # What there was no time to repeat counts after all, where there would be no interval without.
            while measured.unused and measured.rounds < plan.least_rounds:
                measured.unused.remove(max(measured.unused))
    return measured


def _left_s(done: int, plan: Plan, elapsed_s: float) -> float | None:
    least = time_left_s(done, max(done, plan.least_rounds), elapsed_s) if plan.insist else None
    return max(time_left_s(done, plan.rounds, elapsed_s, plan.budget_s) or 0.0, least or 0.0)


def standings(
    variants: Sequence[str], log_ratios: early_stopping.LogRatios, measured: Measured, twin: str
) -> tuple[Standing, ...]:
    """How the variants but the twin stand after the rounds so far: fastest first, those without one last."""
    found = []
    for name in variants:
        if name == twin:
            continue
        ratio = Ratio(tuple(log_ratios.get(name, {}).values()))
        known = bool(ratio.log_ratios)
        found.append(
            Standing(
                name,
                ratio.speedup if known else None,
                ratio.interval if known else None,
                name in measured.pruned or name in measured.failed,
            )
        )
    return tuple(sorted(found, key=lambda standing: -(standing.speedup or 0.0)))


def _one_round(
    alive: Sequence[str],
    launch: Launch,
    plan: Plan,
    rng: random.Random,
    watch: Watch,
    measured: Measured,
    alive_sign: Callable[[], None],
) -> None:
    """Launch everyone afresh in random order, warm everyone up, take turns; a sign of life after each."""
    number = len(measured.environments)
    order = list(alive)
    rng.shuffle(order)
    with contextlib.ExitStack() as stack:
        subjects = {name: stack.enter_context(launch(name)) for name in order}
        warm = _warm_up(order, subjects, measured)
        calls = {name: _burst_calls(state) for name, state in warm.items()}
        before = _preemptions(subjects)
        watch.begin()
        for turn in range(_turns([calls[name] * warm[name].typical_ns for name in subjects], plan)):
            permutation = list(subjects)
            rng.shuffle(permutation)
            for place, name in enumerate(permutation):
                with _failure_noted(name, subjects, measured):
                    times = subjects[name].burst(1 + calls[name])
                    launched = order.index(name)
                    measured.samples += [
                        Sample(name, number, launched, turn, place, call, time_ns)
                        for call, time_ns in enumerate(times)
                    ]
            alive_sign()
        environment = watch.end().model_copy(update={"preemptions": _preemptions(subjects) - before})
    measured.environments.append(environment)
    if environment.disturbed and len(measured.unused) < plan.repeats:
        measured.unused.add(number)


def _preemptions(subjects: Mapping[str, Subject]) -> int:
    return sum(subject.preemptions() for subject in subjects.values())


def _warm_up(order: Sequence[str], subjects: dict[str, Subject], measured: Measured) -> dict[str, WarmUp]:
    """Wait for every session and warm it up, in the order they were launched."""
    states = {}
    for name in order:
        with _failure_noted(name, subjects, measured):
            subjects[name].ready()
            states[name] = subjects[name].warm_up()
            if not states[name].settled:
                measured.unsettled.add(name)
    return states


def _burst_calls(warm: WarmUp) -> int:
    """Hot calls in a burst: a fast model needs many for the switch between processes not to matter."""
    return min(max(math.ceil(BURST_NS / warm.typical_ns), BURST_CALLS[0]), BURST_CALLS[1])


def _turns(bursts_ns: Collection[float], plan: Plan) -> int:
    """Enough turns that the middle variant is timed for TURNS_NS, within the plan's bounds."""
    wanted = math.ceil(TURNS_NS / median(bursts_ns)) if bursts_ns else 0
    return min(max(wanted, plan.least_turns), plan.turns)


@contextlib.contextmanager
def _failure_noted(name: str, subjects: dict[str, Subject], measured: Measured) -> Iterator[None]:
    try:
        yield
    except ChildError as error:
        measured.failed[name] = error.message
        subjects.pop(name, None)


def log_ratios(
    measured: Measured, baseline: str, *, only_round: int | None = None
) -> dict[str, dict[int, float]]:
    """Per variant and round that counts: the Hodges-Lehmann estimate of log(variant / baseline) over turns,
    each the time of one photo.

    Paired first, then summarised: the bursts of one turn saw the same speed of the machine. A burst counts
    as the median of its hot calls.
    """
    turns: dict[tuple[int, int], dict[str, list[int]]] = {}
    for s in measured.samples:
        if s.call > 0 and s.round not in measured.unused and only_round in (None, s.round):
            turns.setdefault((s.round, s.turn), {}).setdefault(s.variant, []).append(s.time_ns)
    logs: dict[str, dict[int, list[float]]] = {}
    for (number, _), times in turns.items():
        if baseline not in times:
            continue
        reference = median(times[baseline])
        for name, own in times.items():
            logs.setdefault(name, {}).setdefault(number, []).append(math.log(median(own) / reference))
    per_photo = {name: math.log(measured.batch_sizes.get(name, 1)) for name in logs}
    return {
        name: {
            number: hodges_lehmann(values) - per_photo[name] + per_photo.get(baseline, 0.0)
            for number, values in sorted(rounds.items())
        }
        for name, rounds in logs.items()
    }


def summarize(measured: Measured, variant: str, baseline: str, *, confirmed: bool) -> Latency | None:
    """One variant's latency over the rounds that count; None where it was never timed in one."""
    pair = [s for s in measured.samples if s.variant in (variant, baseline)]
    own = [s for s in pair if s.variant == variant and s.round not in measured.unused]
    hot = [s.time_ns for s in own if s.call > 0]
    if not hot:
        return None
    return Latency(
        batch_size=measured.batch_sizes.get(variant, 1),
        samples=len(hot),
        mean_ns=fmean(hot),
        p50_ns=median(hot),
        p90_ns=percentile(hot, 0.90),
        p95_ns=percentile(hot, 0.95),
        p99_ns=percentile(hot, 0.99),
        p95_upper_ns=percentile_upper_bound(hot, 0.95),
        p99_upper_ns=percentile_upper_bound(hot, 0.99),
        cold_p50_ns=median(s.time_ns for s in own if s.call == 0),
        round_log_ratios=tuple(
            log_ratios(replace(measured, samples=pair), baseline).get(variant, {}).values()
        ),
        settled=variant not in measured.unsettled,
        confirmed=confirmed,
    )


def noise_floor(measured: Measured) -> float | None:
    """What the second copy of the baseline may differ by, as a fraction: the far end of its interval."""
    bounds = Ratio(tuple(log_ratios(measured, BASELINE).get(TWIN, {}).values())).log_interval
    return None if bounds is None else math.expm1(max(abs(bound) for bound in bounds))
