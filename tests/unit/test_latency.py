"""Timing in turns, on a simulated machine whose speed jumps about: the truth is known, no time passes."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import median

import pytest

from workbench.isolate import ChildError
from workbench.measure.latency import (
    Measured,
    Plan,
    Sample,
    Subject,
    WarmUp,
    measure,
    round_log_ratios,
    summarize,
)
from workbench.measure.stats import Ratio
from workbench.measure.worker import WARM_UP_MIN, warm_up

COLD = 1.4  # how much longer the first call of a turn takes


class Host:
    """A machine that is now and then `slowdown` times slower, for about `dwell_s` at a time."""

    def __init__(self, seed: int, *, slowdown: float = 1.35, dwell_s: float = 0.05) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._slowdown, self._dwell_s = slowdown, dwell_s
        self._slow, self._until = False, self.rng.expovariate(1 / dwell_s)

    def clock(self) -> float:
        return self.now

    def spend(self, work_s: float) -> int:
        """Do the work; returns the nanoseconds it took at today's speed."""
        while self.now > self._until:
            self._slow = not self._slow
            self._until += self.rng.expovariate(1 / self._dwell_s)
        taken = work_s * (self._slowdown if self._slow else 1.0) * self.rng.lognormvariate(0, 0.01)
        self.now += taken
        return round(1e9 * taken)


@dataclass
class Launched:
    """A process: its memory layout makes all its calls a little faster or slower than the next launch's."""

    host: Host
    work_s: float
    settled: bool = True
    dies_in_burst: int | None = None
    bursts: int = 0

    def ready(self) -> None:
        pass

    def warm_up(self) -> WarmUp:
        return WarmUp(20, self.settled)

    def burst(self, calls: int) -> tuple[int, ...]:
        self.bursts += 1
        if self.bursts == self.dies_in_burst:
            raise ChildError("the measuring process was killed by SIGSEGV")
        return tuple(self.host.spend(self.work_s * (COLD if n == 0 else 1.0)) for n in range(calls))


@dataclass
class Farm:
    """Launches subjects and writes down which.

    works_s: the true time of a call of each variant.
    breaks: (variant, number of its launch) -> the burst that launch dies in.
    """

    host: Host
    works_s: Mapping[str, float]
    launch_spread: float = 0.02
    unsettled: frozenset[str] = frozenset()
    breaks: Mapping[tuple[str, int], int] = field(default_factory=dict)
    launches: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)

    def __call__(self, name: str) -> AbstractContextManager[Subject]:
        return self._launch(name)

    @contextmanager
    def _launch(self, name: str) -> Iterator[Subject]:
        self.launches.append(name)
        effect = self.host.rng.lognormvariate(0, self.launch_spread)
        self.open.add(name)
        yield Launched(
            self.host,
            self.works_s[name] * effect,
            settled=name not in self.unsettled,
            dies_in_burst=self.breaks.get((name, self.launches.count(name))),
        )
        self.open.remove(name)


def unheard(done: int, total: int) -> None:
    """Progress nobody listens to."""


def timed(farm: Farm, plan: Plan) -> Measured:
    return measure(list(farm.works_s), farm, plan, progress=unheard, clock=farm.host.clock)


WORKS = {"baseline": 0.004, "fast": 0.002, "slow": 0.006}


def test_the_true_ratio_comes_out_although_the_machine_changes_speed() -> None:
    farm = Farm(Host(1), WORKS)
    measured = timed(farm, Plan())
    for name, speedup in (("fast", 2.0), ("slow", 2 / 3)):
        assert Ratio(round_log_ratios(measured, name, "baseline")).speedup == pytest.approx(speedup, rel=0.03)


def test_two_copies_timed_one_after_the_other_differ_by_a_third_and_timed_in_turns_by_nothing() -> None:
    works = {"baseline": 0.004, "twin": 0.004}
    worst = {"one by one": 0.0, "in turns": 0.0}
    for seed in range(20):
        host = Host(seed, dwell_s=2.0)
        first, second = (median(host.spend(work) for _ in range(300)) for work in works.values())
        worst["one by one"] = max(worst["one by one"], abs(math.log(second / first)))
        measured = timed(Farm(Host(seed, dwell_s=2.0), works, launch_spread=0), Plan(turns=25))
        ratio = Ratio(round_log_ratios(measured, "twin", "baseline"))
        worst["in turns"] = max(worst["in turns"], abs(math.log(ratio.speedup)))
    assert worst["one by one"] > 0.25
    assert worst["in turns"] < 0.01


