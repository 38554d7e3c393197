"""A run on an NVIDIA GPU as a page of Markdown: what it ran on, and each variant against eager torch in FP32.

    python benchmarks/gpu_summary.py [--workspace DIR] [--run ID] [--output FILE.md]

Reads the run's files and measures nothing. Latency is one photo at a time, host memory to host memory, from
paired rounds of fresh launches; photos a second are of batches of 64, measured once, with the copies.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.backends import Runtime, TorchRuntime
from workbench.errors import WorkbenchError
from workbench.measure.stats import Ratio
from workbench.results.folder import find_run
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import speed
from workbench.system.files import write_atomic
from workbench.workspace.workspace import find

BATCH = 64
TARGETS = {1: 3.0, BATCH: 4.0}  # times eager torch in FP32, on a GPU of the H100's class
LEAST_AGREEMENT = 0.995
TIMED = ("ok", "pruned")

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Against:
    """One variant against the reference. ratio, many: above 1 is faster; None where it was not measured.

    ratio: of one photo's latency, with its 95 % interval. many: of photos a second in batches of BATCH.
    """

    trial: TrialResult
    ratio: float | None
    interval: Interval | None
    many: float | None

    @property
    def agreement(self) -> float | None:
        return self.trial.parity.top1_agreement if self.trial.parity else None

    @property
    def agrees(self) -> bool:
        return self.agreement is not None and self.agreement >= LEAST_AGREEMENT


def is_reference(runtime: Runtime | None) -> bool:
    """Eager torch in exact FP32 on a GPU."""
    return (
        isinstance(runtime, TorchRuntime)
        and runtime.device == "cuda"
        and runtime.computes == "f32"
        and not runtime.compile
        and not runtime.cuda_graph
        and runtime.batch == 1
    )


def reference_of(info: RunInfo, trials: Sequence[TrialResult]) -> TrialResult | None:
    """None where none was measured."""
    for trial in trials:
        if trial.status in TIMED and trial.latency and is_reference(info.runtimes.get(trial.variant)):
            return trial
    return None


def against(trial: TrialResult, reference: TrialResult) -> Against:
    ratio, interval = _ratio(trial, reference)
    mine, its = photos_per_s(trial), photos_per_s(reference)
    return Against(trial, ratio, interval, mine / its if mine and its else None)


def _ratio(trial: TrialResult, reference: TrialResult) -> tuple[float | None, Interval | None]:
    mine, its = speed(trial), speed(reference)
    if mine is None or its is None or trial.latency is None or reference.latency is None:
        return None, None
    together = trial.latency.confirmed == reference.latency.confirmed
    if together and len(mine.log_ratios) == len(its.log_ratios):
        # The same rounds: what disturbed one disturbed the other.
        pairs = zip(mine.log_ratios, its.log_ratios, strict=True)
        paired = Ratio(tuple(a - b for a, b in pairs))
        return paired.speedup, paired.interval
    ratio = math.exp(mine.log_speedup - its.log_speedup)
    if mine.interval is None or its.interval is None:
        return ratio, None
    # Other rounds, so the two intervals are added: wider than need be, never narrower.
    return ratio, (mine.interval[0] / its.interval[1], mine.interval[1] / its.interval[0])


def photos_per_s(trial: TrialResult, batch: int = BATCH) -> float | None:
    """With the copies, in batches of exactly this size; None where that was not measured."""
    found = [made.with_copies for made in (trial.gpu.throughput if trial.gpu else ()) if made.batch == batch]
    return found[0] if found else None


def summary(info: RunInfo, trials: Sequence[TrialResult]) -> str:
    """The whole page."""
    on_gpu = [trial for trial in trials if trial.device == "cuda"]
    reference = reference_of(info, trials)
    return (
        "\n".join(
            [
                f"# GPU run {info.run_id}",
                "",
                *_where(info, on_gpu),
                "",
                *_answer(on_gpu, reference),
                "",
                *_table(on_gpu, reference),
                *_state(on_gpu),
                *_absent(on_gpu),
            ]
        ).rstrip()
        + "\n"
    )


def _where(info: RunInfo, trials: Sequence[TrialResult]) -> Iterator[str]:
    gpu = info.conditions.gpu if info.conditions else None
    memory = f", {gpu.memory_bytes / 2**30:.0f} GiB" if gpu and gpu.memory_bytes else ""
    name = f"{gpu.name}{memory}" if gpu else ", ".join(info.machine.gpus) or "none was measured on"
    engines = sorted({t.gpu.engine.bound_to for t in trials if t.gpu and t.gpu.engine})
    limit = ""
    if gpu and gpu.power_limit_w and gpu.default_power_w and gpu.power_limit_w < gpu.default_power_w:
        limit = f" (lowered from {gpu.default_power_w:.0f} W)"
    yield "| | |"
    yield "| --- | --- |"
    yield f"| GPU | {name} |"
    yield f"| driver | {gpu.driver if gpu else 'not told'} |"
    if gpu and gpu.power_limit_w:
        yield f"| power limit | {gpu.power_limit_w:.0f} W{limit} |"
    yield f"| date | {info.created_at:%Y-%m-%d %H:%M} UTC |"
    yield f"| host | {info.machine.cpu}, {info.machine.system}, Python {info.machine.python} |"
    yield f"| versions | {', '.join(f'{k} {v}' for k, v in sorted(info.libraries.items()))} |"
    if engines:
        yield f"| engines for | {'; '.join(engines)} |"
    data = " (synthetic photos)" if info.synthetic else ""
    yield f"| network | {info.name}, input {info.preprocess.crop} px, {info.validation_images} photos{data} |"


def _answer(trials: Sequence[TrialResult], reference: TrialResult | None) -> Iterator[str]:
    """The best variant at one photo and at BATCH, beside the targets."""
    if reference is None:
        yield (
            "Eager torch in FP32 on the GPU was not measured, so there is nothing to hold the others "
            "against: run `torch-cuda` with a CUDA build of torch."
        )
        return
    found = [
        against(trial, reference) for trial in trials if trial.status in TIMED and trial is not reference
    ]
    for batch, target in TARGETS.items():
        best = _best(found, batch)
        if best is None:
            yield (
                f"- batch {batch}: no variant was measured that agrees with FP32 on "
                f"{100 * LEAST_AGREEMENT:.1f} % of the photos."
            )
            continue
        ratio = best.ratio if batch == 1 else best.many
        assert ratio is not None and best.agreement is not None
        verdict = "met" if ratio >= target else "missed"
        yield (
            f"- batch {batch}: `{best.trial.variant}` is {ratio:.2f} times as fast as `{reference.variant}` "
            f"(target {target:g}: {verdict}) and agrees with FP32 on {100 * best.agreement:.2f} % of the "
            "photos."
        )


def _best(found: Sequence[Against], batch: int) -> Against | None:
    """The fastest of those that agree with FP32."""

    def ratio(one: Against) -> float | None:
        return one.ratio if batch == 1 else one.many

    return max(
        (one for one in found if one.agrees and ratio(one) is not None),
        key=lambda one: ratio(one) or 0.0,
        default=None,
    )


COLUMNS = (
    "variant", "p50 ms", "on the device ms", "× batch 1", "95 %", f"photos/s at {BATCH}", f"× batch {BATCH}",
    "agreement %", "mJ/photo", "GPU MB", "what ran",
)  # fmt: skip


def _table(trials: Sequence[TrialResult], reference: TrialResult | None) -> Iterator[str]:
    timed = [trial for trial in trials if trial.status in TIMED and trial.latency]
    if not timed:
        return
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"| --- |{' ---: |' * (len(COLUMNS) - 2)} --- |"
    for trial in timed:
        one = against(trial, reference) if reference else Against(trial, None, None, None)
        yield f"| {' | '.join(_cells(one))} |"
    yield ""


def _cells(one: Against) -> tuple[str, ...]:
    trial, gpu = one.trial, one.trial.gpu
    assert trial.latency is not None
    low_high = f"{one.interval[0]:.2f} to {one.interval[1]:.2f}" if one.interval else ""
    return (
        trial.variant + (" (pruned)" if trial.status == "pruned" else ""),
        f"{trial.latency.p50_ns / 1e6:.3f}",
        _shown(gpu.device_p50_ns / 1e6 if gpu and gpu.device_p50_ns else None, 3),
        _shown(one.ratio, 2),
        low_high,
        _shown(photos_per_s(trial), 0),
        _shown(one.many, 2),
        _shown(100 * one.agreement if one.agreement is not None else None, 2),
        _shown(1e3 * gpu.joules if gpu and gpu.joules is not None else None, 1),
        _shown(gpu.memory_bytes / 1e6 if gpu and gpu.memory_bytes is not None else None, 0)
        + (" (whole GPU)" if gpu and gpu.whole_gpu and gpu.memory_bytes is not None else ""),
        (trial.audit.verdict if trial.audit else "").replace("|", "/"),
    )


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _state(trials: Sequence[TrialResult]) -> Iterator[str]:
    """What the GPU did meanwhile: without it no speed can be read."""
    states = [trial.gpu.state for trial in trials if trial.gpu and trial.gpu.state]
    if not states:
        return
    clocks = [clock for state in states if state.sm_mhz for clock in state.sm_mhz]
    degrees = [state.celsius for state in states if state.celsius is not None]
    told = [state.throttled for state in states if state.throttled is not None]
    reasons = sorted({reason for throttled in told for reason in throttled})
    others = max((state.others for state in states if state.others is not None), default=None)
    if clocks:
        yield f"- SM clock {min(clocks)} to {max(clocks)} MHz while measuring; no clock was set."
    if degrees:
        yield f"- at most {max(degrees)} °C."
    if told:
        yield (
            f"- clocks were lowered by: {', '.join(reasons)}." if reasons else "- nothing lowered the clocks."
        )
    if others:
        yield f"- up to {others} other processes were on the GPU: its figures are theirs too."
    yield ""


def _absent(trials: Sequence[TrialResult]) -> Iterator[str]:
    absent = [trial for trial in trials if trial.status in ("skipped", "failed")]
    if absent:
        yield "Not measured:"
        yield ""
    for trial in absent:
        yield f"- {trial.status} `{trial.variant}`: {' '.join((trial.reason or 'no reason given').split())}"


def state_of(recipe: str, trials: Sequence[TrialResult]) -> tuple[str, str]:
    """`passed`, `skipped` or `failed`, and how many trials of a recipe ended how, with a first reason."""
    of_it = [trial for trial in trials if trial.recipe == recipe]
    counts = Counter(trial.status for trial in of_it)
    said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    bad = [trial for trial in of_it if trial.status == "failed"]
    absent = [trial for trial in of_it if trial.status == "skipped"]
    reason = next((f": {trial.variant}: {trial.reason}" for trial in [*bad, *absent]), "")
    state = "failed" if bad or not of_it else "skipped" if len(absent) == len(of_it) else "passed"
    return state, (said or "no trial") + " ".join(reason.split("\n"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A run on an NVIDIA GPU as a page of Markdown.")
    parser.add_argument("--workspace", type=Path, help="default: as `krishi-bench run` finds it from here")
    parser.add_argument("--run", metavar="ID", help="default: the latest")
    parser.add_argument("--recipes", nargs="*", default=(), help="say how each ended, on the standard output")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="default: the standard output")
    options = parser.parse_args(arguments)
    try:
        run = find_run(find(options.workspace, Path.cwd()).results, options.run)
        trials = run.trials()
        text = summary(run.info(), trials)
    except WorkbenchError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    for recipe in options.recipes:
        print(recipe, *state_of(recipe, trials), sep="\t")
    if options.output is None:
        sys.stdout.write(text)
    else:
        write_atomic(options.output, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
