"""The measuring process: it opens one artifact and answers the parent's requests."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, assert_never

from workbench.backends import Infer, Runtime, Session, backend_of
from workbench.backends.artifact import Artifact
from workbench.backends.softmax import softmax
from workbench.errors import WorkbenchError
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
    Request,
    Saturate,
    TimeOnDevice,
    WalkPath,
    Warm,
)
from workbench.measure.records import WholePath
from workbench.measure.throughput import photos_per_s
from workbench.photos.contract import Batch
from workbench.photos.dataset import Images
from workbench.photos.decode import decode_for
from workbench.photos.preprocess import batch_of, crop_pixels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


EVALUATE_CHUNK = 64
TIMED_IMAGES = 8  # real photos the timed calls cycle through

WARM_UP_MIN = 20  # iterations
WARM_UP_MAX_S = 1.0
WARM_UP_WINDOW = 10
WARM_UP_TOLERANCE = 0.05


@contextmanager
def hold(
    artifact: Artifact, runtime: Runtime, images: Images, spawned_s: float
) -> Iterator[Callable[[Request], object]]:
    """In the child: open the session and answer requests about it.

    images: through the artifact's own preprocessing. spawned_s: the parent's time.monotonic() when it started
    this process; the clock is the machine's.
    """
    backend = backend_of(runtime)
    # Imports the runtime, so that load_s below is the model's alone.
    if (reason := backend.unavailable(runtime)) is not None:
        raise WorkbenchError(reason)
    images = replace(images, raw=artifact.info.pixels)
    started = time.perf_counter()
    with backend.session(artifact, runtime) as session:
        load_s = time.perf_counter() - started
        photos = [next(images.rows([0]))]
        session.infer(photos[0])
        cold_start_s = time.monotonic() - spawned_s
        opened = Opened(
            load_s, cold_start_s, session.device, session.provider, session.threads, session.engine
        )
        yield _Answers(artifact, runtime, images, session, opened)


class _Answers:
    """The handler of one open session: a request in, what it measured out."""

    def __init__(
        self, artifact: Artifact, runtime: Runtime, images: Images, session: Session, opened: Opened
    ) -> None:
        self._artifact, self._runtime, self._images = artifact, runtime, images
        self._session, self._opened = session, opened
        self._photos = list(images.spread(TIMED_IMAGES * runtime.batch, runtime.batch))
        self._turn = 0

    def __call__(self, request: Request) -> object:
        session, images = self._session, self._images
        match request:
            case Describe():
                return self._opened
            case Evaluate():
                return evaluate(session.infer, images, request.rows)
            case Warm():
                return warm_up(self._timed)
            case Burst():
                return tuple(self._timed() for _ in range(request.calls))
            case ReadMemory():
                return read_memory()
            case ReadAudit():
                backend = backend_of(self._runtime)
                return backend.audit(self._artifact, self._runtime, self._photos[0])
            case Saturate():
                threads, seconds = self._runtime.sessions, request.seconds
                return photos_per_s(session.infer, self._photos[0], threads=threads, seconds=seconds)
            case WalkPath():
                return walk_path(session.infer, images, request)
            case TimeOnDevice():
                return figures.device_times(session.on_device, photos_of(images, request.size))
            case MeasureThroughput():
                return figures.throughput(session, photos_of(images, request.size))
            case ReadEnergy():
                return figures.joules(session.infer, photos_of(images, request.size))
            case _:
                assert_never(request)

    def _timed(self) -> int:
        """Nanoseconds of one call, on the next photo."""
        photo = self._photos[self._turn % len(self._photos)]
        self._turn += 1
        before = time.perf_counter_ns()
        self._session.infer(photo)
        return time.perf_counter_ns() - before


def evaluate(infer: Infer, images: Images, rows: Sequence[int]) -> "NDArray[np.float32]":
    """(rows, classes) logits."""
    import numpy as np

    return np.concatenate([infer(batch) for batch in images.rows(rows)])


def photos_of(images: Images, size: int) -> Batch:
    """One batch of this many photos, spread over all; some more than once where there are fewer."""
    return next(images.spread(size, size))


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


def walk_path(infer: Infer, images: Images, request: WalkPath) -> WholePath:
    """Time decode, preprocess, inference and the rest apart, by the functions the server calls."""
    contract = images.contract
    stages: list[tuple[int, int, int, int]] = []
    for _ in range(request.times):
        begun = time.perf_counter_ns()
        image = decode_for(request.photo, contract)
        decoded = time.perf_counter_ns()
        batch = batch_of(crop_pixels(image, contract)[None], contract, raw=images.raw)
        prepared = time.perf_counter_ns()
        logits = infer(batch)
        inferred = time.perf_counter_ns()
        softmax(logits[0]).argmax()
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
