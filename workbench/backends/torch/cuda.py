"""PyTorch on an NVIDIA GPU: requirements, TF32, half precision; pinned memory, CUDA graphs, its clock."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.backends.base import OnDevice, Session
from workbench.backends.common import filled, refuse_override
from workbench.backends.torch.settings import TorchRuntime
from workbench.errors import WorkbenchError, first_line
from workbench.photos.contract import Batch
from workbench.system import nvidia, nvidia_check
from workbench.system.machine import collect
from workbench.system.nvidia import Gpu, parts_of
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Forward = Callable[[torch.Tensor], torch.Tensor]
    Run = Callable[[], torch.Tensor]
    Load = Callable[[torch.Tensor], Run]


DEVICE = "cuda"
WARM_UP_CALLS = 3  # before recording: libraries set themselves up in them, which cannot be recorded
NEEDS_CAPABILITY = {"bf16": (8, 0), "tf32": (8, 0)}
TRITON_CAPABILITY = (7, 0)

_switch = threading.Lock()
_open: list[bool] = []  # for each open session of this process: it may use TF32


def unavailable(runtime: TorchRuntime) -> str | None:
    """Why `runtime` cannot run on the GPU here, or None."""
    if (missing := nvidia_check.missing_link(nvidia_check.TORCH)) is not None:
        return missing
    found = nvidia.gpu()
    assert isinstance(found, Gpu)
    capability = parts_of(found.capability)
    this = f"{found.name} (compute capability {found.capability})"
    if capability < NEEDS_CAPABILITY.get(runtime.precision or "f32", (0, 0)):
        return f"{this} has no {runtime.precision} instructions, which came with capability 8.0 (Ampere)"
    if runtime.compile:
        if capability < TRITON_CAPABILITY:
            return f"`compile: true` needs a GPU of capability 7.0 (Volta) or newer, not {this}"
        if missing_package("triton", extra="export") is not None:
            return "`compile: true` on a GPU needs `triton`: pip install triton"
    return None


def bound_to() -> str:
    """The machine that a network compiled here runs on; its host code needs the processor too."""
    import torch

    found = nvidia.gpu()
    name = f"{found.name} {found.capability}" if isinstance(found, Gpu) else "no GPU"
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {collect().processor}"


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Switch TF32 on or off while this is open. cuDNN's convolutions have it on by default.

    Raises WorkbenchError where another session of this process, or the environment, has it otherwise: torch
    has one switch for the process.
    """
    import torch

    refuse_override(allowed)
    with _switch:
        if (not allowed) in _open:
            raise WorkbenchError(
                "runtime.precision: a model that is open in this process computes "
                f"{'without' if allowed else 'with'} TF32, and torch has one switch for all",
                hint="open `tf32` models in a process of their own",
            )
        precision = "tf32" if allowed else "ieee"
        # This function keeps torch's older setting in step, which inductor reads; it refuses a mixture.
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]
        _open.append(allowed)
    try:
        yield
    finally:
        with _switch:
            _open.remove(allowed)


