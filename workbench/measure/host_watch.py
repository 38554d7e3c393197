"""What else the machine does while a round is timed. It is only read; what cannot be read is unknown."""

import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from workbench.measure.gpu.watch import GpuWatch
from workbench.measure.records import Conditions, Environment, GpuConditions
from workbench.system.machine import available_cpus

STEAL_LIMIT = 0.02  # of the processors' time, taken by the hypervisor for other guests
PRESSURE_LIMIT = 0.20  # of the time, some process waited for a processor
# Times the shortest duration of the same loop. Rounds with less were no worse than others: what slows all
# launches alike cancels within a turn (docs/measuring.md).
SPIN_LIMIT = 4.0
SPIN_LOOPS = 200_000  # about 10 ms of Python
STEAL = 7  # place of the stolen time among the ticks


@dataclass(frozen=True, slots=True)
class _Counters:
    """Ever-growing counters of the kernel. ticks: of all processors' time; empty where unknown."""

    at_s: float
    ticks: tuple[int, ...]
    waited_us: int | None

    def steal_since(self, before: "_Counters") -> float | None:
        spent = [after - earlier for earlier, after in zip(before.ticks, self.ticks, strict=False)]
        return spent[STEAL] / max(1, sum(spent)) if len(spent) > STEAL else None

    def pressure_since(self, before: "_Counters") -> float | None:
        if before.waited_us is None or self.waited_us is None:
            return None
        return (self.waited_us - before.waited_us) / 1e6 / max(self.at_s - before.at_s, 1e-9)


@dataclass(slots=True)
class HostWatch:
    """Watches the whole machine from `begin` to `end` of a round (`latency.Watch`).

    cpus: the processors the sessions are pinned to; the spin probe runs on them too. proc: the kernel's
    files. clock: in seconds. gpu: None where nothing is measured on one.
    """

    cpus: Collection[int]
    proc: Path = Path("/proc")
    clock: Callable[[], float] = time.perf_counter
    gpu: GpuWatch | None = None
    _before: _Counters | None = field(default=None, init=False)
    _probes: list[float] = field(default_factory=list, init=False)
    _probe_before: float = field(default=0.0, init=False)

    def begin(self) -> None:
        self._probe_before = self._probe()
        if self.gpu is not None:
            self.gpu.begin()
        self._before = self._counters()

    def end(self) -> Environment:
        before, after = self._before, self._counters()
        assert before is not None, "end() without begin()"
        # Before the probe: the thread that reads the GPU would compete with it.
        gpu = None if self.gpu is None else self.gpu.end()
        probe = max(self._probe_before, self._probe())
        shortest = min(self._probes)
        steal, pressure = after.steal_since(before), after.pressure_since(before)
        causes = []
        if steal is not None and steal > STEAL_LIMIT:
            causes.append(f"the hypervisor took {100 * steal:.0f} % of the processors")
        if pressure is not None and pressure > PRESSURE_LIMIT:
            causes.append(f"processes waited for a processor {100 * pressure:.0f} % of the time")
        if probe > SPIN_LIMIT * shortest:
            causes.append(f"a fixed loop took {probe / shortest:.2f} times its shortest time")
        if gpu is not None:
            causes += gpu.causes
        return Environment(
            seconds=after.at_s - before.at_s,
            steal=steal,
            pressure=pressure,
            spin_s=probe,
            disturbed="; ".join(causes) or None,
            gpu=None if gpu is None else gpu.state,
        )

    def _probe(self) -> float:
        """Seconds a fixed loop takes on the measuring processors."""
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
        if allowed is not None:
            os.sched_setaffinity(0, self.cpus)
        try:
            started = self.clock()
            for _ in range(SPIN_LOOPS):
                pass
            taken = self.clock() - started
        finally:
            if allowed is not None:
                os.sched_setaffinity(0, allowed)
        self._probes.append(taken)
        return taken

    def _counters(self) -> _Counters:
        cpu = _first_line(self.proc / "stat").split()
        waited = re.search(r"total=(\d+)", _first_line(self.proc / "pressure" / "cpu"))
        return _Counters(
            at_s=self.clock(),
            ticks=tuple(int(word) for word in cpu[1 : STEAL + 2]),
            waited_us=int(waited[1]) if waited else None,
        )


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0]
    except OSError:
        return ""


def conditions(*, sys: Path = Path("/sys"), gpu: GpuConditions | None = None) -> Conditions:
    """Read the conditions of this machine. sys: the kernel's files. gpu: of the one measured on."""
    cpu = sys / "devices" / "system" / "cpu"
    boost = _first_line(cpu / "cpufreq" / "boost")
    no_turbo = _first_line(cpu / "intel_pstate" / "no_turbo")
    turbo = {"1": "on", "0": "off"}.get(boost) or {"0": "on", "1": "off"}.get(no_turbo) or "unknown"
    quota = _first_line(sys / "fs" / "cgroup" / "cpu.max").split()
    return Conditions(
        affinity=available_cpus(),
        quota=int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0] != "max" else None,
        governor=_first_line(cpu / "cpu0" / "cpufreq" / "scaling_governor") or "unknown",
        turbo=turbo,
        gpu=gpu,
    )
