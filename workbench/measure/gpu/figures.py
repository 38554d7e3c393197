"""What a session does on a GPU beyond its latency: without the copies, in batches, and for how much energy.

Back to back in one process, with nothing else computing: figures of a machine, no comparison of variants.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from workbench.backends import Infer, OnDevice, Runtime, Session
from workbench.backends.artifact import Artifact
from workbench.measure.gpu.watch import Watched
from workbench.measure.records import GpuThroughput, GpuUse
from workbench.photos.contract import Batch
from workbench.system.child import ChildError
from workbench.system.nvml import opened_gpu

SIZES = (1, 8, 32, 64)
LONGEST_CALL_S = 1.0  # larger batches would take longer still
STRETCH_S = 0.4  # of calls of one kind
LEAST_CALLS, MOST_CALLS = 5, 500
ENERGY_WARM_S = 0.3  # until the clocks are where they stay
ENERGY_S = 2.0  # the counter moves about ten times a second

Timer = Callable[[], float]


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """Of calls without the copies. how: by what they were taken."""

    p50_ns: float
    how: str


class GpuSubject(Protocol):
    """One launched session on a GPU (`worker.Worker`, or a made-up one in tests)."""

    def device_times(self, size: int) -> DeviceTimes | None: ...
    def gpu_throughput(self, size: int) -> GpuThroughput | None: ...
    def joules(self, size: int) -> float | None: ...


class GpuObserver(Protocol):
    """Reads the GPU meanwhile (`watch.GpuWatch`)."""

    def begin(self) -> None: ...
    def end(self) -> Watched: ...


def sizes_of(artifact: Artifact, runtime: Runtime) -> tuple[int, ...]:
    """The batch sizes to measure that the artifact and its engine take, in ascending order."""
    fixed = artifact.info.input_shape[0]
    if fixed != 0:
        return (fixed,)
    most = runtime.largest_batch or max(*SIZES, runtime.batch)
    return tuple(sorted(size for size in {*SIZES, runtime.batch} if size <= most))


def use_of(
    subject: GpuSubject, known: GpuUse, sizes: Sequence[int], watch: GpuObserver, note: Callable[[str], None]
) -> GpuUse:
    """`known`, and what this session does on the GPU. sizes: from `sizes_of`.

    Ends early, with what was measured, where a batch is refused; note: told why.
    """
    found: dict[str, object] = {}
    speeds: list[GpuThroughput] = []
    watch.begin()
    try:
        if (times := subject.device_times(sizes[0])) is not None:
            found |= {"device_p50_ns": times.p50_ns, "device_how": times.how}
        for size in sizes:
            if (speed := subject.gpu_throughput(size)) is None:
                break
            speeds.append(speed)
        if speeds:
            found["joules"] = subject.joules(speeds[-1].batch)
    except ChildError as error:
        note(error.message)
        # What it takes is known; what it spends on it can still be found, where it is alive.
        if speeds:
            found["joules"] = _joules_after(subject, speeds[-1].batch)
    finally:
        state = watch.end().state
    return known.model_copy(update={**found, "throughput": tuple(speeds), "state": state})


def _joules_after(subject: GpuSubject, size: int) -> float | None:
    try:
        return subject.joules(size)
    except ChildError:
        return None


def device_times(on_device: OnDevice | None, batch: Batch) -> DeviceTimes | None:
    """Times of calls without the copies; None where the runtime has no such call."""
    if on_device is None:
        return None
    return DeviceTimes(median(_on_device(on_device, batch)), on_device.how)


def _on_device(on_device: OnDevice, batch: Batch) -> tuple[int, ...]:
    """Nanoseconds of enough calls to fill STRETCH_S, the first ones left out."""
    typical_s = median(on_device.time(batch, LEAST_CALLS)) / 1e9
    return on_device.time(batch, _calls(typical_s))


def _calls(typical_s: float) -> int:
    return min(max(round(STRETCH_S / max(typical_s, 1e-9)), LEAST_CALLS), MOST_CALLS)


def throughput(session: Session, batch: Batch, clock: Timer = time.perf_counter) -> GpuThroughput | None:
    """Photos a second in calls of this batch, one after the other; None where a call takes too long.

    Raises WorkbenchError where the session does not take the batch.
    """
    session.infer(batch)  # the first call of a size allocates, and may choose kernels
    typical_s = _seconds(session.infer, batch, clock)
    if typical_s > LONGEST_CALL_S:
        return None
    times_s = [_seconds(session.infer, batch, clock) for _ in range(_calls(typical_s))]
    on_device = session.on_device and 1e9 / median(_on_device(session.on_device, batch))
    return GpuThroughput(
        batch=len(batch),
        with_copies=len(batch) / median(times_s),
        on_device=on_device and len(batch) * on_device,
    )


def _seconds(infer: Infer, batch: Batch, clock: Timer) -> float:
    before = clock()
    infer(batch)
    return clock() - before


def joules(infer: Infer, batch: Batch, nvml: Any = None, clock: Timer = time.perf_counter) -> float | None:
    """Energy per photo of calls of this batch, one after the other, by the GPU's own counter.

    Of the whole GPU, with what it takes to be on at all. None where NVML has no counter, or it went back
    (the driver was loaded again). nvml: `pynvml` unless given.
    """
    with opened_gpu(nvml) as gpu:
        if gpu is None or gpu.millijoules() is None:
            return None
        _saturated(infer, batch, ENERGY_WARM_S, clock)
        before = gpu.millijoules()
        calls = _saturated(infer, batch, ENERGY_S, clock)
        after = gpu.millijoules()
    if before is None or after is None or after <= before:
        return None
    return (after - before) / 1e3 / (calls * len(batch))


def _saturated(infer: Infer, batch: Batch, seconds: float, clock: Timer) -> int:
    """Call for this long; how often."""
    until, calls = clock() + seconds, 0
    while clock() < until:
        infer(batch)
        calls += 1
    return calls
