"""Paired latency: rounds of fresh launches, timed in turns.

The speed of a shared machine drifts: two artifacts timed one after the other can differ by a third for no
reason. Here artifacts are open together, one computes at a time, and its ratio to the baseline is taken
within a turn, milliseconds apart. Launches differ too (memory layout, for one), so they are repeated and are
the unit of the interval.

How many rounds are made is fixed beforehand. The clock may end a session sooner, its ratios never do.
"""

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Protocol

from workbench.measure import early_stopping, heats
from workbench.measure.bursts import FEWEST_TURNS, TURNS_SHARE, plan_turns
from workbench.measure.records import BASELINE, TWIN, Environment, Latency, TimingEnd, twin_of
from workbench.measure.stats import Ratio, hodges_lehmann, percentile
from workbench.measure.tails import percentile_interval
from workbench.measure.warm_up import WarmUp
from workbench.system.child import ChildError
from workbench.system.progress import Progress, Report, Standing, time_left_s


class Subject(Protocol):
    """One launched session (`worker.Worker`, or a simulated one in tests)."""

    def ready(self) -> None: ...
    def warm_up(self) -> WarmUp: ...
    def burst(self, calls: int) -> tuple[int, ...]:
        """Wall times in nanoseconds of calls made back to back."""

    def preemptions(self) -> int:
        """Involuntary context switches so far."""


class Watch(Protocol):
    """What else the machine does while a round is timed."""

    def begin(self) -> None: ...
    def end(self) -> Environment: ...


LAUNCHES = 4  # rounds: one of them may start the launchers of all
Launch = Callable[[str], AbstractContextManager[Subject]]
Heat = Callable[[], AbstractContextManager[None]]  # entered before the launches of each heat


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    rounds: that are made, but for those that the budget does not hold. least_rounds: 6 are the fewest that
    give a 95 % interval. turns: per round, at most. least_turns: fewer where `least_rounds` would not fit.
    longest_s: of a variant's hot calls in a round, where only percentiles ask for more of them.
    budget_s: for all rounds. repeats: of disturbed rounds, while there is time. insist: make `least_rounds`
    whatever the budget. memory_bytes: for all that is open at once; None: no limit.
    """

    rounds: int = 20
    least_rounds: int = 6
    turns: int = 120
    least_turns: int = 15  # six rounds of one call each bound p95
    longest_s: float = 0.3
    budget_s: float = 180.0
    repeats: int = 3
    insist: bool = True
    seed: int = 0
    rules: early_stopping.Rules = field(default_factory=early_stopping.Rules)
    memory_bytes: int | None = None

    @property
    def least(self) -> int:
        return min(self.least_rounds, self.rounds)


@dataclass(frozen=True, slots=True)
class Lineup:
    """What is timed in one session. variants: all, with the baseline and its twin, a second copy of it.

    contenders: a variant that cannot be the fastest of these is dropped, but for those that are `kept`.
    batch_sizes: where not 1. needs_bytes: memory of one process each, for `Plan.memory_bytes`.
    """

    variants: Sequence[str]
    baseline: str
    twin: str
    contenders: Collection[str] = ()
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    needs_bytes: Mapping[str, int] = field(default_factory=dict)
    kept: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed call. order: position among the launches of its round; turn: of its heat; place: within its
    turn; call: within its burst, where call 0 finds another session's data in the caches (cold); heat: the
    launches of its round that were open together."""

    variant: str
    round: int
    order: int
    turn: int
    place: int
    call: int
    time_ns: int
    heat: int = 0


@dataclass(slots=True)
class Measured:
    """One session. batch_sizes: where not 1. environments: per round. unused: rounds that were repeated
    because the machine was disturbed. failed: by variant, the message. pruned: variants dropped early.
    launch_s: seconds that a launch of the last rounds took with its turns."""

    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    environments: list[Environment] = field(default_factory=list)
    unused: set[int] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    pruned: dict[str, early_stopping.LostRace] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)
    ended: TimingEnd | None = None
    launch_s: float = 0.0

    @property
    def rounds(self) -> int:
        """Rounds that count."""
        return len(self.environments) - len(self.unused)


def measure(
    lineup: Lineup,
    launch: Launch,
    plan: Plan,
    *,
    watch: Watch,
    report: Report,
    heat: Heat = nullcontext,
    clock: Callable[[], float] = time.monotonic,
    into: Measured | None = None,
) -> Measured:
    """Time all variants against the baseline in as many rounds as are planned, or until the budget ends.

    A variant that fails is left out from there on; the baseline's failure ends the session. into: filled
    round by round, so that an interruption leaves what was measured.
    """
    measured = Measured() if into is None else into
    measured.batch_sizes = lineup.batch_sizes
    timing = _Timing(lineup, launch, plan, watch, report, heat, clock, measured)
    while not measured.ended:
        timing.make_round()
    return measured


