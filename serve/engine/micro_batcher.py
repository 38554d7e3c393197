"""One engine call for photos of several requests, where the bundle's measurements say that it pays."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.backends import Infer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True, eq=False)
class _PendingPhoto:
    """The batch of one that a thread waits for, and its result."""

    batch: "NDArray[Any]"
    done: bool = False
    error: BaseException | None = None
    logits: "NDArray[np.float32] | None" = None


class MicroBatcher:
    """`infer` for many threads, each with a batch of one. Photos that arrive during a call share the next.

    A call takes at most `size` photos, the oldest first. Its error is raised in every thread that shared it.
    """

    def __init__(self, infer: Infer, size: int) -> None:
        self._infer = infer
        self._size = size
        self._pending: list[_PendingPhoto] = []
        self._running = False
        self._changed = threading.Condition()

    def __call__(self, batch: "NDArray[Any]") -> "NDArray[np.float32]":
        """(1, ...) to (1, classes). Several photos are a batch already, and computed as they are."""
        if len(batch) != 1:
            return self._infer(batch)
        own = _PendingPhoto(batch)
        with self._changed:
            self._pending.append(own)
        while photos := self._next_batch(own):
            self._compute(photos)
        if own.error is not None:
            raise own.error
        assert own.logits is not None
        return own.logits

    def _next_batch(self, own: _PendingPhoto) -> list[_PendingPhoto]:
        """Wait for the running call; then the photos that this thread computes, or none if `own` is done."""
        with self._changed:
            while self._running and not own.done:
                self._changed.wait()
            if own.done:
                return []
            self._running = True
            photos = self._pending[: self._size]
            del self._pending[: self._size]
            return photos

    def _compute(self, photos: list[_PendingPhoto]) -> None:
        import numpy as np

        try:
            logits = self._infer(np.concatenate([photo.batch for photo in photos]))
            if len(logits) != len(photos):
                raise RuntimeError(f"{len(photos)} photos and {len(logits)} rows of logits")
            for row, photo in enumerate(photos):
                photo.logits = logits[row : row + 1]
        except BaseException as error:
            for photo in photos:
                photo.error = error
        finally:
            with self._changed:
                for photo in photos:
                    photo.done = True
                self._running = False
                self._changed.notify_all()
