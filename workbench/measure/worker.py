"""The process that holds one session. It reads the clock itself, around the call alone; the parent only
says whose turn it is."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from workbench.backends import Runtime
from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit
from workbench.measure.gpu import figures
from workbench.measure.latency import WarmUp
from workbench.measure.messages import (
    Burst,
    Describe,
    Evaluate,
    MeasureThroughput,
    Memory,
    Opened,
    ReadAudit,
    ReadEnergy,
    ReadMemory,
    Saturate,
    TimeOnDevice,
    WalkPath,
    Warm,
)
from workbench.measure.records import GpuThroughput, WholePath
from workbench.measure.session_process import EVALUATE_CHUNK, hold
from workbench.photos.dataset import Images
from workbench.system.child import Child

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


OPEN_TIMEOUT_S = 300.0
GPU_OPEN_TIMEOUT_S = 900.0  # some runtimes build an engine for the GPU when they open a file first
TURN_TIMEOUT_S = 120.0


class Worker:
    """The parent's side: one process holding one session of `artifact`."""

    def __init__(
        self,
        artifact: Artifact,
        runtime: Runtime,
        images: Images,
        *,
        log: Path,
        cpus: Collection[int] | None = None,
    ) -> None:
        self._child = Child(
            hold,
            artifact,
            runtime,
            images,
            time.monotonic(),
            log=log,
            cpus=cpus,
            label="the measuring process",
        )
        self._images = len(images)
        self._open_timeout_s = GPU_OPEN_TIMEOUT_S if runtime.device == "cuda" else OPEN_TIMEOUT_S

    @property
    def pid(self) -> int:
        return self._child.process.pid

    def ready(self) -> None:
        """Wait for the session to be open. Raises ChildError."""
        self._child.ready(self._open_timeout_s)

    def describe(self) -> Opened:
        opened: Opened = self._child.ask(Describe(), TURN_TIMEOUT_S)
        return opened

    def evaluate(
        self, progress: Callable[[int, int], None], rows: Sequence[int] | None = None
    ) -> "NDArray[np.float32]":
        """(n, classes) logits of these photos, or of all. Raises ChildError."""
        import numpy as np

        chosen = range(self._images) if rows is None else rows
        parts = []
        for start in range(0, len(chosen), EVALUATE_CHUNK):
            chunk = tuple(chosen[start : start + EVALUATE_CHUNK])
            parts.append(self._child.ask(Evaluate(chunk), TURN_TIMEOUT_S))
            progress(start + len(chunk), len(chosen))
        return np.concatenate(parts)

    def warm_up(self) -> WarmUp:
        warm: WarmUp = self._child.ask(Warm(), TURN_TIMEOUT_S)
        return warm

    def burst(self, calls: int) -> tuple[int, ...]:
        times: tuple[int, ...] = self._child.ask(Burst(calls), TURN_TIMEOUT_S)
        return times

    def preemptions(self) -> int:
        """Involuntary context switches of the child so far; 0 where the system does not tell."""
        import psutil

        try:
            return int(psutil.Process(self.pid).num_ctx_switches().involuntary)
        except (psutil.Error, NotImplementedError):
            return 0

    def memory(self) -> Memory:
        memory: Memory = self._child.ask(ReadMemory(), TURN_TIMEOUT_S)
        return memory

    def audit(self) -> Audit:
        """What really runs. Raises ChildError."""
        audit: Audit = self._child.ask(ReadAudit(), TURN_TIMEOUT_S)
        return audit

    def saturate(self, seconds: float) -> float:
        """Photos a second with every processor busy."""
        ips: float = self._child.ask(Saturate(seconds), TURN_TIMEOUT_S)
        return ips

    def walk_path(self, photo: bytes, name: str, times: int) -> WholePath:
        path: WholePath = self._child.ask(WalkPath(photo, name, times), TURN_TIMEOUT_S)
        return path

    def device_times(self, size: int) -> figures.DeviceTimes | None:
        """Of calls without the copies; None where the runtime has none. Raises ChildError."""
        times: figures.DeviceTimes | None = self._child.ask(TimeOnDevice(size), TURN_TIMEOUT_S)
        return times

    def gpu_throughput(self, size: int) -> GpuThroughput | None:
        """Photos a second in batches of `size`; None where a call takes too long."""
        speed: GpuThroughput | None = self._child.ask(MeasureThroughput(size), TURN_TIMEOUT_S)
        return speed

    def joules(self, size: int) -> float | None:
        """Energy per photo in batches of `size`; None where the GPU does not count it."""
        spent: float | None = self._child.ask(ReadEnergy(size), TURN_TIMEOUT_S)
        return spent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._child.close(failed=kind is not None)
