"""Throughput in turns with the baseline: on simulated launches."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from workbench.measure.launches import centre, interval
from workbench.measure.saturated_launches import ROUNDS, TOGETHER, Launched, SaturatedLaunches
from workbench.measure.warm_up import WarmUp
from workbench.system.child import ChildError

IPS = {"baseline": 100.0, "batch": 180.0, "threads": 90.0, "slow": 50.0}


@dataclass
class Host:
    """A machine that flips between two speeds, and whose clock a window moves."""

    dies: str = ""
    rng: random.Random = field(default_factory=lambda: random.Random(3))
    now_s: float = 0.0
    open: list[str] = field(default_factory=list)
    most_open: int = 0
    launched: list[str] = field(default_factory=list)

    @contextmanager
    def launch(self, name: str) -> Iterator[Launched]:
        self.open.append(name)
        self.launched.append(name)
        self.most_open = max(self.most_open, len(self.open))
        yield Session(self, name, math.exp(self.rng.gauss(0, 0.014)))
        self.open.remove(name)


@dataclass
class Session:
    host: Host
    name: str
    effect: float

    def ready(self) -> None:
        self.host.now_s += 0.4

    def warm_up(self) -> WarmUp:
        return WarmUp(20, settled=True, typical_ns=1e6)

    def saturate(self, seconds: float) -> float:
        if self.name == self.host.dies:
            raise ChildError("the measuring process was killed by SIGSEGV")
        self.host.now_s += seconds
        state = 0.75 if math.sin(self.host.now_s / 3) > 0 else 1.0
        return IPS[self.name] * self.effect * state * math.exp(self.host.rng.gauss(0, 0.01))


def measured(
    host: Host, budget_s: float = 1e9, ended: list[str] | None = None
) -> tuple[SaturatedLaunches, list[str]]:
    read: list[str] = []
    launches = SaturatedLaunches(
        "baseline",
        host.launch,
        lambda name, _: read.append(name),
        lambda *_: None,
        lambda name, _: None if ended is None else ended.append(name),
        clock=lambda: host.now_s,
    )
    launches.measure(list(IPS), budget_s)
    return launches, read


def test_the_ratio_is_of_fresh_launches_and_its_interval_holds_the_truth() -> None:
    launches, read = measured(host := Host())
    assert {name: len(found.log_ratios) for name, found in launches.found.items() if name != "baseline"} == {
        name: ROUNDS for name in IPS if name != "baseline"
    }
    for name in ("batch", "threads", "slow"):
        bounds = interval(launches.found[name].log_ratios)
        truth = math.log(IPS[name] / IPS["baseline"])
        assert bounds is not None
        assert bounds[0] < truth < bounds[1]
        assert centre(launches.found[name].log_ratios) == pytest.approx(truth, abs=0.03)
    assert set(launches.found["baseline"].log_ratios) == {0.0}
    assert read == host.launched


def test_few_are_open_at_a_time_and_each_beside_the_baseline() -> None:
    measured(host := Host())
    assert host.most_open == TOGETHER + 1
    assert host.launched.count("baseline") == 2 * ROUNDS
    assert host.open == []


@pytest.mark.parametrize(("budget_s", "rounds"), [(0.0, 1), (4.0, 1), (15.0, 3), (1e9, ROUNDS)])
def test_the_first_launches_tell_how_many_rounds_the_budget_holds(budget_s: float, rounds: int) -> None:
    launches, _ = measured(Host(), budget_s)
    assert len(launches.found["batch"].log_ratios) == rounds


def test_what_is_done_last_is_done_once_with_each_variant() -> None:
    for budget_s in (0.0, 1e9):
        ended: list[str] = []
        measured(Host(), budget_s, ended)
        assert sorted(ended) == sorted([*IPS, "baseline"])  # the baseline runs beside either pair


def test_what_fails_at_the_end_costs_nothing_that_was_measured() -> None:
    host = Host()

    def fail(name: str, _: Launched) -> None:
        raise ChildError(f"{name} cannot walk")

    launches = SaturatedLaunches(
        "baseline", host.launch, lambda *_: None, lambda *_: None, fail, clock=lambda: host.now_s
    )
    launches.measure(list(IPS), 1e9)
    assert launches.failed == {}
    assert {name: len(launches.found[name].ips) for name in ("batch", "slow")} == {
        "batch": ROUNDS,
        "slow": ROUNDS,
    }


def test_a_launch_that_fails_costs_its_variant_and_no_other() -> None:
    launches, _ = measured(Host(dies="slow"))
    assert launches.failed == {"slow": "the measuring process was killed by SIGSEGV"}
    assert "slow" not in launches.found
    assert len(launches.found["batch"].ips) == ROUNDS
    with pytest.raises(ChildError, match="SIGSEGV"):
        measured(Host(dies="baseline"))
