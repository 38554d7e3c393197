"""Calling a torch network on a GPU: pinned memory, one wait a call, CUDA graphs, the GPU's own clock."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.backends.base import OnDevice, Session
from workbench.backends.common import filled
from workbench.backends.torch.settings import TorchRuntime
from workbench.errors import WorkbenchError, first_line
from workbench.photos.contract import Batch

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Forward = Callable[[torch.Tensor], torch.Tensor]
    Run = Callable[[], torch.Tensor]
    Load = Callable[[torch.Tensor], Run]


DEVICE = "cuda"
WARM_UP_CALLS = 3  # before recording: libraries set themselves up in them, which cannot be recorded


@dataclass(frozen=True, slots=True)
class Recording:
    """A call that was recorded. given: where it reads its input; replay: runs it; logits: where they are."""

    given: "torch.Tensor"
    replay: Callable[[], None]
    logits: "torch.Tensor"

    def run(self) -> "torch.Tensor":
        self.replay()
        return self.logits


class Recorder:
    """Records a call once for each shape of input, and repeats it. For one thread at a time: a repeated call
    reads and writes the memory it was recorded with."""

    def __init__(self, record: "Callable[[torch.Tensor], Recording]") -> None:
        self._record = record
        self._recordings: dict[tuple[int, ...], Recording] = {}

    def load(self, host: "torch.Tensor") -> "Run":
        """Put the input where the recording reads it. Logits are gone after the next run or load."""
        shape = tuple(host.shape)
        if (recording := self._recordings.get(shape)) is None:
            recording = self._recordings[shape] = self._record(host)
        recording.given.copy_(host, non_blocking=True)
        return recording.run


def cuda_graphs(forward: "Forward", stream: "torch.cuda.Stream") -> Recorder:
    """CUDA graphs of `forward`, recorded and run on `stream`.

    They share one pool of memory: none runs beside another, and logits are fetched before the next runs.
    """
    import torch

    pool = torch.cuda.graph_pool_handle()

    def record(host: "torch.Tensor") -> Recording:
        given = host.to(DEVICE)
        try:
            for _ in range(WARM_UP_CALLS):
                forward(given)
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads of a server may allocate memory meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                logits = forward(given)
        except RuntimeError as error:
            raise WorkbenchError(
                f"runtime.cuda_graph: the network cannot be recorded: {first_line(error)}",
                hint="leave `cuda_graph` out; a forward that looks at the values of tensors is a usual cause",
            ) from error
        return Recording(given, graph.replay, logits)

    return Recorder(record)


class Caller:
    """Calls a network on the GPU with arrays of the host, for one thread at a time.

    The arrays go through pinned memory, so that no copy waits; the one wait is at the end of the call.
    empty: makes memory of a shape, float32, pinned by default.
    """

    def __init__(
        self, load: "Load", stream: Any, empty: "Callable[[tuple[int, ...]], torch.Tensor] | None" = None
    ) -> None:
        self._load = load
        self._stream = stream
        self._empty = empty or _pinned
        self._kept: dict[str, torch.Tensor] = {}

    def __call__(self, batch: Batch) -> "NDArray[np.float32]":
        """(N, C, H, W) -> (N, classes)."""
        import torch

        with torch.inference_mode(), torch.cuda.stream(self._stream):
            given = self._room("given", batch.shape)
            given.copy_(torch.from_numpy(batch))
            logits = self._load(given)()
            answer = self._room("answer", tuple(logits.shape))
            answer.copy_(logits, non_blocking=True)
            self._stream.synchronize()
            copied: NDArray[np.float32] = answer.numpy().copy()
        return copied

    def device(self, batch: Batch) -> str:
        """Where the logits of this batch come to be, as they say themselves: `cuda`."""
        import torch

        with torch.inference_mode(), torch.cuda.stream(self._stream):
            logits = self._load(torch.from_numpy(batch))()
            self._stream.synchronize()
        return logits.device.type

    def times(self, batch: Batch, calls: int) -> tuple[int, ...]:
        """Nanoseconds of each call by the GPU's own clock, the input there before."""
        import torch

        mark: Callable[[], Any] = partial(torch.cuda.Event, enable_timing=True)
        marks = [(mark(), mark()) for _ in range(calls)]
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            run = self._load(torch.from_numpy(batch))
            for before, after in marks:
                before.record(self._stream)
                run()
                after.record(self._stream)
            self._stream.synchronize()
        return tuple(round(before.elapsed_time(after) * 1e6) for before, after in marks)

    def _room(self, name: str, shape: tuple[int, ...]) -> "torch.Tensor":
        """Memory kept from call to call, that of the largest batch so far."""
        kept = self._kept.get(name)
        if kept is None or kept.shape[1:] != shape[1:] or len(kept) < shape[0]:
            kept = self._kept[name] = self._empty(shape)
        return kept[: shape[0]]


def _pinned(shape: tuple[int, ...]) -> "torch.Tensor":
    import torch

    return torch.empty(shape, dtype=torch.float32, pin_memory=True)


def open_session(forward: "Forward", artifact: Artifact, runtime: TorchRuntime, how: str) -> Session:
    """A session of `forward`, which takes and gives tensors on the GPU. how: `eager` or `inductor`.

    Calls it once, to read back where it computes. Threads call it beside each other, each on a stream of its
    own; a CUDA graph is one for all, and they take turns. Raises WorkbenchError.
    """
    import numpy as np
    import torch

    def in_float(given: "torch.Tensor") -> "torch.Tensor":
        return forward(given).float()

    def plain(host: "torch.Tensor") -> "Run":
        given = host.to(DEVICE, non_blocking=True)
        return lambda: in_float(given)

    turn: AbstractContextManager[object] = nullcontext()
    if runtime.cuda_graph:
        how, turn, caller = f"{how}, CUDA graph", threading.Lock(), _one_for_all(in_float)
    else:
        caller = _one_each(plain)
    size = artifact.info.input_shape[0]

    def infer(batch: Batch) -> "NDArray[np.float32]":
        with turn:
            return caller()(filled(batch, size))[: len(batch)]

    def time(batch: Batch, calls: int) -> tuple[int, ...]:
        with turn:
            return caller().times(filled(batch, size), calls)

    # The weights came to the GPU on another stream, and streams do not wait for each other.
    torch.cuda.synchronize()
    images = np.zeros((size or runtime.batch, *artifact.info.input_shape[1:]), np.float32)
    try:
        device = caller().device(images)
    except RuntimeError as error:
        raise WorkbenchError(
            f"torch cannot run {artifact.path.name} on the GPU: {first_line(error)}"
        ) from error
    return Session(
        infer, device, how, threads=torch.get_num_threads(), on_device=OnDevice(time, "CUDA events")
    )


def _one_for_all(forward: "Forward") -> Callable[[], Caller]:
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    caller = Caller(cuda_graphs(forward, stream).load, stream)
    return lambda: caller


def _one_each(load: "Load") -> Callable[[], Caller]:
    """A caller for the thread that asks, and for no other."""
    import torch

    own = threading.local()

    def mine() -> Caller:
        if not hasattr(own, "caller"):
            own.caller = Caller(load, torch.cuda.Stream())  # type: ignore[no-untyped-call]
        caller: Caller = own.caller
        return caller

    return mine
