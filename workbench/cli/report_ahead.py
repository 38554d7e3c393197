"""What the end of a run needs, made ready while the run waits for its children, before it times anything."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

from workbench.system.child import ChildError
from workbench.system.machine import available_cpus, free_memory_bytes

if TYPE_CHECKING:
    from workbench.report.vega import ChartDrawer

# Of the intervals of tails, the file of the samples, and report.html.
MODULES = ("scipy.special", "pyarrow.parquet", "pandas", "workbench.report.page", "altair")
ROOM_BYTES = 2**30  # several times what all of it holds


class ReportAhead:
    """The modules, imported by a thread, and the process that draws the charts.

    What fails is left to whoever needs it, who says why. With one processor, or less than ROOM_BYTES of free
    memory, nothing is made ahead.
    """

    def __init__(self) -> None:
        self._drawer: ChartDrawer | None = None
        self._stack, self._ended = ExitStack(), threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def drawer(self) -> "ChartDrawer | None":
        """None where none was started, and where it has ended since."""
        return self._drawer if self._drawer is not None and self._drawer.runs else None

    @contextmanager
    def before_timing(self) -> Iterator[None]:
        """Begins it; at the end of the block nothing of it computes any more."""
        if len(available_cpus()) == 1 or free_memory_bytes() < ROOM_BYTES:
            yield
            return
        # Not by the other thread: a process ends with the thread that started it.
        with suppress(ImportError, OSError):
            from workbench.report.vega import ChartDrawer

            self._drawer = self._stack.enter_context(ChartDrawer())
        thread = threading.Thread(target=self._import, name="imports ahead")
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
        if self._drawer is not None:
            with suppress(ChildError):
                self._drawer.ready()

    def _import(self) -> None:
        for module in MODULES:
            if self._ended.is_set():
                return
            with suppress(ImportError):
                importlib.import_module(module)
