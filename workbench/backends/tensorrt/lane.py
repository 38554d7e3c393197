"""Calls of a TensorRT engine: photos in host memory to logits in host memory.

A lane is what one call needs for itself: a stream, pinned and GPU memory for the largest batch, and the
execution contexts, which share the GPU memory they compute in, because a lane makes one call at a time.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.backends.gpu import cuda
from workbench.backends.tensorrt.build import EnginePlan, made
from workbench.errors import WorkbenchError, plural
from workbench.photos.contract import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LANES = 4  # calls at once: two keep a GPU busy with copies and kernels, and each lane costs memory
GRAPHS = 16  # of a lane: batch sizes recorded; the one used least recently goes


@dataclass(frozen=True, slots=True)
class Ports:
    """The input and output of an engine. image: shape of one photo, in the layout of the input."""

    given: str
    logits: str
    image: tuple[int, int, int]
    classes: int
    pixels: bool

    @property
    def dtype(self) -> "np.dtype[Any]":
        import numpy as np

        return np.dtype(np.uint8 if self.pixels else np.float32)

    def check(self, batch: Batch) -> None:
        """Raise WorkbenchError where a batch is not what the engine takes."""
        if batch.shape[1:] != self.image or batch.dtype != self.dtype or not len(batch):
            raise WorkbenchError(
                f"the engine takes photos of {self.image} {self.dtype}, not a batch of {batch.shape} "
                f"{batch.dtype}"
            )


def ports_of(engine: Any, *, pixels: bool, classes: int) -> Ports:
    """Read the ports of an engine. Raises WorkbenchError where they are not the artifact's."""
    import tensorrt as trt

    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    logits = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    if len(given) != 1 or len(logits) != 1:
        raise WorkbenchError(
            f"the engine has {plural(len(given), 'input')} and {plural(len(logits), 'output')}, "
            "not one of each"
        )
    wanted = trt.DataType.UINT8 if pixels else trt.DataType.FLOAT
    for name, kind in ((given[0], wanted), (logits[0], trt.DataType.FLOAT)):
        if engine.get_tensor_dtype(name) != kind:
            raise WorkbenchError(f"the engine's `{name}` is {engine.get_tensor_dtype(name)}, not {kind}")
    _, *image = tuple(engine.get_tensor_shape(given[0]))
    if len(image) != 3:
        raise WorkbenchError(f"the engine takes {len(image) + 1} dimensions: photos have four")
    return Ports(given[0], logits[0], (image[0], image[1], image[2]), classes, pixels)


