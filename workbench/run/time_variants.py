"""Timing the variants that passed: a race that drops those that cannot win, then the finalists once more.

The fastest of many was partly lucky, so the winner, the runner-up and the baseline are measured again in
fresh rounds, and those are the numbers published.
"""

import io
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import median

from workbench.errors import WorkbenchError, plural
from workbench.measure import samples
from workbench.measure.gpu.figures import sizes_of
from workbench.measure.gpu.watch import GpuWatch, gpu_conditions
from workbench.measure.host_watch import HostWatch, conditions
from workbench.measure.latency import Lineup, Measured, Plan, measure, noise_floor
from workbench.measure.records import BASELINE, FINAL, RACE, TWIN, GpuUse, WholePath
from workbench.measure.worker import Worker, use_of
from workbench.photos.decode import decode
from workbench.results.history import with_latency
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import choose, ranked, untimed_shortfalls
from workbench.run.check_variant import Context
from workbench.system.child import ChildError
from workbench.system.files import exclusive
from workbench.system.machine import available_cpus
from workbench.system.progress import Progress
from workbench.system.spans import Stage

FINAL_SHARE = 0.3  # of the time budget
FINAL_ROUNDS = 12  # at most
SATURATE_S = 0.3
SATURATE_TIMES = 3
LARGE = 1000  # pixels; photos of phones are 4:3, those of data sets mostly square
GPU_USE_S = 120.0  # for the GPU figures of those that are no finalists
STAGES: dict[str, Stage] = {RACE: "race", FINAL: "final"}
PATHS = (("256 px", 256, 15), ("12 megapixels, enlarged", 3000, 5))  # name, shorter side, times walked


def time_all(
    context: Context, info: RunInfo, trials: Sequence[TrialResult], plan: Plan
) -> tuple[list[TrialResult], RunInfo]:
    """Time the variants against the baseline and measure the finalists again.

    Returns the trials with their latency, or why they have none, and what was learnt of the machine. Raises
    WorkbenchError where the baseline fails. The raw samples are saved whatever happens.
    """
    with ExitStack() as stack:
        with context.spans.span("waiting"):
            stack.enter_context(
                exclusive(context.job.cache / "timing.lock", partial(_report_waiting, context))
            )
        return _time_all(context, info, trials, plan)


def _report_waiting(context: Context) -> None:
    context.report(Progress("waiting", 0, 0, "for another run on this machine to finish timing"))


def _time_all(
    context: Context, info: RunInfo, trials: Sequence[TrialResult], plan: Plan
) -> tuple[list[TrialResult], RunInfo]:
    sessions: dict[str, Measured] = {}
    names = [trial.variant for trial in trials]
    contenders = [t.variant for t in trials if _may_win(t, info)]
    try:
        race = replace(plan, budget_s=plan.budget_s * (1 - FINAL_SHARE))
        _session(context, sessions, RACE, names, contenders, race, later_s=plan.budget_s - race.budget_s)
        raced = with_latency(trials, sessions)
        gpu = gpu_conditions() if any(_on_gpu(context, name) for name in names) else None
        info = _about(info, sessions).model_copy(update={"conditions": conditions(gpu=gpu)})
        finalists = _finalists(info, raced)
        rounds, budget_s = min(plan.rounds, FINAL_ROUNDS), plan.budget_s * FINAL_SHARE
        final = replace(plan, budget_s=budget_s, rounds=rounds, seed=plan.seed + 1, insist=True)
        _session(context, sessions, FINAL, finalists, (), final)
    finally:
        samples.save(sessions, context.folder.path / "latency.parquet")
    timed = with_latency(trials, sessions)
    try:
        timed = _with_extras(context, finalists, timed)
    except ChildError as error:
        # All that was timed counts without these figures.
        context.report(Progress("failed", 0, 0, f"throughput and whole path: {error.message}"))
    return _with_gpu_use(context, finalists, timed), _about(info, sessions)


def _on_gpu(context: Context, variant: str) -> bool:
    return context.runtimes[variant].device == "cuda"


def _may_win(trial: TrialResult, info: RunInfo) -> bool:
    """Whether speed still matters for this trial; under another objective it drops none."""
    return (
        info.budget.objective == "latency"
        and info.runtimes[trial.variant].batch == 1
        and not untimed_shortfalls(trial, info)
    )


def _session(
    context: Context,
    sessions: dict[str, Measured],
    session: str,
    names: Sequence[str],
    contenders: Sequence[str],
    plan: Plan,
    *,
    later_s: float = 0.0,
) -> None:
    """One session over the named variants and the second copy of the baseline, added to `sessions`.
    later_s: what the sessions after it may take."""
    runtimes = {name: context.runtimes[name] for name in names}
    runtimes[TWIN] = runtimes[BASELINE]
    # One set of processors for all, so that none is compared on a quieter one.
    cpus = available_cpus()[-max(runtime.intra_threads for runtime in runtimes.values()) :]
    # Where nothing runs on a GPU, nothing of NVIDIA's is touched.
    gpu = GpuWatch() if any(_on_gpu(context, name) for name in names) else None
    batch_sizes = {name: runtime.batch for name, runtime in runtimes.items() if runtime.batch > 1}
    lineup = Lineup(list(runtimes), BASELINE, TWIN, contenders, batch_sizes)
    measured = sessions[session] = Measured()

    def launch(name: str) -> Worker:
        return context.worker(BASELINE if name == TWIN else name, cpus)

    def report(progress: Progress) -> None:
        what = f"{session} of {plural(len(names), 'variant')}, rounds at most"
        context.report(replace(progress, what=what, left_s=(progress.left_s or 0.0) + later_s))

    with context.spans.span(STAGES[session]):
        measure(lineup, launch, plan, watch=HostWatch(cpus, gpu=gpu), report=report, into=measured)
    if (reason := measured.failed.get(BASELINE)) is not None:
        raise WorkbenchError(f"the baseline failed while it was timed: {reason}")


