"""How often a gate is right beside a noisy neighbour: the same file, and one that is truly 9 % slower.

    python benchmarks/gate.py [--sessions 30] [--rounds 20] [--budget 180] [--channels 48]
        [--kept FILE] [--output docs/measured-gate.md]

Every session is two gates: the reference, its second copy and two candidates in rounds of fresh launches. One
candidate is the reference's own file, the other has one more block (the networks are those of `aa.py`). The
rule of `workbench.results.gate` judges each as a gate of its own, for the median and for the 95th percentile
together. Beside it a process never stops computing. --kept: a file that gets a line after every session; the
same command goes on from there.
"""

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from aa import CHANNELS, TWIN, A, B, Bench, forked, prepare, spin

from workbench.measure.latency import Lineup, Measured, Plan, log_ratios
from workbench.measure.records import FINAL
from workbench.measure.tails import tail_log_ratios
from workbench.results.gate import FailCondition, Finding, Kind, Observation, Ratios, judge
from workbench.system import machine

SAME = "the same file"
SLOWER = "one more block"
CONDITIONS = tuple(FailCondition(kind=kind, margin=0.05) for kind in ("latency", "p95"))
OUTCOMES = ("SAME", "AMBIGUOUS", "SLOWER", "FASTER")
FIELDS = ("variant", "round", "heat", "time_ns")


def main() -> None:
    parser = argparse.ArgumentParser(description="A gate beside a noisy neighbour")
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--budget", type=float, default=180.0, help="seconds of a session, for all rounds")
    parser.add_argument("--channels", type=int, default=CHANNELS, help="of the networks")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = _kept(options.kept)
    busy = multiprocessing.Process(target=spin, daemon=True)
    busy.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = prepare(Path(folder), options.channels)
            bench = replace(
                bench, artifacts={A: bench.artifacts[A], TWIN: bench.artifacts[A], **_candidates(bench)}
            )
            for number in range(len(found), options.sessions):
                found.append(session(bench, number, options.rounds, options.budget))
                _keep(options.kept, found[-1])
                shown = ", ".join(f"{f.candidate} {f.condition.kind} {f.outcome}" for f in found[-1][1])
                print(f"{number + 1} of {options.sessions}: {shown}", file=sys.stderr, flush=True)
    finally:
        busy.kill()
    page = document(found, options)
    print(page)
    if options.output:
        options.output.write_text(page)


def _candidates(bench: Bench) -> dict[str, Any]:
    return {SAME: bench.artifacts[A], SLOWER: bench.artifacts[B]}


Session = tuple[float, tuple[Finding, ...], float]  # seconds, what was found, the A/A's change


def session(bench: Bench, seed: int, rounds: int, budget_s: float) -> Session:
    began = time.monotonic()
    lineup = Lineup([A, TWIN, SAME, SLOWER], A, TWIN)
    plan = Plan(rounds=rounds, budget_s=budget_s, seed=seed)
    measured = forked(bench, lineup, plan)
    ratios = evidence(measured)
    twins = {kind: found for (name, kind), found in ratios.items() if name == TWIN}
    found: list[Finding] = []
    for name in (SAME, SLOWER):  # two gates, of one candidate each
        found += judge([Observation(name, c, ratios.get((name, c.kind))) for c in CONDITIONS], twins)
    return time.monotonic() - began, tuple(found), twins["latency"].estimate


def evidence(measured: Measured) -> Mapping[tuple[str, Kind], Ratios]:
    """As a gate takes it from `latency.parquet`."""
    used = [s for s in measured.samples if s.call > 0 and s.round not in measured.unused]
    calls = {name: np.asarray([getattr(sample, name) for sample in used]) for name in FIELDS}
    calls["session"] = np.full(len(used), FINAL)
    medians = log_ratios(measured, A)
    found: dict[tuple[str, Kind], tuple[float, ...]] = {}
    for name in (TWIN, SAME, SLOWER):
        found[name, "latency"] = tuple(medians[name].values())
        found[name, "p95"] = tail_log_ratios(calls, name, A, 0.95, {}, FINAL)
    return {place: Ratios(values) for place, values in found.items() if values}


def _kept(path: Path | None) -> list[Session]:
    lines = path.read_text().splitlines() if path and path.exists() else []
    return [(s, tuple(map(Finding.model_validate, f)), twin) for s, f, twin in map(json.loads, lines)]


def _keep(path: Path | None, found: Session) -> None:
    if path:
        with path.open("a") as file:
            dumped = [finding.model_dump(mode="json") for finding in found[1]]
            file.write(json.dumps([found[0], dumped, found[2]]) + "\n")


def document(found: Sequence[Session], options: argparse.Namespace) -> str:
    here, sessions = machine.collect(), len(found)
    lines = [
        "# How often a gate is right\n",
        f"Output of `python benchmarks/gate.py --sessions {sessions} --rounds {options.rounds} "
        f"--budget {options.budget:g} --channels {options.channels}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{here.cpu}, {here.cores} cores, {platform.system()}, Python {here.python}.\n",
        "Each session is two gates: a reference and two candidates, timed together beside a process that "
        "never stops computing. One candidate is the reference's own file, the other has one more block than "
        "its eleven (long sessions of both are in [measured-aa.md](measured-aa.md)). The margin is 5 %, for "
        "the median and for the 95th percentile; the intervals hold for both conditions of a gate together "
        "(Holm).\n",
        f"| candidate | condition | {' | '.join(OUTCOMES)} | median change | median half-width |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, condition in product((SAME, SLOWER), CONDITIONS):
        lines.append(
            _row([f for s in found for f in s[1] if (f.candidate, f.condition) == (name, condition)])
        )
    twins = sorted(abs(twin) for _, _, twin in found)
    lines += [
        f"\nThe reference's second copy came out {100 * median(twins):.1f} % apart in the median, "
        f"{100 * twins[-1]:.1f} % at most. "
        f"A session took {median(s for s, _, _ in found):.0f} s in the median.\n",
    ]
    return "\n".join(lines)


def _row(found: Sequence[Finding]) -> str:
    counts = Counter(finding.outcome for finding in found)
    assert set(counts) <= set(OUTCOMES)
    changes = [finding.change for finding in found if finding.change is not None]
    widths = [(f.interval[1] - f.interval[0]) / 2 for f in found if f.interval]
    cells = [
        found[0].candidate,
        f"`{found[0].condition.text}`",
        *(f"{counts[outcome]} of {len(found)}" for outcome in OUTCOMES),
        f"{100 * median(changes):+.1f} %",
        f"{100 * median(widths):.1f} %",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
