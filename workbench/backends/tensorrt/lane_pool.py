"""Lanes of a TensorRT engine for any number of threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from workbench.backends.tensorrt.lane import Lane
from workbench.errors import WorkbenchError
from workbench.photos.contract import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LANES = 4  # calls at once: two keep a GPU busy with copies and kernels, and each lane costs memory


class Lanes:
    """Lanes for any number of threads: `most` of them work at once, the others wait. Made as needed."""

    def __init__(self, make: Callable[[], Lane], most: int = LANES) -> None:
        self._make, self._most = make, most
        self._changed = threading.Condition()
        self._idle: list[Lane] = []
        self._made = 0
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """A lane for this thread alone. Raises WorkbenchError after `close`."""
        lane = self._taken() or self._new()
        try:
            yield lane
        finally:
            with self._changed:
                self._idle.append(lane)
                self._changed.notify()

    def _taken(self) -> Lane | None:
        """An idle lane; None where this thread is to make one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._made < self._most)
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
            del self._make  # With it goes the engine, whoever still holds the session.
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
