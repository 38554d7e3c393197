"""The parent's side of the measuring process."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, TypeVarTuple

from workbench.backends import Runtime, backend_module
from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit
from workbench.measure.gpu.watch import GpuWatch
from workbench.measure.records import GpuThroughput, GpuUse, WholePath
from workbench.measure.session_process import Memory, Opened, OpenSession, hold
from workbench.measure.warm_up import WarmUp
from workbench.photos.dataset import Images
from workbench.system.child import Child, ChildError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.system.launcher import Launcher


Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

EVALUATE_CHUNK = 64
OPEN_TIMEOUT_S = 300.0
GPU_OPEN_TIMEOUT_S = 900.0  # some runtimes build an engine for the GPU when they open a file first
TURN_TIMEOUT_S = 120.0


def imports_of(runtime: Runtime) -> tuple[str, ...]:
    """Modules that a measuring process needs and that start no thread."""
    return "numpy", hold.__module__, backend_module(runtime), *runtime.FORKABLE


class Worker:
    """One process holding one session of `artifact`, in the environment of its runtime.

    Its methods raise ChildError where they fail; it raises Unsuited where the environment is not made.
    """

    def __init__(
        self,
        artifact: Artifact,
        runtime: Runtime,
        images: Images,
        *,
        log: Path,
        cpus: Collection[int] | None = None,
        launcher: "Launcher | None" = None,
    ) -> None:
        arguments = (artifact, runtime, images, time.monotonic(), cpus)
        self._child = Child(
            hold,
            *arguments,
            log=log,
            label="the measuring process",
            environment=runtime.environment(),
            launcher=launcher,
            imports=imports_of(runtime),
            exit_at_once=True,
        )
        self._images = len(images)
        self._open_timeout_s = GPU_OPEN_TIMEOUT_S if runtime.device == "cuda" else OPEN_TIMEOUT_S

    @property
    def pid(self) -> int:
        return self._child.process.pid

    def ready(self) -> None:
        self._child.ready(self._open_timeout_s)

    def ask(self, method: Callable[[OpenSession, *Arguments], Result], *arguments: *Arguments) -> Result:
        """What a method of the session answers in the child."""
        result: Result = self._child.ask((method, arguments), TURN_TIMEOUT_S)
        return result

    def describe(self) -> Opened:
        return self.ask(OpenSession.describe)

    def evaluate(
        self, progress: Callable[[int, int], None], rows: Sequence[int] | None = None
    ) -> "NDArray[np.float32]":
        """(n, classes) logits of these photos, or of all."""
        import numpy as np

        chosen = range(self._images) if rows is None else rows
        parts = []
        for start in range(0, len(chosen), EVALUATE_CHUNK):
            chunk = tuple(chosen[start : start + EVALUATE_CHUNK])
            parts.append(self.ask(OpenSession.evaluate, chunk))
            progress(start + len(chunk), len(chosen))
        return np.concatenate(parts)

    def warm_up(self) -> WarmUp:
        return self.ask(OpenSession.warm_up)

    def burst(self, calls: int) -> tuple[int, ...]:
        return self.ask(OpenSession.burst, calls)

    def preemptions(self) -> int:
        """Involuntary context switches of the child so far; 0 where the system does not tell."""
        import psutil

        with suppress(psutil.Error, NotImplementedError):
            return int(psutil.Process(self.pid).num_ctx_switches().involuntary)
        return 0

    def memory(self) -> Memory:
        return self.ask(OpenSession.memory)

    def audit(self) -> Audit:
        return self.ask(OpenSession.audit)

    def saturate(self, seconds: float) -> float:
        return self.ask(OpenSession.saturate, seconds)

    def walk_path(self, photo: bytes, name: str, times: int) -> WholePath:
        return self.ask(OpenSession.walk_path, photo, name, times)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._child.close(failed=kind is not None)


def use_of(
    worker: Worker, known: GpuUse, sizes: Sequence[int], watch: GpuWatch, note: Callable[[str], None]
) -> GpuUse:
    """Add this session's figures to `known`. note: takes why a batch, and the larger ones, were refused."""
    found: dict[str, object] = {}
    speeds: list[GpuThroughput] = []
    watch.begin()
    try:
        if (device := worker.ask(OpenSession.device_time, sizes[0])) is not None:
            found = {"device_p50_ns": device[0], "device_how": device[1]}
        for size in sizes:
            if (speed := worker.ask(OpenSession.gpu_throughput, size)) is None:
                break
            speeds.append(speed)
        if speeds:
            found["joules"] = worker.ask(OpenSession.joules, speeds[-1].batch)
    except ChildError as error:
        note(error.message)
        # The energy can still be measured at the largest batch that was taken, where the process is alive.
        if speeds:
            with suppress(ChildError):
                found["joules"] = worker.ask(OpenSession.joules, speeds[-1].batch)
    finally:
        state = watch.end().state
    return known.model_copy(update={**found, "throughput": tuple(speeds), "state": state})
