"""The GPU while it is measured on, read a few times a second."""

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from workbench.measure.records import GpuConditions, GpuState
from workbench.system.nvml import Reader, opened_gpu

INTERVAL_S = 0.25
JOIN_S = 5.0  # a driver that hangs must not keep a run from going on

# Heat and the power supply slow a GPU down for a while, so the round is repeated. The software's power cap
# does not count: a network that reaches it does so every time, served as much as measured.
DISTURBING = frozenset(
    {"HW Slowdown", "SW Thermal Slowdown", "HW Thermal Slowdown", "HW Power Brake Slowdown"}
)


def gpu_conditions(nvml: Any = None) -> GpuConditions | None:
    """None where NVML cannot be read."""
    with opened_gpu(nvml) as gpu:
        if gpu is None:
            return None
        memory, mig = gpu.ask("DeviceGetMemoryInfo"), gpu.ask("DeviceGetMigMode")
        return GpuConditions(
            name=gpu.name(),
            driver=gpu.driver(),
            memory_bytes=None if memory is None else int(memory.total),
            power_limit_w=gpu.watts("DeviceGetPowerManagementLimit"),
            default_power_w=gpu.watts("DeviceGetPowerManagementDefaultLimit"),
            mig=None if mig is None else bool(mig[0]),
        )


def our_processes() -> frozenset[int]:
    import psutil

    children = psutil.Process().children(recursive=True)
    return frozenset({os.getpid(), *(child.pid for child in children)})


@dataclass(frozen=True, slots=True)
class GpuReading:
    """None where NVML has no answer. processes: ids of those with a CUDA context."""

    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: float | None
    reasons: tuple[str, ...] | None
    processes: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Watched:
    """The readings from begin() to end(). causes: why to repeat what was timed meanwhile."""

    state: GpuState
    causes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class GpuWatch:
    """Reads the GPU a few times a second, in a thread, from `begin` to `end`.

    nvml: `pynvml` unless given. ours: finds the ids of our processes at `begin`, when all are started.
    """

    nvml: Any = None
    interval_s: float = INTERVAL_S
    ours: Callable[[], Collection[int]] = our_processes
    # Those of earlier rounds too: NVML shows a process for a moment after its end.
    _ours: set[int] = field(default_factory=set, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread = field(default_factory=threading.Thread, init=False)
    _samples: list[GpuReading] = field(default_factory=list, init=False)
    _computing: dict[int, int] = field(default_factory=dict, init=False)

    def begin(self) -> None:
        self._ours |= set(self.ours())
        self._stop, self._samples, self._computing = threading.Event(), [], {}
        arguments = (self._stop, self._samples, self._computing)
        self._thread = threading.Thread(target=self._watch, args=arguments, name="gpu", daemon=True)
        self._thread.start()

    def end(self) -> Watched:
        self._stop.set()
        self._thread.join(JOIN_S)
        samples = list(self._samples)
        foreign = _foreign(samples, self._ours)
        watts = [sample.watts for sample in samples if sample.watts is not None]
        reasons = [sample.reasons for sample in samples if sample.reasons is not None]
        state = GpuState(
            sm_mhz=_span([sample.sm_mhz for sample in samples]),
            memory_mhz=_span([sample.memory_mhz for sample in samples]),
            celsius=max((sample.celsius for sample in samples if sample.celsius is not None), default=None),
            watts=sum(watts) / len(watts) if watts else None,
            throttled=tuple(dict.fromkeys(chain.from_iterable(reasons))) if reasons else None,
            others=None if foreign is None else len(foreign),
        )
        return Watched(state, self._causes(state.throttled or (), foreign))

    def _watch(self, stop: threading.Event, samples: list[GpuReading], computing: dict[int, int]) -> None:
        since_us = time.time_ns() // 1000
        with opened_gpu(self.nvml) as gpu:
            if gpu is None:
                return
            ended = False
            while not ended:
                # Once more after the end was called, so that a short stretch has a first and a last reading.
                ended = stop.wait(self.interval_s) if samples else False
                samples.append(_sample(gpu))
            computing |= gpu.computing(since_us)

    def _causes(self, reasons: Sequence[str], foreign: set[int] | None) -> tuple[str, ...]:
        slowed = [reason for reason in reasons if reason in DISTURBING]
        causes = [f"the GPU was slowed down ({', '.join(slowed)})"] if slowed else []
        # Where NVML knows the processes that compute, one that only holds memory is no disturbance.
        if foreign and self._computing.keys() & self._ours:
            foreign = {pid for pid in foreign if self._computing.get(pid, 0) > 0}
        return (*causes, "another process used the GPU") if foreign else tuple(causes)


def _sample(gpu: Reader) -> GpuReading:
    processes = gpu.processes()
    return GpuReading(
        sm_mhz=gpu.clock_mhz("SM"),
        memory_mhz=gpu.clock_mhz("MEM"),
        celsius=gpu.celsius(),
        watts=gpu.watts(),
        reasons=gpu.reasons(),
        processes=None if processes is None else frozenset(processes),
    )


def _foreign(samples: Sequence[GpuReading], ours: Collection[int]) -> set[int] | None:
    """Processes on the GPU that are none of ours; None in a container, whose process ids NVML does not know.
    One of ours is on the GPU while it is measured on, so NVML shows one wherever it knows them."""
    pids = {pid for sample in samples for pid in sample.processes or ()}
    return pids.difference(ours) if pids.intersection(ours) else None


def _span(values: Sequence[int | None]) -> tuple[int, int] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None
