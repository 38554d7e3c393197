"""Which of several workers take connections: those with a model; all of them while none has one.

The parent listens, and every worker has the same listening socket: a connection waits in one queue for
whoever takes it, also while workers die. A worker without a model leaves the queue alone while another has
one. What each needs to know of the others are two bytes a worker, in memory that all of them map.
"""

import mmap
import os
import tempfile
import time
from pathlib import Path

MOST_WORKERS = 64
HANDOVER_S = 2.0
POLL_S = 0.01
_ENDING = 2 * MOST_WORKERS


class WorkerStates:
    """For each worker, whether it has a model, and whether it takes connections without one.

    descriptor: of the file that the parent made; None makes it. A worker writes only its own bytes.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor, name = tempfile.mkstemp()
            Path(name).unlink()
            os.truncate(descriptor, _ENDING + 1)
        self.descriptor = descriptor
        self._bytes = mmap.mmap(descriptor, _ENDING + 1)

    def forget(self, slot: int) -> None:
        """Called by the parent for a worker that is dead."""
        self._bytes[2 * slot : 2 * slot + 2] = b"\0\0"

    def set_model(self, slot: int, value: bool) -> None:
        self._bytes[2 * slot] = value

    def set_without_model(self, slot: int, value: bool) -> None:
        self._bytes[2 * slot + 1] = value

    def another_has_model(self, slot: int) -> bool:
        return any(self._others(slot, 0))

    def another_has_none(self, slot: int) -> bool:
        """Whether another worker takes connections without a model."""
        return any(self._others(slot, 1))

    @property
    def ending(self) -> bool:
        """Whether the parent is ending all of them."""
        return bool(self._bytes[_ENDING])

    def end(self) -> None:
        self._bytes[_ENDING] = 1

    def _others(self, slot: int, at: int) -> bytes:
        others = bytearray(self._bytes[at:_ENDING:2])
        others[slot] = 0
        return bytes(others)


class PortTurns:
    """When worker `slot` takes connections."""

    def __init__(self, states: WorkerStates, slot: int) -> None:
        self._states = states
        self._slot = slot

    def take_over(self) -> None:
        """Have those without a model stop taking connections; waits for that, for at most HANDOVER_S.

        Called before the first model answers: once it did, no answer says that there is none.
        """
        self._states.set_model(self._slot, True)
        deadline = time.monotonic() + HANDOVER_S
        while self._states.another_has_none(self._slot) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def update(self, *, has_model: bool, draining: bool, accepting: bool) -> bool:
        """Tell the others how this worker stands; returns whether it should take connections now.

        accepting: whether it does already.
        """
        states, slot = self._states, self._slot
        if draining and not states.ending:  # it alone was asked to end
            states.forget(slot)
            return False
        # Before the others are looked at: of two workers that do this at once, one sees the other.
        stands_in = accepting or not states.another_has_model(slot)
        states.set_without_model(slot, stands_in and not has_model)
        return has_model or not states.another_has_model(slot)
