"""Progress on stderr: a live display on a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from workbench.system.progress import Progress, time_left_s

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_EVERY_S = 5.0
PACE_AFTER_S = 2.0  # before that, the pace of a stage says nothing of the time left
REFRESH_HZ = 2.0  # drawing takes a processor's time from what is measured


class ProgressDisplay:
    """A `progress.Report` that draws: what is running, how far, how long left, and the standings."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console: Console | None = None
        self._open = ExitStack()
        self._now = Progress("starting", 0, 0)
        self._started = self._reported = time.monotonic()
        self._printed = 0.0

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._console = Console(stderr=True)
            live = Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=REFRESH_HZ,
                transient=True,
                redirect_stdout=False,  # stdout is for data
            )
            self._open.enter_context(live)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        if self._console is not None and progress.total == 0 and progress.left_s is None:
            from rich.text import Text

            self._console.print(Text(describe(progress, 0.0)))
            return
        now = time.monotonic()
        if begins := progress.stage != self._now.stage:
            self._started = now
        self._now, self._reported = progress, now
        if self._console is None and (begins or progress.total == 0 or now - self._printed >= PLAIN_EVERY_S):
            self._printed = now
            print(describe(progress, now - self._started), file=sys.stderr, flush=True)

    def _draw(self) -> "RenderableType":
        now, progress = time.monotonic(), self._now
        if progress.left_s is not None:
            progress = replace(progress, left_s=max(0.0, progress.left_s - (now - self._reported)))
        return draw(progress, now - self._started)


def describe(progress: Progress, elapsed_s: float) -> str:
    """`timing: 12 of 20, race of 7, about 40 s left`."""
    left = describe_time_left(progress, elapsed_s)
    if progress.total == 0:
        parts = [f"{progress.stage} {progress.what}".rstrip(), left]
    else:
        parts = [f"{progress.stage}: {progress.done} of {progress.total}", progress.what, left]
    return ", ".join(part for part in parts if part)


def describe_time_left(progress: Progress, elapsed_s: float) -> str:
    """`about 40 s left`; empty where nothing is known of it, or nothing is left."""
    left = progress.left_s
    if left is None and elapsed_s > PACE_AFTER_S:
        left = time_left_s(progress.done, progress.total, elapsed_s)
    if left is None or left < 1:  # done, or longer than was planned
        return ""
    return f"about {left:.0f} s left" if left < 90 else f"about {left / 60:.0f} min left"


def draw(progress: Progress, elapsed_s: float) -> "RenderableType":
    """The stage with its bar and times, what is at hand, and the standings. Nothing is read as markup."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    minutes, seconds = divmod(int(elapsed_s), 60)
    known = progress.total > 0
    line.add_row(
        Text(progress.stage, style="bold"),
        ProgressBar(progress.total or None, progress.done, width=30, pulse=not known),
        Text(f"{progress.done} of {progress.total}" if known else ""),
        Text(f"{minutes}:{seconds:02d}"),
        Text(describe_time_left(progress, elapsed_s)),
    )
    what = Text("  " + progress.what, overflow="ellipsis", no_wrap=True)
    table = Table.grid(padding=(0, 2))
    for standing in progress.standings:
        speedup, interval = standing.speedup, standing.interval
        table.add_row(
            Text("  " + standing.variant, style="dim" if standing.dropped else ""),
            Text(f"{speedup:.2f}×" if speedup is not None else "", justify="right"),
            Text(f"{interval[0]:.2f}-{interval[1]:.2f}" if interval is not None else ""),
            Text("dropped" if standing.dropped else ""),
        )
    return Group(line, what, *([table] if progress.standings else []))
