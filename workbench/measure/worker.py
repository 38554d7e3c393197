"""The process that holds one session. It reads the clock itself, around the call alone; the parent only
says whose turn it is."""

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Self, assert_never

from workbench.artifact import Artifact
from workbench.backends import BACKENDS, Infer, Runtime
from workbench.dataset import Images
from workbench.errors import WorkbenchError
from workbench.isolate import Child
from workbench.measure.latency import WarmUp

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPEN_TIMEOUT_S = 300.0
TURN_TIMEOUT_S = 120.0
EVALUATE_CHUNK = 64
TIMED_IMAGES = 8  # real photos the timed calls cycle through

WARM_UP_MIN = 20  # iterations
WARM_UP_MAX_S = 1.0
WARM_UP_WINDOW = 10
WARM_UP_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Opened:
    """What the session says of itself. load_s: from the file on disk to a session that can be called."""

    load_s: float
    device: str
    provider: str
    threads: int


@dataclass(frozen=True, slots=True)
class Describe:
    pass


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Logits of photos start..stop, one photo at a time: exactly as the server will see them.

    Some artifacts answer differently in a batch (dynamic INT8 scales activations over all of it).
    """

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Warm:
    pass


@dataclass(frozen=True, slots=True)
class Burst:
    """Time this many calls, back to back."""

    calls: int


@dataclass(frozen=True, slots=True)
class PeakMemory:
    pass


Request = Describe | Evaluate | Warm | Burst | PeakMemory


@contextmanager
def hold(artifact: Artifact, runtime: Runtime, images: Images) -> Iterator[Callable[[Request], object]]:
    """In the child: open the session and answer requests about it."""
    backend = BACKENDS[runtime.backend]
    # Imports the runtime, so that load_s below is the model's alone.
    if (reason := backend.unavailable(runtime)) is not None:
        raise WorkbenchError(reason)
    started = time.perf_counter()
    with backend.session(artifact, runtime) as session:
        opened = Opened(time.perf_counter() - started, session.device, session.provider, session.threads)
        photos = [batch.copy() for batch in images.batches(1, limit=TIMED_IMAGES)]
        turn = 0

        def timed() -> int:
            nonlocal turn
            photo = photos[turn % len(photos)]
            turn += 1
            before = time.perf_counter_ns()
            session.infer(photo)
            return time.perf_counter_ns() - before

        def answer(request: Request) -> object:
            match request:
                case Describe():
                    return opened
                case Evaluate():
                    return evaluate(session.infer, images, request.start, request.stop)
                case Warm():
                    return warm_up(timed)
                case Burst():
                    return tuple(timed() for _ in range(request.calls))
                case PeakMemory():
                    return peak_memory_bytes()
                case _:
                    assert_never(request)

        yield answer


def evaluate(infer: Infer, images: Images, start: int, stop: int) -> "NDArray[np.float32]":
    """(stop - start, classes) logits."""
    import numpy as np

    return np.concatenate([infer(batch) for batch in images.rows(start, stop)])


def warm_up(timed: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> WarmUp:
    """Call until ten calls in a row took the same as the ten before, within 5 %."""
    times: list[int] = []
    deadline = clock() + WARM_UP_MAX_S
    while True:
        times.append(timed())
        if len(times) >= max(WARM_UP_MIN, 2 * WARM_UP_WINDOW):
            last = median(times[-WARM_UP_WINDOW:])
            before = median(times[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW])
            if abs(last - before) <= WARM_UP_TOLERANCE * before:
                return WarmUp(len(times), settled=True)
        if clock() >= deadline:
            return WarmUp(len(times), settled=False)


def peak_memory_bytes() -> int:
    """The most memory this process has held (resident), since it started.

    Linux's VmHWM, not getrusage's ru_maxrss: that one survives exec and would count the parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


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
            "workbench.measure.worker:hold",
            artifact,
            runtime,
            images,
            log=log,
            cpus=cpus,
            label="the measuring process",
        )
        self._images = len(images)

    def ready(self) -> None:
        """Wait for the session to be open. Raises ChildError."""
        self._child.ready(OPEN_TIMEOUT_S)

    def describe(self) -> Opened:
        opened: Opened = self._child.ask(Describe(), TURN_TIMEOUT_S)
        return opened

    def evaluate(self, progress: Callable[[int, int], None]) -> "NDArray[np.float32]":
        """(n, classes) logits of all photos. Raises ChildError."""
        import numpy as np

        parts = []
        for start in range(0, self._images, EVALUATE_CHUNK):
            stop = min(start + EVALUATE_CHUNK, self._images)
            parts.append(self._child.ask(Evaluate(start, stop), TURN_TIMEOUT_S))
            progress(stop, self._images)
        return np.concatenate(parts)

    def warm_up(self) -> WarmUp:
        warm: WarmUp = self._child.ask(Warm(), TURN_TIMEOUT_S)
        return warm

    def burst(self, calls: int) -> tuple[int, ...]:
        times: tuple[int, ...] = self._child.ask(Burst(calls), TURN_TIMEOUT_S)
        return times

    def peak_memory_bytes(self) -> int:
        peak: int = self._child.ask(PeakMemory(), TURN_TIMEOUT_S)
        return peak

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._child.close(failed=kind is not None)