@dataclass(slots=True)
class _Timing:
    """The state of `measure` from round to round."""

    lineup: Lineup
    launch: Launch
    plan: Plan
    watch: Watch
    report: Report
    heat: Heat
    clock: Callable[[], float]
    measured: Measured
    rng: random.Random = field(init=False)
    started: float = field(init=False)
    ratios: dict[str, dict[int, float]] = field(default_factory=dict)
    standings: tuple[Standing, ...] = ()
    launches_s: list[float] = field(default_factory=list)  # of each round

    def __post_init__(self) -> None:
        self.rng, self.started = random.Random(self.plan.seed), self.clock()
        self.standings = self._rank()

    def make_round(self) -> None:
        """Time one round, drop the variants that cannot win, and end the session where that was the last."""
        measured, baseline, began = self.measured, self.lineup.baseline, self.clock()
        launches = self._time_round(began)
        if baseline in measured.failed:
            measured.ended = "baseline_failed"
            return
        number = len(measured.environments) - 1
        self.launches_s.append((self.clock() - began) / launches)
        measured.launch_s = fmean(self.launches_s[-LAUNCHES:])
        cost_s = measured.launch_s * launches
        if measured.environments[-1].disturbed and self._may_repeat(cost_s):
            measured.unused.add(number)
        for name, values in log_ratios(measured, baseline, only_round=number).items():
            self.ratios.setdefault(name, {}).update(values)
        known = [name for name in self._running() if name in self.ratios]
        racing = {name: self.ratios[name] for name in known if name != self.lineup.twin}
        # Every round is a look, so more rounds than the rules know of share the same error.
        rules = replace(self.plan.rules, looks=max(self.plan.rules.looks, self.plan.rounds))
        lost = early_stopping.dropped(racing, self.lineup.contenders, rules)
        stays = {baseline, *self.lineup.kept}
        measured.pruned |= {name: why for name, why in lost.items() if name not in stays}
        self.standings = self._rank()
        self._report_progress()
        measured.ended = self._end(cost_s)

    def _running(self) -> list[str]:
        ended = self.measured.failed.keys() | self.measured.pruned.keys()
        return [name for name in self.lineup.variants if name not in ended]

    def _left_s(self) -> float:
        return self.plan.budget_s - (self.clock() - self.started)

    def _may_repeat(self, cost_s: float) -> bool:
        """Whether the round just made can be made again, and the fewest rounds still fit after it."""
        rounds = max(1, self.plan.least - (self.measured.rounds - 1))
        return len(self.measured.unused) < self.plan.repeats and rounds * cost_s <= self._left_s()

    def _end(self, cost_s: float) -> TimingEnd | None:
        """Why no round follows the one that took this time. The ratios have no say in it."""
        measured, plan = self.measured, self.plan
        if measured.rounds >= plan.rounds:
            return "rounds"
        if cost_s <= self._left_s():
            return None
        # What there was no time to repeat counts after all, where there would be no interval without.
        while measured.unused and measured.rounds < plan.least:
            measured.unused.remove(max(measured.unused))
        return None if plan.insist and measured.rounds < plan.least else "budget"

    def _time_round(self, began: float) -> int:
        """Time all that run, in heats that have an equal part of the time each, and count the launches."""
        measured, lineup, plan = self.measured, self.lineup, self.plan
        # What the rounds that must be made leave to each other.
        share_s = self._left_s() / max(1, plan.least - measured.rounds)
        always = (lineup.baseline, lineup.twin)
        dealt = heats.deal(self._running(), always, lineup.needs_bytes, plan.memory_bytes, self.rng)
        environments: list[Environment] = []
        launches = 0
        for number, heat in enumerate(dealt):
            order = [name for name in heat if name not in measured.failed]
            until = began + share_s * (number + 1) / len(dealt)
            environments.append(self._time_heat(order, number, launches, until))
            launches += len(order)
            if lineup.baseline in measured.failed:
                break
        measured.environments.append(heats.merge(environments))
        return launches

    def _time_heat(self, order: Sequence[str], heat: int, launches: int, until: float) -> Environment:
        """Launch all in this order, warm all up, and let them take turns; report progress after each.

        launches: of the round, before these. until: on the clock; after it only the fewest turns are made.
        """
        measured, plan, number = self.measured, self.plan, len(self.measured.environments)
        began = self.clock()
        with ExitStack() as stack:
            stack.enter_context(self.heat())
            subjects = {name: stack.enter_context(self.launch(name)) for name in order}
            warm = _warm_up(order, subjects, measured)
            opened = self.clock()
            # Turns that are left out save little where opening took most of the time.
            until = max(until, opened + TURNS_SHARE * (opened - began))
            calls, turns = plan_turns(
                warm, least=plan.least_turns, most=plan.turns, longest_s=plan.longest_s, left_s=until - opened
            )
            before = sum(subject.preemptions() for subject in subjects.values())
            self.watch.begin()
            for turn in range(turns):
                if turn >= FEWEST_TURNS and self.clock() > until:
                    break
                permutation = list(subjects)
                self.rng.shuffle(permutation)
                for place, name in enumerate(permutation):
                    with _failure_noted(name, subjects, measured):
                        times = subjects[name].burst(1 + calls[name])
                        of_turn = (name, number, launches + order.index(name), turn, place)
                        measured.samples += [
                            Sample(*of_turn, call, ns, heat) for call, ns in enumerate(times)
                        ]
                self._report_progress()
            environment = self.watch.end()
            preemptions = sum(subject.preemptions() for subject in subjects.values()) - before
        return environment.model_copy(update={"preemptions": preemptions})

    def _report_progress(self) -> None:
        plan, done, elapsed_s = self.plan, self.measured.rounds, self.clock() - self.started
        left_s = time_left_s(done, plan.rounds, elapsed_s, plan.budget_s) or 0.0
        if plan.insist:
            left_s = max(left_s, time_left_s(done, max(done, plan.least_rounds), elapsed_s) or 0.0)
        self.report(Progress("timing", done, plan.rounds, "", left_s, self.standings))

    def _rank(self) -> tuple[Standing, ...]:
        """The variants but the twin after the rounds so far: fastest first, those without a round last."""
        standings, running = [], self._running()
        for name in (name for name in self.lineup.variants if name != self.lineup.twin):
            ratio = Ratio(tuple(self.ratios.get(name, {}).values()))
            speedup = ratio.speedup if ratio.log_ratios else None
            standings.append(Standing(name, speedup, ratio.interval, name not in running))
        return tuple(sorted(standings, key=lambda standing: -(standing.speedup or 0.0)))


