"""A simulated machine for `coverage.py` to run `measure` on: two speeds, drift, launch effects, tails."""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from workbench.measure.latency import Subject
from workbench.measure.records import BASELINE, TWIN, Environment
from workbench.measure.warm_up import WarmUp

LAUNCH_S = 0.35  # until a session is open and warm
COLD = 1.4  # how much longer the first call of a burst takes


@dataclass(frozen=True, slots=True)
class Kind:
    """launch_sd: of launches; far: the share of them that is off by 6 % (sd). slow: how much slower the
    slower of the host's two speeds is; they last 0.1 to 1 s. spikes: the share of calls that take 1.5 to 4
    times as long. busy: the share of rounds that another process disturbs."""

    launch_sd: float = 0.01
    far: float = 0.0
    slow: float = 0.0
    spikes: float = 0.002
    busy: float = 0.0


KINDS = {
    "calm": Kind(),
    "two speeds, one launch in 25 far off": Kind(launch_sd=0.014, far=0.04, slow=0.3, spikes=0.01),
    "beside a busy neighbour": Kind(launch_sd=0.016, far=0.04, slow=0.3, spikes=0.05, busy=0.3),
}


@dataclass(slots=True)
class Machine:
    """Launches sessions whose calls take simulated time, and is the watch over its rounds.

    nominal_ms: the true time of a call of each variant.
    """

    kind: Kind
    nominal_ms: Mapping[str, float]
    rng: random.Random
    now_s: float = 0.0
    slow: bool = False
    flips_at_s: float = 0.0

    def __call__(self, name: str) -> AbstractContextManager[Subject]:
        return self._launch(name)

    @contextmanager
    def _launch(self, name: str) -> Iterator[Subject]:
        self.now_s += LAUNCH_S
        yield SimulatedSession(self, self.nominal_ms[BASELINE if name == TWIN else name] * 1e6)

    def call_ns(self, nominal_ns: float) -> int:
        """The wall time of a call that would take `nominal_ns` on the quiet machine."""
        rng, kind = self.rng, self.kind
        if self.now_s >= self.flips_at_s:
            self.slow = not self.slow
            self.flips_at_s = self.now_s + rng.uniform(0.1, 1.0)
        speed = (1 + kind.slow * self.slow) * (1 + 0.05 * math.sin(self.now_s / 20))
        spike = rng.uniform(1.5, 4.0) if rng.random() < kind.spikes else 1.0
        time_ns = nominal_ns * speed * spike * math.exp(rng.gauss(0, 0.03))
        self.now_s += time_ns / 1e9
        return round(time_ns)

    def begin(self) -> None:
        pass

    def end(self) -> Environment:
        reason = "another process was busy" if self.rng.random() < self.kind.busy else None
        return Environment(seconds=1.0, steal=0.0, pressure=0.0, spin_s=0.01, disturbed=reason)


@dataclass(slots=True)
class SimulatedSession:
    """One launch: a little faster or slower than the last one."""

    machine: Machine
    nominal_ns: float
    effect: float = field(init=False)

    def __post_init__(self) -> None:
        rng, kind = self.machine.rng, self.machine.kind
        self.effect = math.exp(rng.gauss(0, 0.06 if rng.random() < kind.far else kind.launch_sd))

    def ready(self) -> None:
        pass

    def preemptions(self) -> int:
        return 0

    def warm_up(self) -> WarmUp:
        return WarmUp(20, settled=True, typical_ns=self.nominal_ns)

    def burst(self, calls: int) -> tuple[int, ...]:
        cold = self.machine.call_ns(COLD * self.nominal_ns * self.effect)
        return (cold, *(self.machine.call_ns(self.nominal_ns * self.effect) for _ in range(calls - 1)))