class Lane:
    """One call at a time. Not for several threads at once; `close` gives everything back."""

    def __init__(self, engine: Any, ports: Ports, plan: EnginePlan, *, graphs: bool) -> None:
        import numpy as np

        self._engine, self._ports, self._plan, self._graphs = engine, ports, plan, graphs
        rows, dtype, floats = plan.most, ports.dtype, np.dtype(np.float32)
        shape, logits = (rows, *ports.image), (rows, ports.classes)
        self._scratch_size = int(engine.device_memory_size_v2)
        self._contexts: dict[int, Any] = {}
        self._recorded: OrderedDict[int, _Recorded] = OrderedDict()
        with ExitStack() as stack:
            enter = stack.enter_context
            self._given: NDArray[Any] = enter(cuda.pinned(shape, dtype))
            self._logits: NDArray[np.float32] = enter(cuda.pinned(logits, floats))
            self._given_at = enter(cuda.device_memory(self._given.nbytes))
            self._logits_at = enter(cuda.device_memory(max(1, self._logits.nbytes)))
            self._scratch_at = enter(cuda.device_memory(max(1, self._scratch_size)))
            self._stream = enter(cuda.stream())
            stack.callback(self._contexts.clear)  # contexts go before the memory they compute in
            stack.callback(self._forget)
            self.close = stack.pop_all().close

    def run(self, batch: Batch) -> "NDArray[np.float32]":
        """Logits of at most `plan.most` photos."""
        count = len(batch)
        queue = self._ready(batch)
        queue()
        cuda.to_host(self._logits[:count], self._logits_at, self._stream)
        cuda.wait(self._stream)
        return self._logits[:count].copy()

    def time(self, batch: Batch, calls: int) -> tuple[int, ...]:
        """Nanoseconds of each call on the GPU, without the copies."""
        queue = self._ready(batch)
        queue()
        cuda.wait(self._stream)
        return cuda.timed_calls(self._stream, queue, calls)

    def _ready(self, batch: Batch) -> Callable[[], None]:
        """Queue the copy of a batch; returns the function that queues its computation."""
        count = len(batch)
        self._given[:count] = batch
        cuda.to_device(self._given_at, self._given[:count], self._stream)
        return self._replay(count) if self._graphs else self._call(self._context(count), count)

    def _context(self, count: int) -> Any:
        """One for each optimisation profile: changing a context's profile costs more than a call."""
        profile = self._plan.profile(count)
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(profile)
        return self._contexts[profile]

    def _new_context(self, profile: int) -> Any:
        import tensorrt as trt

        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = made(
            "creating an execution context", lambda: self._engine.create_execution_context(strategy)
        )
        # For the first profile too: only the first context of an engine has it by default.
        made(
            f"choosing its optimisation profile {profile}",
            lambda: context.set_optimization_profile_async(profile, int(self._stream)),
        )
        cuda.wait(self._stream)
        context.set_device_memory(self._scratch_at, self._scratch_size)
        for name, address in ((self._ports.given, self._given_at), (self._ports.logits, self._logits_at)):
            made(f"binding `{name}`", lambda: context.set_tensor_address(name, address))  # noqa: B023
        return context

    def _call(self, context: Any, count: int) -> Callable[[], None]:
        shape = (count, *self._ports.image)
        if self._plan.free:
            made(f"setting the shape {shape}", lambda: context.set_input_shape(self._ports.given, shape))
        stream = int(self._stream)

        def queue() -> None:
            made(f"running a batch of {count}", lambda: context.execute_async_v3(stream))

        return queue

    def _replay(self, count: int) -> Callable[[], None]:
        found = self._recorded.get(count)
        if found is None:
            if len(self._recorded) == GRAPHS:
                self._recorded.popitem(last=False)[1].stack.close()
            found = self._recorded[count] = self._record(count)
        self._recorded.move_to_end(count)
        graph = found.graph
        return lambda: cuda.replay(graph, self._stream)

    def _record(self, count: int) -> "_Recorded":
        # A context for this recording alone: another shape in it would change what is replayed.
        context = self._new_context(self._plan.profile(count))
        queue = self._call(context, count)
        queue()  # With a new shape TensorRT prepares itself, which cannot be recorded.
        cuda.wait(self._stream)
        with ExitStack() as stack:
            graph = stack.enter_context(cuda.recorded(self._stream, queue))
            return _Recorded(graph, context, stack.pop_all())

    def _forget(self) -> None:
        while self._recorded:
            self._recorded.popitem()[1].stack.close()


@dataclass(frozen=True, slots=True)
class _Recorded:
    graph: Any
    context: Any
    stack: ExitStack = field(repr=False)


class Lanes:
    """Lanes for any number of threads: LANES of them work at once, the others wait. Made as needed."""

    def __init__(self, make: Callable[[], Lane]) -> None:
        self._make = make
        self._changed = threading.Condition()
        self._idle: list[Lane] = []
        self._made = 0
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """A lane for this thread alone. Raises WorkbenchError after `close`."""
        lane = self._take_idle() or self._new()
        try:
            yield lane
        finally:
            with self._changed:
                self._idle.append(lane)
                self._changed.notify()

    def _take_idle(self) -> Lane | None:
        """An idle lane; None where this thread is to make one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._made < LANES)
            if self._closed:
                raise WorkbenchError("this session is closed")
            if self._idle:
                return self._idle.pop()
            self._made += 1
            return None

    def _new(self) -> Lane:
        try:
            return self._make()
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise

    def close(self) -> None:
        """Wait for the calls in flight, then free every lane."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._made)
            lanes, self._idle, self._made = self._idle, [], 0
            del self._make  # It holds the engine, which is freed even where the session lives on.
        with ExitStack() as stack:
            for lane in lanes:
                stack.callback(lane.close)


def split(
    run: "Callable[[Batch], NDArray[np.float32]]", most: int
) -> "Callable[[Batch], NDArray[np.float32]]":
    """`run`, which takes `most` photos, for any number: in several calls where there are more."""
    import numpy as np

    def infer(batch: Batch) -> "NDArray[np.float32]":
        if len(batch) <= most:
            return run(batch)
        return np.concatenate([run(batch[start : start + most]) for start in range(0, len(batch), most)])

    return infer