def round_weights(module: "torch.nn.Module", half: "torch.dtype") -> None:
    """Store weights of two dimensions and more in `half`, to which autocast would round them in every call.

    Biases, statistics and scales stay in float32, as under autocast: norms need that. The layout stays as it
    was exported: with `channels_last`, which cuDNN prefers for half precision, views of the exported forward
    may not exist.
    """
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dtype == torch.float32 and parameter.ndim > 1:
                parameter.data = parameter.data.to(half)


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded call. given, logits: the memory it reads and writes."""

    given: "torch.Tensor"
    graph: "torch.cuda.CUDAGraph"
    logits: "torch.Tensor"

    def run(self) -> "torch.Tensor":
        self.graph.replay()
        return self.logits


class CudaGraphs:
    """CUDA graphs of `forward`, one for each shape of input, recorded and run on `stream`.

    For one thread at a time: they share one pool of memory, so that none may run beside another, and logits
    are fetched before the next runs.
    """

    def __init__(self, forward: "Forward", stream: "torch.cuda.Stream") -> None:
        import torch

        self._forward, self._stream = forward, stream
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[tuple[int, ...], Recording] = {}

    def load(self, host: "torch.Tensor") -> "Run":
        """Put the input where the recording reads it. Logits are gone after the next run or load."""
        shape = tuple(host.shape)
        if (recording := self._recordings.get(shape)) is None:
            recording = self._recordings[shape] = self._record(host)
        recording.given.copy_(host, non_blocking=True)
        return recording.run

    def _record(self, host: "torch.Tensor") -> Recording:
        import torch

        given = host.to(DEVICE)
        try:
            for _ in range(WARM_UP_CALLS):
                self._forward(given)
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads of a server may allocate memory meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                logits = self._forward(given)
        except RuntimeError as error:
            raise WorkbenchError(
                f"runtime.cuda_graph: the network cannot be recorded: {first_line(error)}",
                hint="leave `cuda_graph` out; a forward that looks at the values of tensors is a usual cause",
            ) from error
        return Recording(given, graph, logits)


class Caller:
    """Calls a network on the GPU with arrays of the host, for one thread at a time.

    The arrays go through pinned memory, so that no copy waits; the one wait is at the end of the call.
    """

    def __init__(self, load: "Load", stream: Any) -> None:
        self._load, self._stream = load, stream
        self._memory: dict[str, torch.Tensor] = {}

    def __call__(self, batch: Batch) -> "NDArray[np.float32]":
        """(N, C, H, W) -> (N, classes)."""
        import torch

        with torch.inference_mode(), torch.cuda.stream(self._stream):
            given = self._pinned("given", batch.shape)
            given.copy_(torch.from_numpy(batch))
            logits = self._load(given)()
            answer = self._pinned("answer", tuple(logits.shape))
            answer.copy_(logits, non_blocking=True)
            self._stream.synchronize()
            copied: NDArray[np.float32] = answer.numpy().copy()
        return copied

    def device(self, batch: Batch) -> str:
        """The device that the logits of this batch are on, read back from them: `cuda`."""
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

    def _pinned(self, name: str, shape: tuple[int, ...]) -> "torch.Tensor":
        """Pinned float32 memory, reused from call to call: that of the largest batch so far."""
        import torch

        memory = self._memory.get(name)
        if memory is None or memory.shape[1:] != shape[1:] or len(memory) < shape[0]:
            memory = self._memory[name] = torch.empty(shape, dtype=torch.float32, pin_memory=True)
        return memory[: shape[0]]


def open_session(forward: "Forward", artifact: Artifact, runtime: TorchRuntime, how: str) -> Session:
    """A session of `forward`, which takes and gives tensors on the GPU. how: `eager` or `inductor`.

    Calls it once, to read back where it computes. Each thread calls it on a stream of its own; with CUDA
    graphs all threads share one and take turns. Raises WorkbenchError.
    """
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

    device = _device_of(caller, artifact, size or runtime.batch)
    return Session(infer, device, how, torch.get_num_threads(), on_device=OnDevice(time, "CUDA events"))


def _device_of(caller: Callable[[], Caller], artifact: Artifact, batch: int) -> str:
    import numpy as np
    import torch

    # The weights came to the GPU on another stream, and streams do not wait for each other.
    torch.cuda.synchronize()
    images = np.zeros((batch, *artifact.info.input_shape[1:]), np.float32)
    try:
        return caller().device(images)
    except RuntimeError as error:
        raise WorkbenchError(
            f"torch cannot run {artifact.path.name} on the GPU: {first_line(error)}"
        ) from error


def _one_for_all(forward: "Forward") -> Callable[[], Caller]:
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    caller = Caller(CudaGraphs(forward, stream).load, stream)
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