def test_the_95_percent_interval_covers_the_truth_in_nine_sessions_of_ten() -> None:
    sessions = 300
    covered = 0
    for seed in range(sessions):
        farm = Farm(Host(seed), {"baseline": 0.004, "fast": 0.003})
        interval = Ratio(round_log_ratios(timed(farm, Plan(turns=8, seed=seed)), "fast", "baseline")).interval
        assert interval is not None
        covered += interval[0] <= 4 / 3 <= interval[1]
    assert covered / sessions >= 0.90


def test_every_variant_gets_the_same_number_of_samples() -> None:
    measured = timed(Farm(Host(2), WORKS), Plan(rounds=6, turns=10))
    assert Counter(sample.variant for sample in measured.samples) == dict.fromkeys(WORKS, 6 * 10 * 2)


def test_every_round_launches_every_variant_afresh_and_closes_it() -> None:
    farm = Farm(Host(2), WORKS)
    timed(farm, Plan(rounds=7, turns=3))
    assert Counter(farm.launches) == dict.fromkeys(WORKS, 7)
    assert not farm.open


def test_the_order_is_random_and_comes_back_with_the_seed() -> None:
    def order(seed: int) -> list[tuple[str, int, int, int]]:
        measured = timed(Farm(Host(9), WORKS), Plan(rounds=4, turns=6, seed=seed))
        return [(s.variant, s.round, s.order, s.place) for s in measured.samples]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_no_variant_keeps_its_place_in_the_turns_of_a_round_or_in_the_launches() -> None:
    measured = timed(Farm(Host(2), WORKS), Plan(rounds=12, turns=20))
    for name in WORKS:
        own = [sample for sample in measured.samples if sample.variant == name]
        assert {sample.order for sample in own} == {0, 1, 2}
        for number in range(12):
            assert {sample.place for sample in own if sample.round == number} == {0, 1, 2}


def test_all_sessions_of_a_round_are_open_at_once_and_each_turn_times_each_of_them() -> None:
    measured = timed(Farm(Host(2), WORKS), Plan(rounds=2, turns=5))
    turns = Counter((s.round, s.turn, s.variant) for s in measured.samples)
    assert set(turns) == {(r, t, name) for r in range(2) for t in range(5) for name in WORKS}


def test_a_variant_that_dies_in_a_later_round_is_left_out_and_the_others_are_not_touched() -> None:
    farm = Farm(Host(3), WORKS, breaks={("slow", 2): 4})
    measured = timed(farm, Plan(rounds=6, turns=10))
    assert measured.failed == {"slow": "the measuring process was killed by SIGSEGV"}
    assert Counter(farm.launches) == {"baseline": 6, "fast": 6, "slow": 2}
    counts = Counter(sample.variant for sample in measured.samples)
    assert counts == {"baseline": 120, "fast": 120, "slow": 20 + 6}
    assert len(round_log_ratios(measured, "fast", "baseline")) == 6


def test_a_session_that_does_not_open_is_a_failure_of_that_variant_only() -> None:
    class Unopened(Launched):
        def ready(self) -> None:
            raise ChildError("the model file is damaged")

    @contextmanager
    def launch(name: str) -> Iterator[Subject]:
        yield (Unopened if name == "bad" else Launched)(host, 0.001)

    host = Host(0)
    measured = measure(["bad", "good"], launch, Plan(turns=2), progress=unheard, clock=host.clock)
    assert measured.failed == {"bad": "the model file is damaged"}
    assert {sample.variant for sample in measured.samples} == {"good"}


def test_any_other_exception_is_not_swallowed() -> None:
    class Buggy(Launched):
        def burst(self, calls: int) -> tuple[int, ...]:
            raise ZeroDivisionError(calls)

    @contextmanager
    def launch(name: str) -> Iterator[Subject]:
        yield Buggy(Host(0), 0.001)

    with pytest.raises(ZeroDivisionError):
        measure(["any"], launch, Plan(), progress=unheard)


def test_a_small_time_budget_cuts_turns_and_never_rounds() -> None:
    farm = Farm(Host(2), WORKS)
    measured = timed(farm, Plan(rounds=6, turns=50, budget_s=1.2))
    turns = {r: {s.turn for s in measured.samples if s.round == r} for r in range(6)}
    assert all(0 < len(seen) < 50 for seen in turns.values())
    # A round may run over by the turn it was in.
    assert farm.host.now < 1.2 + 6 * 0.1


