"""The measuring process. It reads the clock itself; the parent only says whose turn it is."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from workbench.backends import Engine, Runtime, Session, backend_of
from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit
from workbench.backends.softmax import softmax
from workbench.errors import Unsuited
from workbench.measure.throughput import photos_per_s
from workbench.measure.warm_up import WarmUp, warm_up
from workbench.photos.contract import Batch
from workbench.photos.dataset import Images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.measure.records import GpuThroughput, WholePath


TIMED_IMAGES = 8  # real photos the timed calls cycle through


@dataclass(frozen=True, slots=True)
class Opened:
    """Read back from an open session. load_s: of the file, the runtime already imported. cold_start_s: from
    the start of this process to its first answer. engine: of GPU runtimes that have one. version: of the
    runtime."""

    load_s: float
    cold_start_s: float
    device: str
    provider: str
    threads: int
    engine: Engine | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of this process: the most since it started, and now."""

    peak_bytes: int
    steady_bytes: int


Request = tuple[Callable[..., object], tuple[Any, ...]]  # a method of `OpenSession` and its arguments


@contextmanager
def hold(
    artifact: Artifact,
    runtime: Runtime,
    images: Images,
    spawned_s: float,
    cpus: Collection[int] | None = None,
) -> Iterator[Callable[[Request], object]]:
    """In the child: open the session and answer requests about it.

    spawned_s: the parent's time.monotonic() when it started this process; the clock is the machine's.
    cpus: processors to stay on; all of the parent's by default.
    """
    backend = backend_of(runtime)
    # Imports the runtime, so that load_s below is the model's alone.
    if (reason := backend.unavailable(runtime)) is not None:
        raise Unsuited(reason)
    if cpus is not None:
        # Not sooner: the imports above take longest, and many processes start at once.
        _stay_on(cpus)
    images = replace(images, raw=artifact.info.pixels)
    started = time.perf_counter()
    with backend.session(artifact, runtime) as session:
        load_s = time.perf_counter() - started
        session.infer(next(images.rows([0])))
        cold_start_s = time.monotonic() - spawned_s
        read_back = (session.device, session.provider, session.threads, session.engine, session.version)
        opened = Opened(load_s, cold_start_s, *read_back)
        target = OpenSession(artifact, runtime, images, session, opened)
        yield lambda request: request[0](target, *request[1])


def _stay_on(cpus: Collection[int]) -> None:
    """This process, with the threads that its libraries have started."""
    tasks = Path("/proc/self/task")
    for thread in tasks.iterdir() if tasks.is_dir() else ():
        os.sched_setaffinity(int(thread.name), cpus)


class OpenSession:
    """One open session in the child; `worker.Worker` calls its methods from the parent."""

    def __init__(
        self, artifact: Artifact, runtime: Runtime, images: Images, session: Session, opened: Opened
    ) -> None:
        self._artifact, self._runtime, self._images = artifact, runtime, images
        self._session, self._opened = session, opened
        self._photos = list(images.spread(TIMED_IMAGES * runtime.batch, runtime.batch))
        self._turn = 0

    def describe(self) -> Opened:
        return self._opened

    def evaluate(self, rows: Sequence[int]) -> "NDArray[np.float32]":
        """(rows, classes) logits, one photo at a time, as the server calls it: some artifacts answer
        differently in a batch (dynamic INT8 scales activations over all of it)."""
        import numpy as np

        return np.concatenate([self._session.infer(batch) for batch in self._images.rows(rows)])

    def warm_up(self) -> WarmUp:
        return warm_up(self._timed)

    def burst(self, calls: int) -> tuple[int, ...]:
        return tuple(self._timed() for _ in range(calls))

    def _timed(self) -> int:
        """Nanoseconds of one call, on the next photo."""
        photo = self._photos[self._turn % len(self._photos)]
        self._turn += 1
        before = time.perf_counter_ns()
        self._session.infer(photo)
        return time.perf_counter_ns() - before

    def memory(self) -> Memory:
        import psutil

        steady = int(psutil.Process().memory_info().rss)
        # Linux's VmHWM, not getrusage's ru_maxrss: that one survives exec and would count the parent's.
        # Elsewhere the peak is not known better than the present.
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
        return Memory(max([steady, *peaks]), steady)

    def audit(self) -> Audit:
        """Open the artifact once more and look at what runs."""
        return backend_of(self._runtime).audit(self._artifact, self._runtime, self._photos[0])

    def saturate(self, seconds: float) -> float:
        """Photos a second, called from as many threads as the runtime's profile says."""
        threads = self._runtime.sessions
        return photos_per_s(self._session.infer, self._photos[0], threads=threads, seconds=seconds)

    def walk_path(self, photo: bytes, name: str, times: int) -> "WholePath":
        """Time decode, preprocess, inference and the rest apart, by the functions the server calls."""
        from workbench.measure.records import WholePath
        from workbench.photos.decode import decode_for
        from workbench.photos.preprocess import batch_of, crop_pixels

        contract = self._images.contract
        stages: list[tuple[int, int, int, int]] = []
        for _ in range(times):
            begun = time.perf_counter_ns()
            image = decode_for(photo, contract)
            decoded = time.perf_counter_ns()
            batch = batch_of(crop_pixels(image, contract)[None], contract, raw=self._images.raw)
            prepared = time.perf_counter_ns()
            logits = self._session.infer(batch)
            inferred = time.perf_counter_ns()
            softmax(logits[0]).argmax()
            done = time.perf_counter_ns()
            stages.append((decoded - begun, prepared - decoded, inferred - prepared, done - inferred))
        names = ("decode_ns", "preprocess_ns", "infer_ns", "rest_ns")
        medians = map(median, zip(*stages, strict=True))
        return WholePath(photo=name, bytes=len(photo), **dict(zip(names, medians, strict=True)))

    def device_time(self, size: int) -> tuple[float, str] | None:
        from workbench.measure.gpu import figures

        return figures.device_time(self._session.on_device, self._batch(size))

    def gpu_throughput(self, size: int) -> "GpuThroughput | None":
        from workbench.measure.gpu import figures

        return figures.throughput(self._session, self._batch(size))

    def joules(self, size: int) -> float | None:
        from workbench.measure.gpu import figures

        return figures.joules(self._session.infer, self._batch(size))

    def _batch(self, size: int) -> Batch:
        """This many photos, spread over all; some more than once where there are fewer."""
        return next(self._images.spread(size, size))
