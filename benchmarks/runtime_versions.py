"""Versions of onnxruntime side by side on the bundled sample: the same files, in the same turns.

    python benchmarks/runtime_versions.py [--time-budget 8m] [--output FILE]

The plain FP32 export and static INT8, each in every version of `recipes/runtime-versions.yaml`. Environments
that are not there yet are made in the cache, about 200 MB each.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from workbench.measure.pairs import Difference, differences
from workbench.report.upgrades import upgrades
from workbench.report.words import in_percent
from workbench.results.folder import runs
from workbench.results.history import compare_folder
from workbench.results.records import RunInfo, TrialResult
from workbench.results.versions import by_version
from workbench.run.environments import environments_of
from workbench.system import machine
from workbench.system.child import child_command, child_environment
from workbench.workspace import recipe

PLAIN = "runtime-versions"
INT8 = """
name: int8
extends: {shipped}
steps: [{{use: static_int8}}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="versions of onnxruntime")
    parser.add_argument("--time-budget", default="8m")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = "\n".join(page(Path(name), options.time_budget))
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


def page(folder: Path, budget: str) -> Iterator[str]:
    shipped, int8 = recipe.find(PLAIN), folder / "int8.yaml"
    int8.write_text(INT8.format(shipped=shipped))
    command = child_command("workbench", "run", str(shipped), str(int8), "--yes", "--time-budget", budget)
    load = os.getloadavg()[0]
    subprocess.run(command, cwd=folder, env=child_environment(), check=True, stdout=sys.stderr)
    (run,) = runs(folder / "results")
    found = compare_folder(run)
    here, info, trials = machine.collect(), found.info, run.trials()
    yield (
        f"# Versions of onnxruntime\n\nOutput of `python benchmarks/runtime_versions.py`, "
        f"{datetime.now(UTC):%Y-%m-%d}, {here.cpu}, {here.cores} cores, {platform.system()}, Python "
        f"{here.python}; {load:.0f} other processes wanted a processor when it began. The bundled sample's "
        "student, one thread, every version in an environment of its own with the same numpy, the same file "
        "in the same turns.\n"
    )
    floor = f"{100 * info.noise_floor:.1f} %" if info.noise_floor is not None else "not known"
    yield f"The noise floor, a second copy of the baseline, is {floor}. Differences are of the time of a"
    yield "photo against the version in bold, which is installed; intervals at 95 %, adjusted for all."
    yield from tables(info, trials)
    yield "\nWhat the run says of them:\n"
    yield from (f"- {line}" for line in upgrades(info))
    yield "\n## The environments\n\n| environment | MB | seconds to make |\n| --- | ---: | ---: |"
    for variant in recipe.load([shipped]):
        for environment in environments_of(variant):
            if (made := environment.made()) is not None:
                yield f"| {made.name} | {made.size_bytes / 1e6:.0f} | {made.seconds:.0f} |"
    yield "\n## What was not measured\n"
    absent = [
        f"- {trial.variant}: {trial.status}, {trial.reason}" for trial in trials if trial.latency is None
    ]
    yield from absent or ["Nothing: every version was."]


def tables(info: RunInfo, trials: list[TrialResult]) -> Iterator[str]:
    found = {(each.faster, each.slower): each for each in differences([up.pair for up in info.upgrades])}
    for group in by_version([trial for trial in trials if trial.latency], info.runtimes):
        what = next(iter(group.values())).precision
        yield f"\n| onnxruntime, {what} | p50 ms | difference |\n| --- | ---: | ---: |"
        pairs = [up.pair for up in info.upgrades if {up.pair.one, up.pair.other} <= names(group)]
        shared = set.intersection(*({pair.one, pair.other} for pair in pairs)) if pairs else set()
        for version, trial in group.items():
            assert trial.latency is not None
            own = trial.variant in shared
            yield (
                f"| {f'**{version}**' if own else version} | {trial.latency.p50_ns / 1e6:.3f} | "
                f"{'' if own else cell(trial.variant, found)} |"
            )


def names(group: dict[str, TrialResult]) -> set[str]:
    return {trial.variant for trial in group.values()}


def cell(variant: str, found: dict[tuple[str, str], Difference]) -> str:
    """`slower by 8.0 % [6.1, 9.9]`, against the version that is installed."""
    for (faster, slower), each in found.items():
        if variant in (faster, slower):
            how = "slower" if variant == slower else "faster"
            return f"{how} by {in_percent(each.ratio, each.interval)}"
    return "not timed to the end"


if __name__ == "__main__":
    main()
