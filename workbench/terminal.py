"""Progress on stderr: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from workbench.system.progress import Progress

if TYPE_CHECKING:
    from rich.status import Status

PLAIN_EVERY_S = 5.0


class ProgressLine:
    """A `progress.Report` that draws: what is running, how far, how long left."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._status: Status | None = None
        self._stage = ""
        self._started = 0.0
        self._printed = 0.0

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        now = time.monotonic()
        fresh = progress.stage != self._stage
        if fresh:
            self._stage, self._started = progress.stage, now
        text = describe(progress, now - self._started)
        if self._status is not None:
            self._status.update(text)
        elif fresh or progress.total == 0 or now - self._printed >= PLAIN_EVERY_S:
            self._printed = now
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - part of the command line


def describe(progress: Progress, elapsed_s: float) -> str:
    """`timing: 120 of 300, 18 sessions, about 40 s left`."""
    if progress.total == 0:
        return f"{progress.stage} {progress.what}"
    parts = [f"{progress.stage}: {progress.done} of {progress.total}"]
    if progress.what:
        parts.append(progress.what)
    if progress.done > 0 and elapsed_s > 2:
        left = elapsed_s / progress.done * (progress.total - progress.done)
        parts.append(f"about {left:.0f} s left" if left < 90 else f"about {left / 60:.0f} min left")
    return ", ".join(parts)
