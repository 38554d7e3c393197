"""The process that holds one session. It reads the clock itself, around the call alone; the parent only
says whose turn it is."""

import os
import threading
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
from workbench.images import Preprocess, crop_pixels, decode, normalize
from workbench.isolate import Child
from workbench.measure.classes import softmax
from workbench.measure.latency import WarmUp
from workbench.results import WholePath

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
    """What the session says of itself.

    load_s: from the file on disk to a session that can be called, the runtime already imported.
    cold_start_s: from the start of this process to its first answer.
    """

    load_s: float
    cold_start_s: float
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
class ReadMemory:
    pass


@dataclass(frozen=True, slots=True)
class Saturate:
    """Call from as many threads as the runtime's profile says, for this long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WalkPath:
    """Time the whole path of a photo, from its bytes to its class, this many times."""

    photo: bytes
    name: str
    times: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of this process: the most since it started, and now."""

    peak_bytes: int
    steady_bytes: int


Request = Describe | Evaluate | Warm | Burst | ReadMemory | Saturate | WalkPath


@contextmanager
def hold(
    artifact: Artifact, runtime: Runtime, images: Images, spawned_s: float
) -> Iterator[Callable[[Request], object]]:
    """In the child: open the session and answer requests about it.

    spawned_s: the parent's time.monotonic() when it started this process; the clock is the machine's.
    """
    backend = BACKENDS[runtime.backend]
    # Imports the runtime, so that load_s below is the model's alone.
    if (reason := backend.unavailable(runtime)) is not None:
        raise WorkbenchError(reason)
    started = time.perf_counter()
    with backend.session(artifact, runtime) as session:
        load_s = time.perf_counter() - started
        photos = [next(images.rows(0, 1))]
        session.infer(photos[0])
        cold_start_s = time.monotonic() - spawned_s
        opened = Opened(load_s, cold_start_s, session.device, session.provider, session.threads)
        photos = list(images.spread(TIMED_IMAGES * runtime.batch, runtime.batch))
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
                case ReadMemory():
                    return read_memory()
                case Saturate():
                    return saturated_ips(session.infer, photos[0], runtime.sessions, request.seconds)
                case WalkPath():
                    return walk_path(session.infer, images.contract, request)
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
        last = median(times[-WARM_UP_WINDOW:])
        if len(times) >= WARM_UP_MIN:
            before = median(times[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW])
            if abs(last - before) <= WARM_UP_TOLERANCE * before:
                return WarmUp(len(times), settled=True, typical_ns=last)
        if clock() >= deadline:
            return WarmUp(len(times), settled=False, typical_ns=last)


def read_memory() -> Memory:
    """Linux's VmHWM for the peak, not getrusage's ru_maxrss: that one survives exec and would count the
    parent's. Elsewhere the peak is not known better than the present."""
    import psutil

    steady = int(psutil.Process(os.getpid()).memory_info().rss)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return Memory(max([steady, *peaks]), steady)


def saturated_ips(infer: Infer, batch: "NDArray[np.float32]", threads: int, seconds: float) -> float:
    """Photos a second of one session called from `threads` threads at once, as the server calls it."""
    counts = [0] * threads
    start = threading.Barrier(threads + 1)
    until = [0.0]

    def work(index: int) -> None:
        start.wait()
        while time.perf_counter() < until[0]:
            infer(batch)
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    started = time.perf_counter()
    until[0] = started + seconds
    start.wait()
    for worker in workers:
        worker.join()
    return sum(counts) * len(batch) / (time.perf_counter() - started)


def walk_path(infer: Infer, contract: Preprocess, request: WalkPath) -> WholePath:
    """Time decode, preprocess, inference and the rest apart, by the functions the server calls."""
    stages: list[tuple[int, int, int, int]] = []
    for _ in range(request.times):
        begun = time.perf_counter_ns()
        image = decode(request.photo)
        decoded = time.perf_counter_ns()
        batch = normalize(crop_pixels(image, contract)[None], contract)
        prepared = time.perf_counter_ns()
        logits = infer(batch)
        inferred = time.perf_counter_ns()
        softmax(logits).argmax(axis=1)
        done = time.perf_counter_ns()
        stages.append((decoded - begun, prepared - decoded, inferred - prepared, done - inferred))
    decode_ns, preprocess_ns, infer_ns, rest_ns = (median(times) for times in zip(*stages, strict=True))
    return WholePath(
        photo=request.name,
        bytes=len(request.photo),
        decode_ns=decode_ns,
        preprocess_ns=preprocess_ns,
        infer_ns=infer_ns,
        rest_ns=rest_ns,
    )


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
            time.monotonic(),
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

    def preemptions(self) -> int:
        """Involuntary context switches of the child so far; 0 where the system does not tell."""
        status = Path(f"/proc/{self._child.process.pid}/status")
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("nonvoluntary_ctxt_switches:"))

    def memory(self) -> Memory:
        memory: Memory = self._child.ask(ReadMemory(), TURN_TIMEOUT_S)
        return memory

    def saturate(self, seconds: float) -> float:
        """Photos a second with every processor busy."""
        ips: float = self._child.ask(Saturate(seconds), TURN_TIMEOUT_S)
        return ips

    def walk_path(self, photo: bytes, name: str, times: int) -> WholePath:
        path: WholePath = self._child.ask(WalkPath(photo, name, times), TURN_TIMEOUT_S)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._child.close(failed=kind is not None)
