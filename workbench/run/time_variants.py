"""Timing the variants that passed: a race that drops those that cannot win, then the finalists once more.

The fastest of many was partly lucky, so the winner, the runner-up and the baseline are measured again in
fresh rounds, and those are the numbers published. How many rounds is fixed before the first of them.
"""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from workbench.backends import targets_of
from workbench.errors import WorkbenchError, plural
from workbench.measure import samples
from workbench.measure.early_stopping import rounds_needed
from workbench.measure.gpu.figures import sizes_of
from workbench.measure.gpu.watch import GpuWatch, gpu_conditions
from workbench.measure.heat_launchers import HeatLaunchers
from workbench.measure.host_watch import HostWatch, conditions
from workbench.measure.latency import Lineup, Measured, Plan, log_ratios, measure, noise_floor
from workbench.measure.records import BASELINE, FINAL, RACE, TWIN, GpuUse
from workbench.measure.worker import Worker, use_of
from workbench.results.history import with_latency
from workbench.results.records import RunInfo, TrialResult
from workbench.results.targets import bound_for
from workbench.results.verdict import PRECISE, choose, ranked, untimed_shortfalls, winner_for
from workbench.results.versions import siblings
from workbench.run.check_variant import Context
from workbench.run.extras import candidates, saturated, with_extras
from workbench.run.memory import fitted, heats_ahead, needs_of, together, with_room
from workbench.system.child import ChildError
from workbench.system.files import exclusive
from workbench.system.launcher import end_shared_launcher
from workbench.system.machine import available_cpus
from workbench.system.progress import Progress
from workbench.system.spans import Stage

FINAL_SHARE = 0.3  # of the time budget, at least
RACE_ROUNDS = 0.4  # of the rounds
RACE_LONGEST_S = 0.2  # of `Plan.longest_s`: a race has many variants, and more rounds for their percentiles
UNRACED_ROUNDS = 0.3  # of a final without a race, where nothing is known beforehand
FINALISTS = 3  # of no more variants, all are finalists, and there is no race
GPU_USE_S = 120.0  # for the GPU figures of those that are no finalists
STAGES: dict[str, Stage] = {RACE: "race", FINAL: "final"}


def time_all(
    context: Context, info: RunInfo, trials: Sequence[TrialResult], plan: Plan
) -> tuple[list[TrialResult], RunInfo]:
    """Time the variants against the baseline and measure the finalists again.

    Returns the trials with their latency, or why they have none, and what was learnt of the machine. Raises
    WorkbenchError where the baseline fails. The raw samples are saved whatever happens.
    """
    with timing_lock(context):
        return _time_all(context, info, trials, plan)


@contextmanager
def timing_lock(context: Context) -> Iterator[None]:
    """While the block runs, no other run on this machine times anything."""
    end_shared_launcher()  # its memory is the variants'
    with ExitStack() as stack:
        with context.spans.span("waiting"):
            lock = context.job.cache / "timing.lock"
            stack.enter_context(exclusive(lock, partial(_report_waiting, context)))
        yield


def time_together(
    context: Context, info: RunInfo, trials: Sequence[TrialResult], plan: Plan
) -> tuple[list[TrialResult], RunInfo]:
    """Time the trials in one session, all rounds for all of them, so that none is dropped or chosen.

    Call it within `timing_lock`. Returns and raises as `time_all` does.
    """
    plan, needs = with_room(plan), needs_of(context, trials)
    trials = fitted(trials, needs, plan.memory_bytes or 0)
    names = [trial.variant for trial in trials if trial.status == "ok"]
    gpu = gpu_conditions() if any(_on_gpu(context, name) for name in names) else None
    info = info.model_copy(update={"conditions": conditions(gpu=gpu)})
    sessions: dict[str, Measured] = {}
    try:
        _session(context, sessions, FINAL, names, (), plan, needs)
    finally:
        samples.save(sessions, context.folder.path / "latency.parquet")
    return with_latency(trials, sessions), _about(info, sessions)


def _report_waiting(context: Context) -> None:
    context.report(Progress("waiting", 0, 0, "for another run on this machine to finish timing"))


