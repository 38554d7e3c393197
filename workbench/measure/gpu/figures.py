"""Figures of a session on a GPU beyond its latency: without the copies, in batches, and the energy per photo.

Calls are made back to back in one process, with nothing else computing: no comparison of variants.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from workbench.backends import Infer, OnDevice, Runtime, Session
from workbench.backends.artifact import Artifact
from workbench.measure.records import GpuThroughput
from workbench.photos.contract import Batch
from workbench.system.nvml import opened_gpu

SIZES = (1, 8, 32, 64)  # photos a call
LONGEST_CALL_S = 1.0  # larger batches would take longer still
STRETCH_S = 0.4  # of calls of one kind
LEAST_CALLS, MOST_CALLS = 5, 500
ENERGY_WARM_S = 0.3  # until the clocks are where they stay
ENERGY_S = 2.0  # the counter moves about ten times a second

Timer = Callable[[], float]


def sizes_of(artifact: Artifact, runtime: Runtime) -> tuple[int, ...]:
    """The batch sizes to measure that the artifact and its engine take, in ascending order."""
    fixed = artifact.info.input_shape[0]
    if fixed != 0:
        return (fixed,)
    most = runtime.largest_batch or max(*SIZES, runtime.batch)
    return tuple(sorted(size for size in {*SIZES, runtime.batch} if size <= most))


def device_time(on_device: OnDevice | None, batch: Batch) -> tuple[float, str] | None:
    """The median nanoseconds of calls without the copies, and what took them; None for a runtime without."""
    return None if on_device is None else (median(_on_device(on_device, batch)), on_device.how)


def _on_device(on_device: OnDevice, batch: Batch) -> tuple[int, ...]:
    """Nanoseconds of enough calls to fill STRETCH_S, the first ones left out."""
    typical_s = median(on_device.time(batch, LEAST_CALLS)) / 1e9
    return on_device.time(batch, _calls(typical_s))


def _calls(typical_s: float) -> int:
    return min(max(round(STRETCH_S / max(typical_s, 1e-9)), LEAST_CALLS), MOST_CALLS)


def throughput(session: Session, batch: Batch, clock: Timer = time.perf_counter) -> GpuThroughput | None:
    """Photos a second; None where a call takes too long. Raises WorkbenchError where a batch is refused."""
    session.infer(batch)  # the first call of a size allocates, and may choose kernels
    typical_s = _seconds(session.infer, batch, clock)
    if typical_s > LONGEST_CALL_S:
        return None
    times_s = [_seconds(session.infer, batch, clock) for _ in range(_calls(typical_s))]
    device_ns = session.on_device and median(_on_device(session.on_device, batch))
    return GpuThroughput(
        batch=len(batch),
        with_copies=len(batch) / median(times_s),
        on_device=device_ns and len(batch) * 1e9 / device_ns,
    )


def _seconds(infer: Infer, batch: Batch, clock: Timer) -> float:
    before = clock()
    infer(batch)
    return clock() - before


def joules(infer: Infer, batch: Batch, nvml: Any = None, clock: Timer = time.perf_counter) -> float | None:
    """Energy per photo in calls of this batch, by the counter of the whole GPU, idle power included; None
    where there is none, or it went back (the driver was loaded again)."""
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
    """Call for this long; return the number of calls."""
    until, calls = clock() + seconds, 0
    while clock() < until:
        infer(batch)
        calls += 1
    return calls
