"""The CUDA runtime through `cuda-bindings`, NVIDIA's own binding: streams, memory, events, graphs.

Errors, which each call returns first, become WorkbenchErrors that say what was being done. Context managers
free what they hand out.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


HINTS = {
    "cudaErrorMemoryAllocation": "the GPU's memory is full: see `nvidia-smi` for who holds it, or take a "
    "smaller `runtime.max_batch` or `runtime.batch`",
    "cudaErrorInsufficientDriver": "the driver is older than the CUDA of `cuda-bindings`: update the driver, "
    "or pip install 'cuda-bindings<13'",
    "cudaErrorNoDevice": "see `nvidia-smi`, and the variable CUDA_VISIBLE_DEVICES",
}
NOT_RECORDED = "leave `runtime.cuda_graph` out: this network makes calls that cannot be recorded"


@contextmanager
def stream() -> Iterator[Any]:
    """A stream that waits for no other. TensorRT takes `int(stream)`."""
    cuda = _cuda()
    made = _check(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking), "creating a stream")
    with _freed(made, cuda.cudaStreamDestroy):
        yield made


@contextmanager
def device_memory(size: int) -> Iterator[int]:
    """The address of `size` bytes on the GPU, aligned to 256."""
    cuda = _cuda()
    address = _check(cuda.cudaMalloc(size), f"reserving {size} bytes on the GPU")
    with _freed(address, cuda.cudaFree):
        yield int(address)


@contextmanager
def pinned(shape: tuple[int, ...], dtype: "np.dtype[Any]") -> "Iterator[NDArray[Any]]":
    """An array in pinned host memory, which the GPU copies by itself. It is freed when the block ends."""
    import numpy as np

    cuda = _cuda()
    size = max(1, int(np.prod(shape)) * dtype.itemsize)
    address = _check(cuda.cudaMallocHost(size), f"pinning {size} bytes of host memory")
    with _freed(address, cuda.cudaFreeHost):
        memory = (ctypes.c_byte * size).from_address(int(address))
        yield np.frombuffer(memoryview(memory), dtype, count=int(np.prod(shape))).reshape(shape)


def to_device(address: int, source: "NDArray[Any]", stream: Any) -> None:
    """Queue the copy of a contiguous array in pinned memory to the GPU."""
    cuda = _cuda()
    way = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    _check(cuda.cudaMemcpyAsync(address, source.ctypes.data, source.nbytes, way, stream), "copying photos")


def to_host(target: "NDArray[Any]", address: int, stream: Any) -> None:
    """Queue the copy from the GPU to a contiguous array in pinned memory."""
    cuda = _cuda()
    way = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    _check(cuda.cudaMemcpyAsync(target.ctypes.data, address, target.nbytes, way, stream), "copying logits")


def wait(stream: Any) -> None:
    """Wait until all that is queued is done. Errors of queued work appear here."""
    _check(_cuda().cudaStreamSynchronize(stream), "waiting for the GPU")


@contextmanager
def recorded(stream: Any, queue: Callable[[], None]) -> Iterator[Any]:
    """Record what `queue` puts into the stream, without running it, as a graph to `replay`.

    Other threads may use CUDA meanwhile. Raises WorkbenchError where it cannot be recorded.
    """
    cuda = _cuda()
    mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _check(cuda.cudaStreamBeginCapture(stream, mode), "recording a CUDA graph", NOT_RECORDED)
    try:
        queue()
    except WorkbenchError as error:
        code, graph = cuda.cudaStreamEndCapture(stream)
        if code == cuda.cudaError_t.cudaSuccess and graph is not None:
            cuda.cudaGraphDestroy(graph)
        raise WorkbenchError(f"recording a CUDA graph: {error.message}", hint=NOT_RECORDED) from error
    graph = _check(cuda.cudaStreamEndCapture(stream), "recording a CUDA graph", NOT_RECORDED)
    with _freed(graph, cuda.cudaGraphDestroy):
        ready = _check(cuda.cudaGraphInstantiate(graph, 0), "preparing a CUDA graph", NOT_RECORDED)
    with _freed(ready, cuda.cudaGraphExecDestroy):
        yield ready


def replay(graph: Any, stream: Any) -> None:
    _check(_cuda().cudaGraphLaunch(graph, stream), "starting a CUDA graph")


def timed_calls(stream: Any, queue: Callable[[], None], calls: int) -> tuple[int, ...]:
    """Nanoseconds of each of `calls` calls of `queue` on the GPU, queued one behind the other."""
    cuda = _cuda()
    with ExitStack() as stack:
        events = []
        for _ in range(calls + 1):
            event = _check(cuda.cudaEventCreate(), "creating an event")
            events.append(stack.enter_context(_freed(event, cuda.cudaEventDestroy)))
        _check(cuda.cudaEventRecord(events[0], stream), "taking the time")
        for event in events[1:]:
            queue()
            _check(cuda.cudaEventRecord(event, stream), "taking the time")
        wait(stream)
        milliseconds = [
            _check(cuda.cudaEventElapsedTime(start, end), "taking the time")
            for start, end in pairwise(events)
        ]
    return tuple(round(1e6 * value) for value in milliseconds)


@contextmanager
def _freed(handle: Any, give_back: Callable[[Any], tuple[Any, ...]]) -> Iterator[Any]:
    try:
        yield handle
    except BaseException:
        give_back(handle)  # The first error says more than one from here.
        raise
    _check(give_back(handle), "cleaning up")


def _cuda() -> Any:
    from cuda.bindings import runtime

    return runtime


def _check(returned: tuple[Any, ...], doing: str, hint: str | None = None) -> Any:
    """The value behind the error. Raises WorkbenchError where there is an error."""
    code, *values = returned
    cuda = _cuda()
    if code != cuda.cudaError_t.cudaSuccess:
        name, text = (_text(ask(code)) for ask in (cuda.cudaGetErrorName, cuda.cudaGetErrorString))
        raise WorkbenchError(f"CUDA, while {doing}: {text} ({name})", hint=HINTS.get(name, hint))
    return values[0] if values else None


def _text(answer: tuple[Any, Any]) -> str:
    return bytes(answer[1]).decode(errors="replace")