def _time_all(
    context: Context, info: RunInfo, trials: Sequence[TrialResult], plan: Plan
) -> tuple[list[TrialResult], RunInfo]:
    sessions: dict[str, Measured] = {}
    plan, needs = with_room(plan), needs_of(context, trials)
    room = plan.memory_bytes or 0
    trials, at_once = fitted(trials, needs, room), together(needs, room)
    names = [trial.variant for trial in trials if trial.status == "ok"]
    final = with_rounds(plan, UNRACED_ROUNDS)
    finalists, began = names, time.monotonic()
    try:
        if len(names) > FINALISTS:
            race = race_of(plan)
            contenders = [t.variant for t in trials if _may_win(t, info)]
            kept = siblings(trials, info.runtimes)  # to the end: what an upgrade costs is the question
            later_s = plan.budget_s - race.budget_s
            _session(context, sessions, RACE, names, contenders, race, needs, kept=kept, later_s=later_s)
            raced, left_s = sessions[RACE], plan.budget_s - (time.monotonic() - began)
            if info.budget.objective == "throughput":
                # Before the finalists are chosen, by it; theirs is measured again after them.
                named = candidates(info, with_latency(trials, sessions))
                trials = saturated(context, trials, named, budget_s=plan.budget_s, together=at_once)
            finalists = _finalists(_about(info, sessions), with_latency(trials, sessions))
            finalists = _affordable(finalists, raced, plan, left_s)
            rounds = _final_rounds(finalists, raced, plan)
            final = replace(plan, budget_s=left_s, rounds=rounds, seed=plan.seed + 1)
        gpu = gpu_conditions() if any(_on_gpu(context, name) for name in names) else None
        info = info.model_copy(update={"conditions": conditions(gpu=gpu)})
        _session(context, sessions, FINAL, finalists, (), final, needs)
    finally:
        samples.save(sessions, context.folder.path / "latency.parquet")
    timed = with_latency(trials, sessions)
    timing_s = time.monotonic() - began
    timed = with_extras(
        context, finalists, timed, timing_s=timing_s, allowed_s=plan.budget_s, together=at_once
    )
    return _with_gpu_use(context, finalists, timed), _about(info, sessions)


def race_of(plan: Plan) -> Plan:
    """The race that goes before a final."""
    race_s = plan.budget_s * (1 - FINAL_SHARE)
    race = with_rounds(plan, RACE_ROUNDS)
    return replace(race, budget_s=race_s, insist=False, longest_s=RACE_LONGEST_S)


def with_rounds(plan: Plan, share: float) -> Plan:
    """With this share of its rounds, and the fewest at least."""
    return replace(plan, rounds=max(plan.least, math.ceil(share * plan.rounds)))


def _on_gpu(context: Context, variant: str) -> bool:
    return context.runtimes[variant].device == "cuda"


def _may_win(trial: TrialResult, info: RunInfo) -> bool:
    """Whether speed still matters for this trial; under another objective it drops none. What no server opens
    must not drop what one does."""
    return (
        info.budget.objective == "latency"
        and ("server" not in info.targets or "server" in targets_of(trial.backend))
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
    needs: Mapping[str, int],
    *,
    kept: Collection[str] = (),
    later_s: float = 0.0,
) -> None:
    """One session over the named variants and the second copy of the baseline, added to `sessions`.
    needs: bytes of memory, by variant. kept: not dropped. later_s: what the sessions after it may take."""
    runtimes = {name: context.runtimes[name] for name in names}
    runtimes[TWIN] = runtimes[BASELINE]
    # One set of processors for all, so that none is compared on a quieter one.
    cpus = available_cpus()[-max(runtime.intra_threads for runtime in runtimes.values()) :]
    # Where nothing runs on a GPU, nothing of NVIDIA's is touched.
    gpu = GpuWatch() if any(_on_gpu(context, name) for name in names) else None
    batch_sizes = {name: runtime.batch for name, runtime in runtimes.items() if runtime.batch > 1}
    lineup = Lineup(list(runtimes), BASELINE, TWIN, contenders, batch_sizes, needs, kept)
    measured = sessions[session] = Measured()
    ahead = heats_ahead([needs.get(name, 0) for name in runtimes], plan.memory_bytes)
    launchers = HeatLaunchers(runtimes.values(), context.folder.log("launcher"), ahead=ahead)

    def launch(name: str) -> Worker:
        return context.worker(BASELINE if name == TWIN else name, cpus, launchers)

    def report(progress: Progress) -> None:
        what = f"{session} of {plural(len(names), 'variant')}, rounds at most"
        context.report(replace(progress, what=what, left_s=(progress.left_s or 0.0) + later_s))

    with context.spans.span(STAGES[session]), launchers:
        watch = HostWatch(cpus, gpu=gpu)
        measure(lineup, launch, plan, watch=watch, report=report, heat=launchers.heat, into=measured)
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
    """The winner of the race and the runner-up among what a server opens, the choice for each device, and the
    baseline; the baseline alone where nothing fits."""
    there = bound_for("server", raced) if "server" in info.targets else raced
    winner = choose(info, there)
    others = [t for t in ranked(info, there) if winner is not None and t.variant != winner.variant]
    chosen = [winner, *others[:1], *(winner_for(info, raced, t) for t in info.targets if t != "server")]
    names = [trial.variant for trial in chosen if trial is not None and trial.status == "ok"]
    return list(dict.fromkeys([BASELINE, *names]))


def _affordable(finalists: list[str], race: Measured, plan: Plan, left_s: float) -> list[str]:
    """Without the runner-up where the fewest rounds would take longer than the time left."""
    launches = len(finalists) + 1  # and the second copy of the baseline
    return finalists[: FINALISTS - 1] if plan.least * launches * race.launch_s > left_s else finalists


def _final_rounds(finalists: Sequence[str], race: Measured, plan: Plan) -> int:
    """Enough for intervals half as wide as a speed must be known to, as far as the race shows the spread."""
    ratios = log_ratios(race, BASELINE)
    spread = [list(ratios.get(name, {}).values()) for name in finalists if name != BASELINE]
    return rounds_needed(spread, math.log1p(PRECISE / 2), least=plan.least, most=plan.rounds)


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
