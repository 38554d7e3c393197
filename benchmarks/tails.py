"""How often an interval of a tail percentile holds the truth, where calls are not independent.

    python benchmarks/tails.py [--sessions 1000] [--output docs/measured-tails.md]

Simulated sessions: rounds of fresh launches, in each of them turns of short bursts. The scenarios differ in
how calls depend on each other; the truth is the percentile of two million calls of thousands of launches.

    calls       the calls are taken as independent: order statistics (binomial)
    student     the percentile of each round; Student's interval of the mean of their logarithms
    bootstrap   rounds drawn with replacement; percentiles of the pooled percentile
    woodruff    the interval of the share of calls below, from how it differs over rounds, read off the
                pooled calls (R. S. Woodruff, "Confidence intervals for medians and other position measures",
                JASA 47, 1952)
    korn        ours: the same with Clopper and Pearson's interval for as many independent calls as the
                rounds are worth (E. L. Korn and B. I. Graubard, Survey Methodology 24, 1998)

A method may refuse where the calls do not bound a percentile; what it gives must hold the truth in 95 %.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtrit

from workbench.measure.tails import percentile_interval

Calls = NDArray[np.float64]  # (rounds, turns, calls) nanoseconds
Interval = tuple[float, float] | None

ROUNDS = (6, 12)
SHAPES = ((60, 5), (20, 5))  # turns and hot calls a turn
TRUTH = 2_000_000
FRACTIONS = (0.95, 0.99)
NOMINAL = 0.95


@dataclass(frozen=True, slots=True)
class Scenario:
    """launch, turn, call: standard deviations of the logarithm. far: the share of launches that are off by
    0.06. spikes: the share of calls that take 1.5 to 4 times as long, in `launches_with` of the launches.
    slow: a third longer for half of the time, in stretches of turns."""

    launch: float = 0.014
    turn: float = 0.01
    call: float = 0.03
    far: float = 0.04
    spikes: float = 0.01
    spiking: float = 1.0
    slow: bool = False


SCENARIOS = {
    "independent calls": Scenario(launch=0, turn=0, far=0),
    "launches differ by 1.4 %, 1 in 25 by 6 %": Scenario(),
    "turns differ by 5 %": Scenario(turn=0.05),
    "spikes in half of the launches": Scenario(spikes=0.03, spiking=0.5),
    "two speeds, a third apart": Scenario(slow=True),
    "launches differ as much as calls": Scenario(launch=0.03, turn=0, far=0),
    "two speeds, heavy tails": Scenario(slow=True, spikes=0.05, call=0.06),
}


def session(scenario: Scenario, rounds: int, turns: int, calls: int, rng: np.random.Generator) -> Calls:
    far = rng.random((rounds, 1, 1)) < scenario.far
    log = rng.normal(size=(rounds, 1, 1)) * np.where(far, 0.06, scenario.launch)
    log = log + rng.normal(size=(rounds, turns, 1)) * scenario.turn
    log = log + rng.normal(size=(rounds, turns, calls)) * scenario.call
    spiking = rng.random((rounds, 1, 1)) < scenario.spiking
    spike = spiking & (rng.random(log.shape) < scenario.spikes)
    log = log + np.where(spike, np.log(rng.uniform(1.5, 4.0, log.shape)), 0.0)
    if scenario.slow:
        # A state lasts about ten turns: tenths of a second to a second.
        flips = rng.random((rounds, turns)) < 0.1
        state = (np.cumsum(flips, axis=1) + rng.integers(0, 2, (rounds, 1))) % 2
        log = log + math.log(1.33) * state[:, :, None]
    return np.exp(log)


def by_calls(values: Calls, fraction: float) -> Interval:
    ordered, n = np.sort(values, axis=None), values.size
    low = int(np.searchsorted(bdtr(np.arange(n), n, fraction), (1 - NOMINAL) / 2)) - 1
    high = int(np.searchsorted(bdtr(np.arange(n), n, fraction), (1 + NOMINAL) / 2))
    return (ordered[max(low, 0)], ordered[high]) if high < n else None


def by_student(values: Calls, fraction: float) -> Interval:
    rounds = values.reshape(len(values), -1)
    if rounds.shape[1] < math.log(1 - NOMINAL) / math.log(fraction):
        return None
    logs = np.log(np.quantile(rounds, fraction, axis=1, method="inverted_cdf"))
    slack = stdtrit(len(logs) - 1, (1 + NOMINAL) / 2) * logs.std(ddof=1) / math.sqrt(len(logs))
    return math.exp(logs.mean() - slack), math.exp(logs.mean() + slack)


def by_bootstrap(values: Calls, fraction: float, *, draws: int = 200) -> Interval:
    rng, rounds = np.random.default_rng(0), values.reshape(len(values), -1)
    drawn = rounds[rng.integers(0, len(rounds), (draws, len(rounds)))].reshape(draws, -1)
    found = np.quantile(drawn, fraction, axis=1, method="inverted_cdf")
    return float(np.quantile(found, (1 - NOMINAL) / 2)), float(np.quantile(found, (1 + NOMINAL) / 2))


def shares(values: Calls, fraction: float) -> tuple[Calls, float]:
    """The calls in order, and the standard error of the share below the percentile, rounds as clusters."""
    rounds = values.reshape(len(values), -1)
    ordered = np.sort(values, axis=None)
    above = (rounds > ordered[math.ceil(fraction * ordered.size) - 1]).mean(axis=1)
    return ordered, float(above.std(ddof=1)) / math.sqrt(len(rounds))


def by_woodruff(values: Calls, fraction: float) -> Interval:
    ordered, error = shares(values, fraction)
    # Never surer than independent calls would be.
    error = max(error, math.sqrt(fraction * (1 - fraction) / ordered.size))
    slack = float(stdtrit(len(values) - 1, (1 + NOMINAL) / 2)) * error
    first = max(0, math.floor((fraction - slack) * ordered.size) - 1)
    last = math.ceil((fraction + slack) * ordered.size) - 1
    return (ordered[first], ordered[last]) if last < ordered.size else None


def by_korn(values: Calls, fraction: float) -> Interval:
    return percentile_interval(values.reshape(len(values), -1).tolist(), fraction)


METHODS: Mapping[str, Callable[[Calls, float], Interval]] = {
    "calls": by_calls,
    "student": by_student,
    "bootstrap": by_bootstrap,
    "woodruff": by_woodruff,
    "korn": by_korn,
}


@dataclass(slots=True)
class Score:
    """given: sessions with an interval; held: of these, with the truth in it; widths: half, of the truth."""

    given: int = 0
    held: int = 0
    widths: float = 0.0

    def add(self, interval: Interval, truth: float) -> None:
        if interval is not None:
            low, high = interval
            self.given += 1
            self.held += low <= truth <= high
            self.widths += (high - low) / 2 / truth

    def cell(self, sessions: int) -> str:
        if not self.given:
            return "none"
        refused = sessions - self.given
        note = f", {100 * refused / sessions:.0f} % refused" if refused else ""
        return f"{100 * self.held / self.given:.0f} % (±{100 * self.widths / self.given:.1f} %{note})"


def main() -> None:
    parser = argparse.ArgumentParser(description="coverage of intervals of tail percentiles")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines, worst = [], dict.fromkeys(METHODS, 1.0)
    for fraction in FRACTIONS:
        lines += [
            "",
            f"## p{100 * fraction:.0f}",
            "",
            f"| calls | rounds | turns x calls | {' | '.join(METHODS)} |",
        ]
        lines.append("| --- | ---: | ---: |" + " --- |" * len(METHODS))
        for index, (name, scenario) in enumerate(SCENARIOS.items()):
            rng = np.random.default_rng(index)
            truth = truth_of(scenario, fraction, rng)
            for (turns, calls), rounds in itertools.product(SHAPES, ROUNDS):
                scores = {method: Score() for method in METHODS}
                for _ in range(options.sessions):
                    values = session(scenario, rounds, turns, calls, rng)
                    for method, interval in METHODS.items():
                        scores[method].add(interval(values, fraction), truth)
                cells = [score.cell(options.sessions) for score in scores.values()]
                lines.append(f"| {name} | {rounds} | {turns} x {calls} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
                for method, score in scores.items():
                    if score.given:
                        worst[method] = min(worst[method], score.held / score.given)
    report = "\n".join([heading(options.sessions, worst), *lines])
    if options.output:
        options.output.write_text(report + "\n")


def truth_of(scenario: Scenario, fraction: float, rng: np.random.Generator) -> float:
    return float(np.quantile(session(scenario, TRUTH // 300, 60, 5, rng), fraction))


def heading(sessions: int, worst: Mapping[str, float]) -> str:
    lowest = ", ".join(f"{name} {100 * share:.0f} %" for name, share in worst.items())
    return f"""# How far the intervals of p95 and p99 can be trusted

Output of `python benchmarks/tails.py --sessions {sessions}`; simulated, so that it is the same on every
machine. Intervals are nominally 95 %. A cell is how often those that were given held the truth, their mean
half-width as a share of the percentile, and how often none was given. `korn` is the one in use; the benchmark
describes the others.

Lowest coverage of any line: {lowest}."""


if __name__ == "__main__":
    main()
