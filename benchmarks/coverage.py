"""Whether the intervals of latency hold what they claim: simulated sessions, where the truth is known.

    python benchmarks/coverage.py [--sessions 4000] [--whole 100] [--output docs/measured-coverage.md]

Three parts. Rounds: per-round log-ratios of `coverage_sessions.py`, judged by a dozen estimators
(`coverage_estimators.py`) after each number of rounds. Dropping: the rule of the race on the same sessions.
Whole sessions: race and final by `workbench.measure.latency.measure` on a simulated machine
(`coverage_machine.py`). It takes three minutes of a processor.
"""

import argparse
import math
import platform
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from coverage_estimators import ESTIMATORS, Array, Estimator, shipped
from coverage_machine import KINDS, Kind, Machine
from coverage_sessions import RATIOS, ROUNDS, SCENARIOS, Scenario

from workbench.measure import launches
from workbench.measure.early_stopping import Rules, dropped
from workbench.measure.latency import Lineup, Measured, Plan, log_ratios, measure
from workbench.measure.records import BASELINE, TWIN
from workbench.results.verdict import SMALLEST_DIFFERENCE
from workbench.run import time_variants
from workbench.system.progress import silent

TODAY = "median, order statistics"  # the estimator before this comparison
CHOSEN = "mean trimmed by 10 %, Student (Yuen)"
COUNTS = range(launches.LEAST, ROUNDS + 1)
SHOWN = (6, 8, 10, 12, 16, 20)
HOLM = 0.995  # the confidence of the first of ten pairs after Holm
SLOW_SESSIONS = 500  # of an estimator that resamples, after SHOWN rounds alone
TRUTH = (400, 120)  # sessions, rounds of each
DROPPING_SESSIONS = 400  # a scenario
NOMINAL_MS = {BASELINE: 4.0, "same": 4.0, "best": 3.7, "close": 3.74, "slow": 8.0}
BUDGETS_S = (15.0, 60.0)

ABOUT = """# How often an interval holds the truth, simulated

Output of `python benchmarks/coverage.py --sessions {sessions} --whole {whole}`, {today}, Python {python}.

{sessions} sessions of each of {kinds} kinds, judged after every number of rounds (a bootstrap: {few} of
them, after {shown}). A round's ratio is a launch of the variant over the mean of two of the baseline,
estimated from turns; launches differ as the kind says. The truth is the true ratio; where only the variant
has slow launches it is what the estimator says of very many rounds, as no two estimators mean the same there.

Chosen is the mean without the lowest and the highest tenth of the rounds, with Student's interval from
the winsorised variance (K. K. Yuen 1974). Up to nine rounds that is the plain mean; from ten on one far
launch does not count. Of what holds the truth in at least 92 % of every kind after every number of rounds
it has the narrowest intervals. Order statistics are wider, and neither they nor signed ranks can be surer
than 96.9 % with six rounds, so that no pair could be told apart after Holm. The plain mean fails where
one side has rare slow launches. More trimming throws away what few rounds there are. Bootstraps of few
launches hold the truth too seldom, and the one of t, which comes nearest, is wider."""

Cell = tuple[str, int]  # scenario, rounds