def _about(info: RunInfo, sessions: Mapping[str, Measured]) -> RunInfo:
    """What the sessions tell about the machine. The noise floor is the larger of theirs."""
    floors = [noise_floor(measured) for measured in sessions.values()]
    known = [floor for floor in floors if floor is not None]
    return info.model_copy(
        update={
            "noise_floor": max(known) if known else None,
            "environments": tuple(e for measured in sessions.values() for e in measured.environments),
            "repeated_rounds": sum(len(measured.unused) for measured in sessions.values()),
            "timing_end": {name: measured.ended for name, measured in sessions.items() if measured.ended},
        }
    )


def _finalists(info: RunInfo, raced: Sequence[TrialResult]) -> list[str]:
    """The winner of the race, the runner-up and the baseline; the baseline alone where nothing fits."""
    winner = choose(info, raced)
    others = [t for t in ranked(info, raced) if winner is not None and t.variant != winner.variant]
    names = [BASELINE, *([winner.variant] if winner else []), *[t.variant for t in others[:1]]]
    return list(dict.fromkeys(names))


def _with_extras(
    context: Context, finalists: Sequence[str], trials: Sequence[TrialResult]
) -> list[TrialResult]:
    """The finalists with their throughput on all processors and the cost of the whole path of a photo."""
    photos = [(_resized_jpeg(context, side), name, times) for name, side, times in PATHS]
    ips: dict[str, list[float]] = {name: [] for name in finalists}
    walks: dict[str, tuple[WholePath, ...]] = {}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(context.worker(name)) for name in finalists}
        for worker in workers.values():
            worker.ready()
            worker.warm_up()
        for number in range(SATURATE_TIMES):
            context.report(Progress("throughput and whole path", number, SATURATE_TIMES + 1))
            for name, worker in workers.items():
                ips[name].append(worker.saturate(SATURATE_S))
        for name, worker in workers.items():
            walks[name] = tuple(worker.walk_path(*photo) for photo in photos)
    figures = {name: {"saturated_ips": median(ips[name]), "whole_path": walks[name]} for name in walks}
    return [trial.model_copy(update=figures.get(trial.variant, {})) for trial in trials]


def _with_gpu_use(
    context: Context, finalists: Sequence[str], trials: Sequence[TrialResult]
) -> list[TrialResult]:
    """The trials with what they do on the GPU: the finalists, and the fastest others while there is time."""
    timed = [trial for trial in trials if _on_gpu(context, trial.variant) and trial.latency is not None]
    timed.sort(key=lambda t: (t.variant not in finalists, t.latency.p50_ns if t.latency else 0))
    began = time.monotonic()
    figures: dict[str, dict[str, GpuUse]] = {}
    for number, trial in enumerate(timed):
        if trial.variant not in finalists and time.monotonic() - began > GPU_USE_S:
            left = ", ".join(t.variant for t in timed[number:])
            context.report(Progress("left out", 0, 0, f"figures of the GPU, for want of time: {left}"))
            break
        context.report(Progress("measuring on the GPU", number, len(timed), trial.variant))
        try:
            figures[trial.variant] = {"gpu": _gpu_use(context, trial)}
        except ChildError as error:
            # All that was timed counts without these figures.
            _gpu_failed(context, trial.variant, error.message)
    return [trial.model_copy(update=figures.get(trial.variant, {})) for trial in trials]


def _gpu_use(context: Context, trial: TrialResult) -> GpuUse:
    """In a process of its own, with nothing else computing. Raises ChildError where it does not open."""
    name = trial.variant
    with context.worker(name) as worker:
        worker.ready()
        worker.warm_up()
        return use_of(
            worker,
            trial.gpu or GpuUse(),
            sizes_of(context.built[name].artifact, context.runtimes[name]),
            GpuWatch(),
            lambda problem: _gpu_failed(context, name, problem),
        )


def _gpu_failed(context: Context, variant: str, problem: str) -> None:
    context.report(Progress("failed", 0, 0, f"figures of the GPU for {variant}: {problem}"))


def _resized_jpeg(context: Context, shorter_side: int) -> bytes:
    """A validation photo as a JPEG whose shorter side has this many pixels, 4:3 where it is a large one."""
    from PIL import Image

    image = decode(context.prepared.validation.paths[0].read_bytes())
    size = (shorter_side, shorter_side) if shorter_side < LARGE else (shorter_side * 4 // 3, shorter_side)
    target = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
    return target.getvalue()
