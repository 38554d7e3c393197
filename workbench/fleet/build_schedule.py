"""Which builder makes which link next: nothing is built twice, unless a builder keeps the others waiting."""

import threading
import time
from collections.abc import Callable, Collection, Sequence

from workbench.fleet.build_links import LinkTask

LATE_S = 60.0  # at least, before a build that others wait for is given to another builder as well
LATE_FACTOR = 3.0  # of the longest build so far
POLL_S = 1.0


class BuildSchedule:
    """The links that are still to be built, handed out to builders that ask from threads of their own.

    frontier: the links that can be built now, each once, of what the cache lacks; asked again after each one.
    """

    def __init__(
        self,
        frontier: Callable[[], Sequence[LinkTask]],
        builders: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._frontier, self._clock = frontier, clock
        self._there = set(builders)
        self._tasks = list(frontier())
        self._refused: dict[str, set[str]] = {}
        self._running: dict[str, dict[str, float]] = {}
        self._longest_s = 0.0
        self._changed = threading.Condition()
        self.built: dict[str, int] = dict.fromkeys(builders, 0)

    @property
    def over(self) -> bool:
        """Whether no builder that is there may take any of what is left."""
        with self._changed:
            return self._is_over()

    @property
    def counts(self) -> tuple[int, int]:
        """The links that were built, and those that are known to be left."""
        with self._changed:
            return sum(self.built.values()), len(self._tasks)

    def _is_over(self) -> bool:
        return not any(self._there - self._refused.get(task.key, set()) for task in self._tasks)

    def next(self, builder: str) -> LinkTask | None:
        """What this builder is to make; waits while others make what it needs. None when all is done."""
        with self._changed:
            while builder in self._there and not self._is_over():
                if (task := self._chosen(builder)) is not None:
                    self._running.setdefault(task.key, {})[builder] = self._clock()
                    return task
                self._changed.wait(POLL_S)
        return None

    def _chosen(self, builder: str) -> LinkTask | None:
        mine = [task for task in self._tasks if builder not in self._refused.get(task.key, set())]
        waiting = [task for task in mine if not self._running.get(task.key)]
        return next(iter(waiting), None) or next(
            (task for task in mine if self._is_late(task, builder)), None
        )

    def _is_late(self, task: LinkTask, builder: str) -> bool:
        began = self._running[task.key]
        allowed_s = max(LATE_S, LATE_FACTOR * self._longest_s)
        return builder not in began and self._clock() - min(began.values()) > allowed_s

    def finish(self, builder: str, key: str) -> None:
        """The link is in the cache."""
        with self._changed:
            began = self._running.pop(key, {})
            if builder in began:
                self._longest_s = max(self._longest_s, self._clock() - began[builder])
                self.built[builder] += 1
            self._tasks = list(self._frontier())
            self._changed.notify_all()

    def refuse(self, key: str, builders: Collection[str] | None = None) -> None:
        """The link is not for these builders, by default for none of them: the driver builds it."""
        with self._changed:
            chosen = self._there if builders is None else builders
            self._refused.setdefault(key, set()).update(chosen)
            for builder in chosen:
                self._running.get(key, {}).pop(builder, None)
            self._changed.notify_all()

    def leave(self, builder: str) -> None:
        """The builder is gone; what it was making goes to the others."""
        with self._changed:
            self._there.discard(builder)
            for began in self._running.values():
                began.pop(builder, None)
            self._changed.notify_all()