@dataclass(slots=True)
class Score:
    """What an estimator's intervals did, by scenario and number of rounds. held_holm: at the confidence HOLM.
    far: 99 of 100 centres are nearer. wrong_side: intervals; wrong_call: by the rule of the product."""

    held: dict[Cell, float] = field(default_factory=dict)
    held_holm: dict[Cell, float] = field(default_factory=dict)
    half_width: dict[Cell, float] = field(default_factory=dict)
    far: dict[Cell, float] = field(default_factory=dict)
    wrong_side: dict[Cell, float] = field(default_factory=dict)
    wrong_call: dict[Cell, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description="coverage of the intervals on simulated sessions")
    parser.add_argument("--sessions", type=int, default=4000, help="of each kind, judged by rounds")
    parser.add_argument(
        "--whole", type=int, default=100, help="of each machine and budget, through `measure`"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    scores = judge(options.sessions)
    parts = [
        heading(options.sessions, options.whole),
        estimators_table(scores),
        rounds_table(scores[CHOSEN]),
        dropping_table(),
        whole_table(options.whole),
    ]
    report = "\n".join(parts)
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


def judge(sessions: int) -> dict[str, Score]:
    """Every estimator on the same sessions of every scenario."""
    scores = {name: Score() for name in ESTIMATORS}
    for number, (kind, scenario) in enumerate(SCENARIOS.items()):
        say(kind)
        rng = np.random.default_rng(number)
        variant, twin = scenario.rounds(rng, sessions, ROUNDS)
        many, _ = scenario.rounds(rng, *TRUTH)
        hold_to_shipped(variant)
        for name, estimator in ESTIMATORS.items():
            slow = "bootstrap" in name
            truth = 0.0 if scenario.symmetric else float(estimator(many, 0.95)[0].mean())
            for count in SHOWN if slow else COUNTS:
                few = SLOW_SESSIONS if slow else sessions
                made = variant[:few, :count], twin[:few, :count]
                judge_cell(scores[name], (kind, count), estimator, made, truth + drifted(scenario, count))
    return scores


def mean(cells: Mapping[Cell, float]) -> float:
    return float(np.mean(list(cells.values())))


def drifted(scenario: Scenario, count: int) -> float:
    """The mean of a drift over so many rounds."""
    return scenario.drift * (count - 1) / 2


def judge_cell(
    score: Score, cell: Cell, estimator: Estimator, made: tuple[Array, Array], truth: float
) -> None:
    variant, twin = made
    centre, low, high = estimator(variant, launches.CONFIDENCE)
    _, surer_low, surer_high = estimator(variant, HOLM)
    _, twin_low, twin_high = estimator(twin, launches.CONFIDENCE)
    # Speeds count as different beyond the noise floor, and beyond one per cent.
    apart = np.maximum(np.maximum(np.abs(twin_low), np.abs(twin_high)), math.log1p(SMALLEST_DIFFERENCE))
    score.held[cell] = float(np.mean((low <= truth) & (truth <= high)))
    score.held_holm[cell] = float(np.mean((surer_low <= truth) & (truth <= surer_high)))
    score.half_width[cell] = float(np.mean(high - low) / 2)
    score.far[cell] = float(np.quantile(np.abs(centre - truth), 0.99))
    effects = [math.log(ratio) for ratio in RATIOS]
    # An estimator moves with its values, so every session serves for every true ratio.
    sides = [(low - truth > -e) if e < 0 else (high - truth < -e) for e in effects]
    calls = [(centre - truth + e) * math.copysign(1, e) < -apart for e in effects]
    score.wrong_side[cell], score.wrong_call[cell] = float(np.mean(sides)), float(np.mean(calls))


def hold_to_shipped(variant: Array) -> None:
    """Raises AssertionError where `workbench.measure.launches` is another estimator than CHOSEN."""
    for count in COUNTS:
        few = variant[:20, :count]
        for ours, judged in zip(shipped(few, 0.95), ESTIMATORS[CHOSEN](few, 0.95), strict=True):
            np.testing.assert_allclose(ours, judged, atol=1e-9)


def estimators_table(scores: Mapping[str, Score]) -> str:
    lines = [
        "\n## Estimators\n",
        f"All kinds of sessions, {COUNTS[0]} to {COUNTS[-1]} rounds, nominally 95 %. Lowest: the kind and "
        "the number of rounds where the truth was held least often. Half-widths are over those of order "
        "statistics, which came before: of all, after six rounds, and at most after six. Far off: what 99 of "
        "100 centres stay below. 99.5 %: intervals at that confidence, which the first of ten pairs needs "
        "after Holm, where they hold the truth least often.\n",
        "| estimator | held | lowest | where | half-width | after 6 rounds | at most | far off | 99.5 % |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, score in scores.items():
        kind, count = min(score.held, key=lambda cell: score.held[cell])
        widths = {cell: width / scores[TODAY].half_width[cell] for cell, width in score.half_width.items()}
        early = [width for (_, rounds), width in widths.items() if rounds == COUNTS[0]]
        cells = [
            f"**{name}**" if name == CHOSEN else name,
            percent(mean(score.held)),
            percent(score.held[kind, count]),
            f"{kind}, {count} rounds",
            f"{mean(widths):.2f}",
            f"{np.mean(early):.2f}",
            f"{max(early):.2f}",
            percent(mean(score.far)),
            percent(min(score.held_holm.values())),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rounds_table(score: Score) -> str:
    """The chosen estimator, by scenario and rounds."""
    lines = [
        "\n## By kind of session and number of rounds\n",
        f"{CHOSEN}: how often the interval holds the truth, and its mean half-width. Lowest: of "
        f"{COUNTS[0]} to {COUNTS[-1]} rounds.\n",
        "| sessions | " + " | ".join(f"{count} rounds" for count in SHOWN) + " | lowest |",
        "| --- |" + " ---: |" * (len(SHOWN) + 1),
    ]
    for kind in SCENARIOS:
        cells = [f"{percent(score.held[kind, n])}, ± {percent(score.half_width[kind, n], 2)}" for n in SHOWN]
        lowest = min(score.held[kind, count] for count in COUNTS)
        lines.append(f"| {kind} | " + " | ".join(cells) + f" | {percent(lowest)} |")
    by_rounds = [np.mean([score.held[kind, n] for kind in SCENARIOS]) for n in SHOWN]
    every = [percent(float(held)) for held in by_rounds]
    lines.append("| all | " + " | ".join(every) + f" | {percent(min(score.held.values()))} |")
    lines.append(
        "\nWrong directions, where the true difference is 1 % or more (ratios "
        f"{', '.join(f'{ratio:g}' for ratio in RATIOS)}): the interval lies on the wrong side of 1 in "
        f"{1000 * mean(score.wrong_side):.2f} of 1,000 sessions; called faster where it is "
        "slower, beyond the noise floor and 1 %: in "
        f"{1000 * mean(score.wrong_call):.2f} of 1,000."
    )
    return "\n".join(lines)


def dropping_table() -> str:
    """How often the race drops the variant that is truly the fastest."""
    lines = [
        "\n## Dropping in the race\n",
        f"{DROPPING_SESSIONS} sessions of {ROUNDS} rounds a kind; of four variants one is the fastest, one "
        "1.1 % slower, one 8 % and one twice as slow. Each round is a look.\n",
        "| sessions | the fastest dropped | the slowest dropped | rounds until then |",
        "| --- | ---: | ---: | ---: |",
    ]
    total = 0
    for number, (kind, scenario) in enumerate(SCENARIOS.items()):
        raced = [race(scenario, seed) for seed in range(1000 * number, 1000 * number + DROPPING_SESSIONS)]
        lost = sum("best" in out for out in raced)
        slow = [out["slow"] for out in raced if "slow" in out]
        total += lost
        rounds = f"{np.mean(slow):.1f}" if slow else "–"
        lines.append(f"| {kind} | {lost} of {len(raced)} | {len(slow)} of {len(raced)} | {rounds} |")
    share = total / (DROPPING_SESSIONS * len(SCENARIOS))
    lines.append(f"\nThe fastest was dropped in {percent(share, 2)} of all sessions.")
    return "\n".join(lines)


def race(scenario: Scenario, seed: int) -> dict[str, int]:
    """The variants dropped, each with the rounds that it had made."""
    rng = np.random.default_rng(seed)
    speeds = {"best": 0.0, "close": math.log(1.011), "baseline": math.log(1.08), "slow": math.log(2.0)}
    drawn = {name: scenario.rounds(rng, 1, ROUNDS)[0][0] + own for name, own in speeds.items()}
    out: dict[str, int] = {}
    for count in range(1, ROUNDS + 1):
        running = {
            name: dict(enumerate(values[:count].tolist()))
            for name, values in drawn.items()
            if name not in out
        }
        out |= dict.fromkeys(dropped(running, list(running), Rules()), count)
    return out


@dataclass(slots=True)
class Tally:
    """Of whole sessions on one kind of machine and budget. dropped: sessions that lost the fastest."""

    held: list[bool] = field(default_factory=list)
    raced_held: list[bool] = field(default_factory=list)
    half_widths: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    wrong: int = 0
    missing: int = 0
    dropped: int = 0


def whole_table(sessions: int) -> str:
    lines = [
        "\n## Whole sessions\n",
        "Race and final by `measure`, with the rounds of the final fixed from what the race showed. The "
        "baseline, a copy of it, one 8.1 % faster, one 1.1 % behind that, one twice as slow; a launch takes "
        "0.35 s. Raced: intervals of variants that were in the race to its end.\n",
        "| machine | budget | sessions | final held | mean half-width | final rounds | raced held "
        "| wrong side | no interval | the fastest dropped |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    tallies = []
    for name, kind in KINDS.items():
        for budget_s in BUDGETS_S:
            say(f"{name}, {budget_s:g} s")
            tally = Tally()
            for seed in range(sessions):
                count_session(tally, kind, budget_s, seed)
            tallies.append(tally)
            lines.append(f"| {name} | {budget_s:g} s | {sessions} | {tally_cells(tally)} |")
    lines.append(f"\n{by_rounds(tallies)}")
    return "\n".join(lines)


def tally_cells(tally: Tally) -> str:
    cells = [
        of_all(tally.held),
        percent(float(np.mean(tally.half_widths)), 2),
        f"{min(tally.rounds)} to {max(tally.rounds)}",
        of_all(tally.raced_held),
        str(tally.wrong),
        str(tally.missing),
        str(tally.dropped),
    ]
    return " | ".join(cells)


def of_all(held: Sequence[bool]) -> str:
    return f"{sum(held)} of {len(held)} ({percent(sum(held) / len(held))})" if held else "–"


def count_session(tally: Tally, kind: Kind, budget_s: float, seed: int) -> None:
    """One race and its final, as a run makes them."""
    machine = Machine(kind, NOMINAL_MS, random.Random(seed))
    plan = Plan(seed=seed, budget_s=budget_s)
    raced = session(machine, list(NOMINAL_MS), list(NOMINAL_MS), time_variants.race_of(plan))
    tally.dropped += "best" in raced.pruned
    for held, _, _ in judged(raced):
        tally.raced_held.append(held)
    centres = {name: launches.centre(list(r.values())) for name, r in log_ratios(raced, BASELINE).items()}
    running = [name for name in NOMINAL_MS if name not in raced.pruned]
    fastest = sorted(running, key=lambda name: centres[name])[:2]
    left_s = budget_s - machine.now_s
    finalists = list(dict.fromkeys((BASELINE, *fastest)))
    finalists = time_variants._affordable(finalists, raced, plan, left_s)
    rounds = time_variants._final_rounds(finalists, raced, plan)
    confirming = replace(plan, rounds=rounds, budget_s=left_s, seed=seed + 1)
    final = session(machine, finalists, (), confirming)
    for held, half_width, wrong in judged(final):
        tally.held.append(held)
        tally.half_widths.append(half_width)
        tally.wrong += wrong
        tally.rounds.append(final.rounds)
    tally.missing += final.rounds < launches.LEAST


def session(machine: Machine, names: Sequence[str], contenders: Sequence[str], plan: Plan) -> Measured:
    lineup = Lineup([*names, TWIN], BASELINE, TWIN, contenders)
    return measure(lineup, machine, plan, watch=machine, report=silent, clock=lambda: machine.now_s)


def judged(measured: Measured) -> Iterator[tuple[bool, float, bool]]:
    """Of every variant and the copy of the baseline, but for those dropped: whether the interval holds the
    true ratio, half its width, and whether it lies on the wrong side of 1."""
    for name, values in log_ratios(measured, BASELINE).items():
        truth = math.log(NOMINAL_MS.get(name, NOMINAL_MS[BASELINE]) / NOMINAL_MS[BASELINE])
        ends = launches.interval(list(values.values()))
        if name != BASELINE and name not in measured.pruned and ends is not None:
            wrong = ends[1] < 0 < truth or truth < 0 < ends[0]
            yield ends[0] <= truth <= ends[1], (ends[1] - ends[0]) / 2, wrong


def by_rounds(tallies: Sequence[Tally]) -> str:
    """The coverage of the finals that made the same number of rounds: where each session stopped."""
    made: dict[int, list[bool]] = {}
    for tally in tallies:
        for rounds, held in zip(tally.rounds, tally.held, strict=True):
            made.setdefault(rounds, []).append(held)
    cells = [
        f"{rounds} rounds {percent(float(np.mean(held)))} of {len(held)}"
        for rounds, held in sorted(made.items())
    ]
    every = percent(float(np.mean([held for tally in tallies for held in tally.held])))
    return f"Finals held the truth in {every} of all; by the rounds that they made: {', '.join(cells)}."


def heading(sessions: int, whole: int) -> str:
    return ABOUT.format(
        sessions=sessions,
        whole=whole,
        today=f"{datetime.now(UTC):%Y-%m-%d}",
        python=platform.python_version(),
        kinds=len(SCENARIOS),
        few=SLOW_SESSIONS,
        shown=", ".join(map(str, SHOWN)),
    )


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
