"""LiteRT and ExecuTorch beside onnxruntime on a workspace of yours, and what `tune` finds for a phone.

    python benchmarks/edge.py WORKSPACE [--time-budget 4m] [--search 15m] [--output FILE]
    python benchmarks/edge.py WORKSPACE --run RUN [--tuned RUN]    # the tables of runs that are there

WORKSPACE must come from torch, and its `targets` name `android`. The environments of the converters are made
in the cache where they are missing, 3 GB in all.
"""

import argparse
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from workbench.measure.records import BASELINE
from workbench.report.words import points
from workbench.results.folder import RunFolder, find_run
from workbench.results.history import compare_folder
from workbench.results.reasons import NotFinalist
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import speed
from workbench.run.environments import environments_of
from workbench.system.child import child_command, child_environment
from workbench.workspace import recipe
from workbench.workspace.workspace import Workspace, load

RECIPES = ("litert", "executorch")
HEADINGS = (
    "variant", "MB", "right", "largest logit difference", "partitions", "outside XNNPACK", "p50 ms",
    "speed-up",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="LiteRT and ExecuTorch beside onnxruntime")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--time-budget", default="4m")
    parser.add_argument("--search", default="15m")
    parser.add_argument("--run")
    parser.add_argument("--tuned")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    workspace = load(options.workspace / "krishi.yaml")
    run, tuned = options.run, options.tuned
    if run is None:
        command(workspace, "run", *RECIPES, "--yes", "--time-budget", options.time_budget)
        run = find_run(workspace.results, None).run_id
        command(workspace, "tune", "--yes", "--budget", options.search)
        tuned = find_run(workspace.results, None).run_id
    parts = [*measured(find_run(workspace.results, run))]
    parts += [*searched(find_run(workspace.results, tuned))] if tuned else []
    report = "\n".join(parts)
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


def command(workspace: Workspace, *words: str) -> None:
    """One of ours; a run without a winner that may be published ends with 1."""
    words = (*words, "--workspace", str(workspace.root))
    done = subprocess.run(child_command("workbench", *words), env=child_environment(), stdout=sys.stderr)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)


def measured(folder: RunFolder) -> Iterator[str]:
    """The table of a run, where and with what it was measured, and the environments."""
    info, trials = folder.info(), folder.trials()
    photos = info.validation_images
    yield (
        f"Run {info.run_id} of `{info.name}`, {info.created_at:%Y-%m-%d}: {info.machine.cpu}, "
        f"{info.machine.cores} cores, {platform.system()}, Python {info.machine.python}; "
        f"{with_versions(trials)}. "
        f"{photos} photos; the noise floor, a second copy of the baseline, is {noise(info)}.\n"
    )
    yield from table(HEADINGS, [row(trial) for trial in trials if trial.size_bytes])
    yield from (f"- `{trial.variant}`: {trial.status}, {trial.reason}" for trial in trials if trial.reason)
    variants = [variant for name in RECIPES for variant in recipe.load([recipe.find(name)])]
    needed = dict.fromkeys(each for variant in variants for each in environments_of(variant))
    matter = {name for variant in variants for step in variant.steps for name in step.PACKAGES}
    lines = []
    for environment in needed:
        if (made := environment.made()) is not None:
            there = ", ".join(
                f"{name} {made.packages[name]}" for name in sorted(matter & made.packages.keys())
            )
            lines.append((made.name, f"{made.size_bytes / 1e6:,.0f}", f"{made.seconds:.0f}", there))
    if lines:
        yield "\nThe environments of the converters:\n"
        yield from table(("environment", "MB", "seconds to make", "with"), lines)


def with_versions(trials: list[TrialResult]) -> str:
    """`onnxruntime 1.32.0, litert 2.3.0, …`, as the sessions said."""
    found = {trial.backend: trial.runtime_version for trial in trials if trial.runtime_version}
    return ", ".join(f"{backend} {version}" for backend, version in found.items()) or "no version is known"


def noise(info: RunInfo) -> str:
    return "not known" if info.noise_floor is None else f"{100 * info.noise_floor:.1f} %"


def row(trial: TrialResult) -> tuple[str, ...]:
    parts = [part for part in (trial.accuracy, trial.certification) if part is not None]
    delegation = trial.audit.delegation if trial.audit else None
    outside = ", ".join(f"{count} {name}" for name, count in delegation.outside.items()) if delegation else ""
    return (
        f"`{trial.variant}`",
        f"{(trial.size_bytes or 0) / 1e6:.2f}",
        f"{sum(part.correct for part in parts)} of {sum(part.images for part in parts)}",
        f"{trial.parity.max_abs:.2g}" if trial.parity else "–",
        str(delegation.partitions) if delegation else "–",
        (outside or "nothing") if delegation else "–",
        f"{trial.latency.p50_ns / 1e6:.2f}" if trial.latency else "–",
        faster(trial),
    )


def faster(trial: TrialResult) -> str:
    """`1.04 [1.02, 1.05]`; without an interval where the trial was no finalist."""
    if trial.variant == BASELINE or (ratio := speed(trial)) is None:
        return "1" if trial.variant == BASELINE else "–"
    bounds = ratio.interval if trial.status == "ok" else None
    return f"{ratio.speedup:.2f}" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def searched(folder: RunFolder) -> Iterator[str]:
    """What a search tried for devices, why, and what it chose for each target."""
    found, trials = compare_folder(folder), folder.trials()
    summary = found.info.search
    if summary is None:
        return
    yield (
        f"\nRun {found.info.run_id}, `tune`: {summary.looked} variants looked at in "
        f"{summary.seconds / 60:.0f} minutes, {summary.finalists} measured in full.\n"
    )
    kinds = [
        (
            each.why,
            str(each.tried),
            f"`{each.best}`",
            f"{each.speedup:.2f}",
            f"{points(each.drop)} of {each.images}",
        )
        for each in summary.attempts
    ]
    yield from table(
        ("why it was tried", "variants", "the best", "its speed-up", "points lost, of photos"), kinds
    )
    yield "\nFor devices, each with what a look or the finals saw:\n"
    rows = [(f"`{t.variant}`", *seen(t)) for t in trials if t.backend in RECIPES]
    yield from table(("variant", "speed-up", "points lost", "ended"), rows)
    yield ""
    chosen = {trial.variant: trial for trial in trials}
    for target, variant in found.choices.items():
        yield f"- for {target}: `{variant}`, {faster(chosen[variant])} times the baseline's speed here"


def seen(trial: TrialResult) -> tuple[str, str, str]:
    """Speed-up, points lost and how it ended."""
    if isinstance(trial.cause, NotFinalist):
        return f"{trial.cause.speedup:.2f}", points(trial.cause.drop), "a look was enough"
    drop = points(trial.accuracy.paired.drop) if trial.accuracy else "–"
    return (
        faster(trial),
        drop,
        trial.status if trial.status == "ok" else f"{trial.status}: {trial.reason or 'slower'}",
    )


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    for cells in (headings, ("---",) * len(headings), *rows):
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
