"""What many devices say of themselves, as one report."""

import threading
from dataclasses import replace

from workbench.system.progress import Progress, Report

STAGE = "measuring on devices"
SHOWN = 4  # devices that are named at a time


class FleetProgress:
    """Gathers the reports of the devices, which come from several threads."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total = report, total
        self._lock, self._at = threading.Lock(), dict[str, Progress]()
        self._done = 0

    def of(self, device: str) -> Report:
        """The report that one device is given. Events are passed on under its name."""

        def report(progress: Progress) -> None:
            with self._lock:
                if progress.total == 0 and progress.left_s is None:
                    self._report(replace(progress, what=f"{device}: {progress.what}"))
                else:
                    self._at[device] = progress
                    self._show()

        return report

    def end(self, device: str, state: str, reason: str | None) -> None:
        """A device has come to its end."""
        with self._lock:
            self._at.pop(device, None)
            self._done += 1
            self._report(Progress(state, 0, 0, f"{device}: {reason}" if reason else device))
            self._show()

    def _show(self) -> None:
        at = [f"{name} {p.stage} {_count(p)}" for name, p in list(self._at.items())[:SHOWN]]
        left = [p.left_s for p in self._at.values() if p.left_s is not None]
        self._report(Progress(STAGE, self._done, self._total, "; ".join(at), max(left, default=None)))


def _count(progress: Progress) -> str:
    return f"{progress.done} of {progress.total}" if progress.total else str(progress.done)