def _warm_up(order: Sequence[str], subjects: dict[str, Subject], measured: Measured) -> dict[str, float]:
    """Wait for all sessions, then warm each up, in the order of launch. Returns a call's time, in ns."""
    typical = {}
    for name in order:
        with _failure_noted(name, subjects, measured):
            subjects[name].ready()
    # Not before all are open: opening one would disturb another's warm-up.
    for name in list(subjects):
        with _failure_noted(name, subjects, measured):
            state = subjects[name].warm_up()
            typical[name] = state.typical_ns
            if not state.settled:
                measured.unsettled.add(name)
    return typical


@contextmanager
def _failure_noted(name: str, subjects: dict[str, Subject], measured: Measured) -> Iterator[None]:
    try:
        yield
    except ChildError as error:
        measured.failed[name] = error.message
        subjects.pop(name, None)


def log_ratios(
    measured: Measured, baseline: str, *, only_round: int | None = None
) -> dict[str, dict[int, float]]:
    """Per variant and round that counts: the Hodges-Lehmann estimate of log(variant / baseline) over turns.

    Each is the time of one photo, a burst the median of its hot calls. The baseline's is the geometric mean
    of its two copies', where both were timed; the second is compared with the first. Paired first, then
    summarised: the machine has the same speed in the bursts of one turn. Of what ran in several heats of a
    round, the first launch counts.
    """
    twin = twin_of(baseline)
    turns: dict[tuple[int, int, int], dict[str, list[int]]] = {}
    first: dict[tuple[int, str], int] = {}
    for s in measured.samples:
        if s.call > 0 and s.round not in measured.unused and only_round in (None, s.round):
            turns.setdefault((s.round, s.heat, s.turn), {}).setdefault(s.variant, []).append(s.time_ns)
            first.setdefault((s.round, s.variant), s.heat)
    logs: dict[str, dict[int, list[float]]] = {}
    for (number, heat, _), times in turns.items():
        if baseline not in times:
            continue
        own = {name: math.log(median(bursts)) for name, bursts in times.items()}
        both = (own[baseline] + own.get(twin, own[baseline])) / 2
        for name, log in own.items():
            if heat == first[number, name]:
                reference = own[baseline] if name in (baseline, twin) else both
                logs.setdefault(name, {}).setdefault(number, []).append(log - reference)
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
    compared = [s for s in measured.samples if s.variant in (variant, baseline, twin_of(baseline))]
    own = [s for s in compared if s.variant == variant and s.round not in measured.unused]
    hot = [s.time_ns for s in own if s.call > 0]
    if not hot:
        return None
    ratios = log_ratios(replace(measured, samples=compared), baseline)
    rounds: dict[int, list[int]] = {}
    for sample in own:
        if sample.call > 0:
            rounds.setdefault(sample.round, []).append(sample.time_ns)
    p95_ci, p99_ci = (percentile_interval(list(rounds.values()), fraction) for fraction in (0.95, 0.99))
    return Latency(
        batch_size=measured.batch_sizes.get(variant, 1),
        samples=len(hot),
        mean_ns=fmean(hot),
        p50_ns=median(hot),
        p90_ns=percentile(hot, 0.90),
        p95_ns=p95_ci and percentile(hot, 0.95),
        p99_ns=p99_ci and percentile(hot, 0.99),
        p95_ns_ci=p95_ci,
        p99_ns_ci=p99_ci,
        cold_p50_ns=median(s.time_ns for s in own if s.call == 0),
        round_log_ratios=tuple(ratios.get(variant, {}).values()),
        settled=variant not in measured.unsettled,
        confirmed=confirmed,
    )


def noise_floor(measured: Measured) -> float | None:
    """The far end of the interval of the second copy of the baseline, as a fraction."""
    bounds = Ratio(tuple(log_ratios(measured, BASELINE).get(TWIN, {}).values())).log_interval
    return None if bounds is None else math.expm1(max(abs(bound) for bound in bounds))
