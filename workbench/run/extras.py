"""What is measured after the latencies: photos a second at saturation, fresh launches, the whole path."""

import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import cast

from workbench.measure.readings import Readings, typical
from workbench.measure.records import BASELINE, WholePath
from workbench.measure.saturated_launches import Launched, SaturatedLaunches
from workbench.measure.worker import Worker
from workbench.photos.decode import decode
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import SEEN, untimed_shortfalls
from workbench.run.check_variant import Context
from workbench.system.child import ChildError
from workbench.system.progress import Progress

STAGE = "throughput and whole path"
SHARE = 0.25  # of the time that timing took, at most, where nothing is to be won by throughput
LARGE = 1000  # pixels; photos of phones are 4:3, those of data sets mostly square
PATHS = (("256 px", 256, 15), ("12 megapixels, enlarged", 3000, 5))  # name, shorter side, times walked


def with_extras(
    context: Context,
    finalists: Collection[str],
    trials: Sequence[TrialResult],
    *,
    timing_s: float,
    allowed_s: float,
    together: int,
) -> list[TrialResult]:
    """The trials with the throughput and the readings of fresh launches: of the finalists, and of all that
    differ from the baseline in batch or threads; of the finalists with the whole path of a photo as well.

    timing_s: what the timing took, of allowed_s, its time budget. together: variants that fit into memory
    beside the baseline. All that was timed counts without these figures, where a launch fails.
    """
    names = [t.variant for t in trials if t.variant in finalists or _compares(context, t)]
    by_throughput = context.info.budget.objective == "throughput"
    asked = by_throughput or any(name not in finalists for name in names)
    budget_s = min(allowed_s, timing_s * (1 if asked else SHARE))
    photos = [(_resized_jpeg(context, side), name, times) for name, side, times in PATHS]
    walked: dict[str, tuple[WholePath, ...]] = {}

    def walk(name: str, worker: Worker) -> None:
        if name in finalists and name not in walked:
            walked[name] = tuple(worker.walk_path(*photo) for photo in photos)

    trials = saturated(context, trials, names, budget_s=budget_s, together=together, finish=walk)
    for name in finalists:
        if name not in walked:
            _walk_alone(context, name, walk)
    return [
        trial.model_copy(update={"whole_path": walked.get(trial.variant, ())})
        if trial.variant in finalists
        else trial
        for trial in trials
    ]


def candidates(info: RunInfo, trials: Sequence[TrialResult]) -> list[str]:
    """The variants that may win by throughput."""
    return [t.variant for t in trials if t.latency is not None and not untimed_shortfalls(t, info)]


def _compares(context: Context, trial: TrialResult) -> bool:
    """Whether its batch or threads are the point of it, and no objective has had it measured before."""
    own, plain = context.runtimes[trial.variant], context.runtimes[BASELINE]
    if own.device != "cpu" or trial.status not in SEEN or trial.latency is None or trial.saturated_log_ratios:
        return False
    return (own.batch, own.sessions) != (plain.batch, plain.sessions)


def saturated(
    context: Context,
    trials: Sequence[TrialResult],
    names: Collection[str],
    *,
    budget_s: float,
    together: int,
    finish: Callable[[str, Worker], None] = lambda _name, _worker: None,
) -> list[TrialResult]:
    """The trials with the throughput of the named ones, in turns with the baseline, and their readings.

    finish: see `SaturatedLaunches`.
    """
    readings: dict[str, list[_Reading]] = {}

    def read(name: str, launched: Launched) -> None:
        readings.setdefault(name, []).append(_Reading.of(cast(Worker, launched), context))

    def report(made: int, asked: int) -> None:
        context.report(Progress(STAGE, made, asked + 1))

    def end(name: str, launched: Launched) -> None:
        finish(name, cast(Worker, launched))

    launches = SaturatedLaunches(BASELINE, context.worker, read, report, end, together=together)
    try:
        launches.measure([trial.variant for trial in trials if trial.variant in names], budget_s)
    except ChildError as error:
        launches.failed[BASELINE] = error.message
    for name, message in launches.failed.items():
        context.report(Progress("failed", 0, 0, f"{STAGE} of {name}: {message}"))
    found = []
    for trial in trials:
        fields = _read_fields(trial, readings.get(trial.variant, ()))
        if (rates := launches.found.get(trial.variant)) is not None and trial.variant in names:
            fields |= {"saturated_ips": median(rates.ips), "saturated_log_ratios": tuple(rates.log_ratios)}
        found.append(trial.model_copy(update=fields))
    return found


@dataclass(frozen=True, slots=True)
class _Reading:
    """load_s, cold_start_s: None of a launch that built the engine it runs."""

    load_s: float | None
    cold_start_s: float | None
    peak_memory_bytes: int
    steady_memory_bytes: int

    @classmethod
    def of(cls, worker: Worker, context: Context) -> "_Reading":
        opened = worker.describe()
        built_now = opened.engine is not None and opened.engine.build_s is not None
        memory, empty = worker.memory(), context.empty_worker
        return cls(
            None if built_now else opened.load_s,
            None if built_now else opened.cold_start_s,
            max(0, memory.peak_bytes - empty.peak_bytes),
            max(0, memory.steady_bytes - empty.steady_bytes),
        )


def _read_fields(trial: TrialResult, launches: Sequence[_Reading]) -> dict[str, object]:
    """The readings of these launches after those that the trial has, and their medians."""
    if not launches:
        return {}
    fields: dict[str, object] = {}
    read: dict[str, tuple[float, ...]] = {}
    for name in Readings.model_fields:
        single = getattr(trial, name)
        known = getattr(trial.readings, name) if trial.readings else () if single is None else (single,)
        values = (getattr(launch, name) for launch in launches)
        read[name] = (*known, *(value for value in values if value is not None))
        if read[name]:
            fields[name] = typical(read[name])
    return {**fields, "readings": Readings.model_validate(read)}


def _walk_alone(context: Context, variant: str, walk: Callable[[str, Worker], None]) -> None:
    """In a process of its own. All that was measured counts without the whole path, where it fails."""
    try:
        with context.worker(variant) as worker:
            worker.ready()
            worker.warm_up()
            walk(variant, worker)
    except ChildError as error:
        context.report(Progress("failed", 0, 0, f"the whole path of {variant}: {error.message}"))


def _resized_jpeg(context: Context, shorter_side: int) -> bytes:
    """A validation photo as a JPEG whose shorter side has this many pixels, 4:3 where it is a large one."""
    from PIL import Image

    image = decode(context.prepared.validation.paths[0].read_bytes())
    size = (shorter_side, shorter_side) if shorter_side < LARGE else (shorter_side * 4 // 3, shorter_side)
    target = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
    return target.getvalue()
