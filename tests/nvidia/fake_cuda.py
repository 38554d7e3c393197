"""A stand-in for `cuda.bindings.runtime`: the GPU's memory is the host's, its clock counts kernels.

Work waits in its stream until somebody waits for the stream, so that results read too early are wrong, and
each address is looked up: a copy must stay within what was reserved on its side.
"""

# ruff: noqa: N801, N802, N815 - the names are CUDA's

import ctypes
import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

KERNEL_MS = 0.25

Work = Callable[[], None]


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


@dataclass
class Handle:
    """What CUDA calls a stream, an event, a graph. recording: what is captured, None while nothing is."""

    number: int
    queue: list[Work] = field(default_factory=list)
    recording: list[Work] | None = None
    broken: bool = False
    stamp: float = 0.0

    def __int__(self) -> int:
        return self.number


OK = (cudaError_t.cudaSuccess,)


class FakeCuda:
    """One GPU. fail: names of calls -> the error that they return. live: what was not given back."""

    def __init__(self, version: int = 13050) -> None:
        self.version = version
        self.fail: dict[str, cudaError_t] = {}
        self.host: dict[int, int] = {}
        self.device: dict[int, int] = {}
        self.handles: dict[int, Handle] = {}
        self.calls: list[str] = []
        self.clock_ms = 0.0
        self._buffers: dict[int, Any] = {}
        self._lock = threading.RLock()
        self._next = 1

    @property
    def live(self) -> int:
        return len(self.host) + len(self.device) + len(self.handles)

    def module(self) -> ModuleType:
        """`cuda.bindings.runtime`, with the functions of this GPU."""
        runtime = ModuleType("cuda.bindings.runtime")
        for kind in (cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode):
            setattr(runtime, kind.__name__, kind)
        runtime.cudaStreamNonBlocking = 1  # type: ignore[attr-defined]
        for name in dir(self):
            if name.startswith("cuda"):
                setattr(runtime, name, self._counted(name, getattr(self, name)))
        return runtime

    def _counted(self, name: str, call: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        def counted(*args: Any) -> tuple[Any, ...]:
            with self._lock:
                self.calls.append(name)
                if name in self.fail:
                    return (self.fail[name], None)
                return call(*args)

        return counted

    def kernel(self) -> None:
        self.clock_ms += KERNEL_MS

    def put(self, stream: int, work: Work) -> None:
        """Queue work, or record it where the stream is recorded."""
        with self._lock:
            handle = self.handles[stream]
            (handle.queue if handle.recording is None else handle.recording).append(work)

    def span(self, address: int, size: int, side: dict[int, int]) -> None:
        assert any(a <= address and address + size <= a + n for a, n in side.items()), "foreign memory"

    def _handle(self) -> Handle:
        handle = Handle(self._next)
        self._next += 1
        self.handles[handle.number] = handle
        return handle

    def _reserve(self, size: int, side: dict[int, int]) -> int:
        buffer = ctypes.create_string_buffer(b"\xaa" * (size + 256), size + 256)
        address = (ctypes.addressof(buffer) + 255) // 256 * 256
        self._buffers[address], side[address] = buffer, size
        return address

    # What the binding has, under its names.

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return (*OK, self.version)

    def cudaGetErrorName(self, error: cudaError_t) -> tuple[Any, ...]:
        return (*OK, error.name.encode())

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[Any, ...]:
        return (*OK, f"text of {error.value}".encode())

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return (*OK, self._reserve(size, self.device))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return (*OK, self._reserve(size, self.host))

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.device[address], self._buffers[address]
        return OK

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.host[address], self._buffers[address]
        return OK

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: cudaMemcpyKind, stream: Handle
    ) -> tuple[Any, ...]:
        down = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        self.span(source, size, self.host if down else self.device)
        self.span(target, size, self.device if down else self.host)

        def copy() -> None:
            ctypes.memmove(target, source, size)

        self.put(stream.number, copy)
        return OK

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == 1
        return (*OK, self._handle())

    def cudaStreamDestroy(self, stream: Handle) -> tuple[Any, ...]:
        del self.handles[stream.number]
        return OK

    def cudaStreamSynchronize(self, stream: Handle) -> tuple[Any, ...]:
        assert stream.recording is None, "waiting while recording"
        while stream.queue:
            stream.queue.pop(0)()
        return OK

    def cudaStreamBeginCapture(self, stream: Handle, mode: object) -> tuple[Any, ...]:
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        stream.recording, stream.broken = [], False
        return OK

    def cudaStreamEndCapture(self, stream: Handle) -> tuple[Any, ...]:
        work, stream.recording = stream.recording, None
        if stream.broken:
            return (cudaError_t.cudaErrorStreamCaptureInvalidated, None)
        graph = self._handle()
        graph.queue = list(work or [])
        return (*OK, graph)

    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        ready = self._handle()
        ready.queue = list(graph.queue)
        return (*OK, ready)

    def cudaGraphLaunch(self, graph: Handle, stream: Handle) -> tuple[Any, ...]:
        assert graph.number in self.handles, "a graph that was destroyed"
        for work in graph.queue:
            self.put(stream.number, work)
        return OK

    def cudaGraphDestroy(self, graph: Handle) -> tuple[Any, ...]:
        del self.handles[graph.number]
        return OK

    def cudaGraphExecDestroy(self, graph: Handle) -> tuple[Any, ...]:
        del self.handles[graph.number]
        return OK

    def cudaEventCreate(self) -> tuple[Any, ...]:
        return (*OK, self._handle())

    def cudaEventRecord(self, event: Handle, stream: Handle) -> tuple[Any, ...]:
        def stamp() -> None:
            event.stamp = self.clock_ms

        self.put(stream.number, stamp)
        return OK

    def cudaEventElapsedTime(self, start: Handle, end: Handle) -> tuple[Any, ...]:
        return (*OK, end.stamp - start.stamp)

    def cudaEventDestroy(self, event: Handle) -> tuple[Any, ...]:
        del self.handles[event.number]
        return OK
