"""onnxruntime on an NVIDIA GPU: its CUDA provider, with input and logits in buffers on the device."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.backends.artifact import Artifact
from workbench.backends.common import filled, refuse_override, translated_ort_errors
from workbench.backends.ort.settings import OrtRuntime
from workbench.system.nvidia_check import CUDA_PROVIDER, preload

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray


HOW = "wall clock, buffers on the GPU"
MAX_BATCH = 64  # photos, where the graph's batch is free and CUDA graphs are captured
GRAPH_KEY = "gpu_graph_id"  # the run option that tells captured CUDA graphs apart
KEPT = 4  # shapes a thread keeps buffers for: a batch of 64 photos of 224 pixels takes 38 MB

Answer = TypeVar("Answer")


def providers_of(artifact: Artifact, runtime: OrtRuntime) -> dict[str, dict[str, str]]:
    """In order of preference. Raises WorkbenchError where the environment switches TF32 otherwise."""
    import onnxruntime

    refuse_override(runtime.precision == "tf32")
    preload(onnxruntime)
    return {CUDA_PROVIDER: cuda_options(artifact, runtime), "CPUExecutionProvider": {}}


def cuda_options(artifact: Artifact, runtime: OrtRuntime) -> dict[str, str]:
    """Options of the CUDA provider.

    EXHAUSTIVE times every convolution algorithm at the first call of each shape: paid once where shapes are
    few. Where the batch is free it would stall the server whenever a new size comes up, so there cuDNN's
    heuristic chooses. kSameAsRequested: the arena takes what is asked for, where the default doubles it each
    time and so holds up to half of the GPU for nothing.
    """
    few = artifact.info.input_shape[0] > 0 or runtime.cuda_graph
    return {
        "device_id": "0",
        "use_tf32": "1" if runtime.precision == "tf32" else "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE" if few else "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if runtime.cuda_graph else "0",
    }


def graph_sizes(artifact: Artifact, runtime: OrtRuntime) -> tuple[int, ...]:
    """The batch sizes that a session is called with; others are filled up to the next. Empty: any.

    A CUDA graph is captured for each, and keeps its buffers: powers of two keep them few.
    """
    if fixed := artifact.info.input_shape[0]:
        return (fixed,)
    if not runtime.cuda_graph:
        return ()
    most = max(MAX_BATCH, runtime.batch)
    powers = {2**i for i in range(most.bit_length()) if 2**i <= most}
    return tuple(sorted(powers | {runtime.batch, most}))


def bound(
    session: "onnxruntime.InferenceSession", artifact: Artifact, runtime: OrtRuntime, *, device: str = "cuda"
) -> "Bound":
    """How an opened file is called. device: as onnxruntime names it; `cpu` for tests without a GPU."""
    sizes = graph_sizes(artifact, runtime)
    return Bound(session, artifact.info.classes, sizes, device=device, graphs=runtime.cuda_graph)


@dataclass(frozen=True, slots=True)
class Buffers:
    """Buffers of one batch shape, at fixed addresses. options: name the CUDA graph that uses them."""

    photos: "onnxruntime.OrtValue"
    logits: "onnxruntime.OrtValue"
    binding: "onnxruntime.IOBinding"
    options: "onnxruntime.RunOptions | None"


class Bound:
    """A session that is called through buffers on a device: host arrays in and out.

    session: with one input, and one output of (N, classes) float32. sizes: the batch sizes it is called
    with, ascending; a batch is filled up to the next. Empty: any. device: as onnxruntime names it.
    graphs: whether CUDA graphs are captured.

    Every thread has buffers of its own. With graphs, which are bound to the addresses they were captured
    with, threads share buffers and take turns. onnxruntime also keeps graphs and handles for each thread that
    ever called, until the session closes: once a second thread calls, one thread calls for all.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        classes: int,
        sizes: tuple[int, ...] = (),
        *,
        device: str = "cuda",
        graphs: bool = False,
    ) -> None:
        self._session, self._classes, self._sizes = session, classes, sizes
        self._device, self._graphs = device, graphs
        self._turn = threading.Lock()
        self._first: threading.Thread | None = None
        self._for_all: ThreadPoolExecutor | None = None
        self._own = threading.local()
        self._shared: dict[Any, Buffers] = {}

    def infer(self, batch: "NDArray[Any]") -> "NDArray[np.float32]":
        """Logits of a batch: copied to the device, computed, copied back. Raises WorkbenchError."""

        def call() -> "NDArray[np.float32]":
            buffers = self._load(batch)
            self._run(buffers)
            logits: NDArray[np.float32] = buffers.logits.numpy()[: len(batch)].copy()
            return logits

        return self._on_one_thread(batch, call)

    def time(self, batch: "NDArray[Any]", calls: int) -> tuple[int, ...]:
        """Nanoseconds of each call, without the copies. One call before is not counted: it captures the graph
        and chooses kernels."""

        def call() -> tuple[int, ...]:
            buffers = self._load(batch)
            self._run(buffers)
            return tuple(self._time_call(buffers) for _ in range(calls))

        return self._on_one_thread(batch, call)

    def _on_one_thread(self, batch: "NDArray[Any]", call: "Callable[[], Answer]") -> "Answer":
        """Run a call on the one thread of the CUDA graphs; on this thread where none are captured."""
        # RuntimeError and ValueError: of its Python side, where a buffer cannot be had or filled.
        with translated_ort_errors(f"run a batch of shape {batch.shape}", RuntimeError, ValueError):
            if not self._graphs:
                return call()
            with self._turn:
                self._first = self._first or threading.current_thread()
                if self._for_all is None:
                    if self._first is threading.current_thread():
                        return call()
                    self._for_all = ThreadPoolExecutor(1, "cuda-graphs")
                return self._for_all.submit(call).result()

    def _time_call(self, buffers: Buffers) -> int:
        before = time.perf_counter_ns()
        self._run(buffers)
        return time.perf_counter_ns() - before

    def _run(self, buffers: Buffers) -> None:
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        buffers.binding.synchronize_outputs()

    def _load(self, batch: "NDArray[Any]") -> Buffers:
        largest = self._sizes[-1] if self._sizes else 0
        photos = filled(batch, next((size for size in self._sizes if size >= len(batch)), largest))
        buffers = self._buffers(photos.shape, photos.dtype)
        buffers.photos.update_inplace(photos)
        return buffers

    def _buffers(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Buffers:
        own: dict[Any, Buffers] = self._own.__dict__.setdefault("buffers", {})
        buffers = self._shared if self._graphs else own
        key = (shape, dtype.str)
        if key not in buffers:
            if not self._graphs and len(buffers) >= KEPT:
                del buffers[next(iter(buffers))]
            buffers[key] = self._new(shape, dtype)
        return buffers[key]

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
        if self._graphs:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry(GRAPH_KEY, str(shape[0]))
        return Buffers(photos, logits, binding, options)