def test_no_time_at_all_still_gives_one_turn_of_every_round() -> None:
    measured = timed(Farm(Host(2), WORKS), Plan(rounds=6, turns=50, budget_s=0))
    assert Counter(sample.variant for sample in measured.samples) == dict.fromkeys(WORKS, 6 * 2)


def test_progress_counts_turns_up_to_the_total() -> None:
    heard: list[tuple[int, int]] = []
    farm = Farm(Host(2), WORKS)
    measure(
        list(WORKS),
        farm,
        Plan(rounds=2, turns=3),
        progress=lambda *at: heard.append(at),
        clock=farm.host.clock,
    )
    assert heard == [(n, 6) for n in range(1, 7)]


def test_the_cold_call_is_told_apart_and_kept_out_of_the_latency() -> None:
    measured = timed(Farm(Host(5, slowdown=1.0), {"baseline": 0.004}, launch_spread=0), Plan())
    latency = summarize(measured, "baseline", "baseline")
    assert latency.p50_ns == pytest.approx(0.004e9, rel=0.01)
    assert latency.cold_p50_ns == pytest.approx(COLD * 0.004e9, rel=0.01)
    assert sum(sample.cold for sample in measured.samples) == 300


def test_a_launch_that_never_settles_is_remembered() -> None:
    measured = timed(Farm(Host(2), WORKS, unsettled=frozenset({"fast"})), Plan(turns=2))
    assert not summarize(measured, "fast", "baseline").settled
    assert summarize(measured, "slow", "baseline").settled


def samples_of(times_ns: list[int], variant: str = "a") -> list[Sample]:
    """One round; each time is the hot call of a turn, and its cold call took ten times as long."""
    return [
        Sample(variant, 0, 0, turn, 0, cold, time_ns * (10 if cold else 1))
        for turn, time_ns in enumerate(times_ns)
        for cold in (True, False)
    ]


def test_a_summary_is_of_the_hot_calls_in_nanoseconds() -> None:
    latency = summarize(Measured(samples_of([30, 10, 20, 60])), "a", "a")
    assert (latency.batch_size, latency.samples) == (1, 4)
    assert (latency.mean_ns, latency.p50_ns, latency.cold_p50_ns) == (30.0, 25.0, 250.0)
    assert latency.round_log_ratios == (0.0,)


@pytest.mark.parametrize(
    ("samples", "known"),
    [
        (28, (False, False, False)),
        (29, (True, False, False)),
        (58, (True, False, False)),
        (59, (True, True, False)),
        (298, (True, True, False)),
        (299, (True, True, True)),
    ],
)
def test_percentiles_of_few_samples_are_none(samples: int, known: tuple[bool, bool, bool]) -> None:
    latency = summarize(Measured(samples_of(list(range(1, samples + 1)))), "a", "a")
    assert tuple(p is not None for p in (latency.p90_ns, latency.p95_ns, latency.p99_ns)) == known


def test_the_default_plan_has_samples_enough_for_every_percentile() -> None:
    latency = summarize(timed(Farm(Host(2), WORKS), Plan()), "fast", "baseline")
    assert None not in (latency.p90_ns, latency.p95_ns, latency.p99_ns)


def test_a_turn_that_only_one_of_the_two_took_part_in_does_not_count() -> None:
    measured = Measured([*samples_of([100, 100]), *samples_of([50], "b")])
    assert round_log_ratios(measured, "b", "a") == pytest.approx((-math.log(2),))


def test_warm_up_stops_when_ten_calls_took_what_the_ten_before_had_taken() -> None:
    times = iter([100] * 15 + [10] * 100)
    warm = warm_up(lambda: next(times), clock=lambda: 0.0)
    # Medians of ten: five slow calls or more in the earlier ten still show.
    assert warm == WarmUp(31, settled=True)


def test_warm_up_makes_at_least_twenty_calls() -> None:
    assert warm_up(lambda: 10, clock=lambda: 0.0) == WarmUp(WARM_UP_MIN, settled=True)


def test_warm_up_that_never_settles_says_so_and_ends() -> None:
    clock = iter(range(1000))
    times = iter(2**n for n in range(1000))
    assert not warm_up(lambda: next(times), clock=lambda: 0.01 * next(clock)).settled
