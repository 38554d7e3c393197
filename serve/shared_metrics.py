"""The metrics of several workers: files of each worker, all of which every worker exposes."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from prometheus_client import Metric, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector


class _Identity(NamedTuple):
    """What the client library takes for a process id. With another generation it opens its files anew."""

    slot: int
    generation: int

    def __format__(self, _: str) -> str:
        return str(self.slot)  # in the names of files


class SharedFiles(Collector):
    """The files of all workers as metrics. One that cannot be read is left out, counted and removed; its
    worker misses it, and writes it again from memory. Made in a worker before its `Metrics`.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        # By slot, not by process id: a worker continues the files of the dead one it replaces.
        self._identity = _Identity(slot, 0)
        self._values: list[Any] = []
        self._seen: dict[Path, tuple[int, int]] = {}  # this worker's files with their stamps
        self._count_damaged: Callable[[float], None] | None = None
        folder.mkdir(exist_ok=True)
        forget_gauges(folder, slot)
        self._damaged = self._remove_damaged(self._own_files())
        # The library reads this variable, and only this process has it so: another's value is of no account.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        kept = self._values

        class Value(values.MultiProcessValue(lambda: self._identity)):  # type: ignore[misc]
            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **options)
                kept.append(self)

        values.ValueClass = Value

    def count_damaged_by(self, count: Callable[[float], None]) -> None:
        """Call `count` with the number of damaged files, those found before included."""
        self._count_damaged = count
        count(self._damaged)

    def collect(self) -> Iterable[Metric]:
        self.restore()
        files = self._files()
        try:
            return _merge(files)
        except Exception:  # damaged bytes raise whatever they look like
            damaged = self._remove_damaged(files)
            self.restore()
            if self._count_damaged is not None:
                self._count_damaged(damaged)
            return _merge([path for path in self._files() if _is_readable(path)])

    def restore(self) -> None:
        """Write this worker's files again, with all its values, where one is gone or was cut short."""
        if not all(_is_whole(path, *stamp) for path, stamp in self._seen.items()):
            totals = [(value, value.get()) for value in self._values]
            self._folder.mkdir(exist_ok=True)
            for path in self._own_files():
                path.unlink(missing_ok=True)
            self._identity = self._identity._replace(generation=self._identity.generation + 1)
            for value, total in totals:
                value.inc(total)  # from 0, or from what another thread has counted since
        self._seen |= {path: stamp for path in self._own_files() if (stamp := _stamp(path))}

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.db"))

    def _own_files(self) -> list[Path]:
        return list(self._folder.glob(f"*_{self._identity.slot}.db"))

    @staticmethod
    def _remove_damaged(files: Iterable[Path]) -> int:
        damaged = [path for path in files if not _is_readable(path)]
        for path in damaged:
            with suppress(OSError):
                path.unlink()
        return len(damaged)


def forget_gauges(folder: Path, slot: int) -> None:
    """Remove the gauges of a worker that ended; its counters stay."""
    for path in folder.glob(f"gauge_*_{slot}.db"):
        path.unlink(missing_ok=True)


def _merge(files: Iterable[Path]) -> Iterable[Metric]:
    """Raises one of many exceptions where a file is damaged."""
    for path in files:
        with path.open("rb") as file:
            if int.from_bytes(file.read(4), sys.byteorder, signed=True) < 8:
                raise ValueError(f"{path} does not begin with the size of its contents")
    merged: Iterable[Metric] = MultiProcessCollector.merge([str(path) for path in files])  # type: ignore[no-untyped-call]
    return merged


def _is_readable(path: Path) -> bool:
    try:
        _merge([path])
    except Exception:
        return False
    return True


def _stamp(path: Path) -> tuple[int, int] | None:
    """Inode and size."""
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_size
    return None


def _is_whole(path: Path, inode: int, size_bytes: int) -> bool:
    found = _stamp(path)
    return found is not None and found[0] == inode and found[1] >= size_bytes


class WorkerProcesses(Collector):
    """The figures of ProcessCollector, summed over all workers."""

    def collect(self) -> Iterator[Metric]:
        figures = [(0.0, 0, 0, 0)]
        for process in psutil.Process(os.getppid()).children():
            with suppress(psutil.Error), process.oneshot():  # it may have ended
                times = process.cpu_times()
                figures.append((times.user + times.system, process.memory_info().rss, process.num_fds(), 1))
        cpu_s, resident, opened, workers = map(sum, zip(*figures, strict=True))
        yield CounterMetricFamily("process_cpu_seconds", "CPU time of the live workers.", value=cpu_s)
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory of the live workers.", value=resident
        )
        yield GaugeMetricFamily("process_open_fds", "Open files of the live workers.", value=opened)
        yield GaugeMetricFamily("workers", "Worker processes.", value=workers)
