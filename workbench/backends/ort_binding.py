"""Input and logits of an onnxruntime session in buffers on the device, instead of copies made inside it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.backends.opening import filled, onnxruntime_errors
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray

KEPT = 4  # shapes a thread keeps buffers for: a batch of 64 photos of 224 pixels takes 38 MB


@dataclass(frozen=True, slots=True)
class Buffers:
    """Of one batch shape, at addresses that stay. options: say which CUDA graph is theirs."""

    photos: "onnxruntime.OrtValue"
    logits: "onnxruntime.OrtValue"
    binding: "onnxruntime.IOBinding"
    options: "onnxruntime.RunOptions | None"


class Bound:
    """A session that is called through buffers on a device: host arrays in and out.

    session: with one input, and one output of (N, classes) float32. sizes: the batch sizes it is called
    with, ascending; a batch is filled up to the next. Empty: any. device: as onnxruntime names it.
    graph_key: the run option by which the provider tells captured CUDA graphs apart; None: none are captured.

    Every thread has buffers of its own. A captured graph reads and writes the addresses it was captured
    with, and onnxruntime captures for one caller at a time: with graphs, threads share buffers and take
    turns.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        classes: int,
        sizes: tuple[int, ...] = (),
        *,
        device: str = "cuda",
        graph_key: str | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._session = session
        self._classes = classes
        self._sizes = sizes
        self._device = device
        self._graph_key = graph_key
        self._clock = clock
        self._turn: AbstractContextManager[Any] = nullcontext() if graph_key is None else threading.Lock()
        self._own = threading.local()
        self._shared: dict[Any, Buffers] = {}

    def infer(self, batch: "NDArray[Any]") -> "NDArray[np.float32]":
        """Logits of a batch: copied to the device, computed, copied back. Raises WorkbenchError."""
        with self._turn, _translated(batch):
            buffers = self._loaded(batch)
            self._run(buffers)
            logits: NDArray[np.float32] = buffers.logits.numpy()[: len(batch)].copy()
        return logits

    def time(self, batch: "NDArray[Any]", calls: int) -> tuple[int, ...]:
        """Nanoseconds of each of so many calls, with the photos on the device before and the logits left
        there. One call before them is not counted: it captures the graph, and chooses kernels.
        """
        with self._turn, _translated(batch):
            buffers = self._loaded(batch)
            self._run(buffers)
            return tuple(self._timed(buffers) for _ in range(calls))

    def _timed(self, buffers: Buffers) -> int:
        before = self._clock()
        self._run(buffers)
        return self._clock() - before

    def _run(self, buffers: Buffers) -> None:
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        buffers.binding.synchronize_outputs()

    def _loaded(self, batch: "NDArray[Any]") -> Buffers:
        """The buffers for this batch, with the photos in them."""
        photos = filled(batch, self._size(len(batch)))
        buffers = self._buffers(photos.shape, photos.dtype)
        buffers.photos.update_inplace(photos)
        return buffers

    def _size(self, count: int) -> int:
        if not self._sizes:
            return count
        return next((size for size in self._sizes if size >= count), self._sizes[-1])

    def _buffers(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Buffers:
        kept = self._shared if self._graph_key is not None else self._of_this_thread()
        key = (shape, dtype.str)
        if key not in kept:
            if self._graph_key is None and len(kept) >= KEPT:
                del kept[next(iter(kept))]
            kept[key] = self._new(shape, dtype)
        return kept[key]

    def _of_this_thread(self) -> dict[Any, Buffers]:
        kept: dict[Any, Buffers] | None = getattr(self._own, "kept", None)
        if kept is None:
            kept = self._own.kept = {}
        return kept

    def _new(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Buffers:
        import numpy as np
        import onnxruntime

        create = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        photos = create(list(shape), dtype.type, self._device, 0)
        logits = create([shape[0], self._classes], np.float32, self._device, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._session.get_inputs()[0].name, photos)
        binding.bind_ortvalue_output(self._session.get_outputs()[0].name, logits)
        options = None
        if self._graph_key is not None:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry(self._graph_key, str(shape[0]))
        return Buffers(photos, logits, binding, options)


@contextmanager
def _translated(batch: "NDArray[Any]") -> Iterator[None]:
    try:
        yield
    # RuntimeError and ValueError: of its Python side, where a buffer cannot be had or filled.
    except onnxruntime_errors(RuntimeError, ValueError) as error:
        raise WorkbenchError(f"onnxruntime cannot run a batch of shape {batch.shape}: {error}") from error
