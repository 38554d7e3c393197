"""Photos of several requests in one call of the engine, where the bundle's measurements say that pays."""

import threading
from typing import TYPE_CHECKING, Any

from workbench.backends import Infer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Waiting:
    """One thread's photo, and where its answer will be put."""

    __slots__ = ("batch", "done", "error", "logits")

    def __init__(self, batch: "NDArray[Any]") -> None:
        self.batch = batch
        self.done = False
        self.error: BaseException | None = None
        self.logits: NDArray[np.float32] | None = None


class Gatherer:
    """`infer` for many threads, each with a batch of one: while one call runs, the photos that come
    meanwhile gather, and the next call takes up to `size` of them, the oldest first.

    Nobody waits for company: a photo that finds the engine idle is computed at once. An error of a call is
    raised in every thread whose photo was part of it.
    """

    def __init__(self, infer: Infer, size: int) -> None:
        self._infer = infer
        self._size = size
        self._pending: list[_Waiting] = []
        self._running = False
        self._turn = threading.Condition()

    def __call__(self, batch: "NDArray[Any]") -> "NDArray[np.float32]":
        """(1, ...) to (1, classes). Several photos at once are a batch already, and computed as they are."""
        if len(batch) != 1:
            return self._infer(batch)
        mine = _Waiting(batch)
        with self._turn:
            self._pending.append(mine)
        while taken := self._take_turn(mine):
            self._compute(taken)
        if mine.error is not None:
            raise mine.error
        assert mine.logits is not None
        return mine.logits

    def _take_turn(self, mine: _Waiting) -> list[_Waiting]:
        """What this thread shall compute, once it is its turn; nothing once its own photo is done."""
        with self._turn:
            while self._running and not mine.done:
                self._turn.wait()
            if mine.done:
                return []
            self._running = True
            taken = self._pending[: self._size]
            del self._pending[: self._size]
            return taken

    def _compute(self, taken: list[_Waiting]) -> None:
        import numpy as np

        try:
            logits = self._infer(np.concatenate([waiting.batch for waiting in taken]))
            if len(logits) != len(taken):
                raise RuntimeError(f"{len(taken)} photos and {len(logits)} rows of logits")
            for row, waiting in enumerate(taken):
                waiting.logits = logits[row : row + 1]
        except BaseException as error:
            for waiting in taken:
                waiting.error = error
        finally:
            with self._turn:
                for waiting in taken:
                    waiting.done = True
                self._running = False
                self._turn.notify_all()
