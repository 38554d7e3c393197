"""Photos a second at saturation, paired like latency: fresh launches, timed in turns with the baseline's.

A launch is opened while no other computes, so its start and its memory are read on the way.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from workbench.measure.warm_up import WarmUp
from workbench.system.child import ChildError

ROUNDS = 6  # of fresh launches: the fewest that give an interval
WINDOW_S = 0.1
TURNS = 3  # windows of each launch
TOGETHER = 2  # variants that are open beside the baseline, at most


class Launched(Protocol):
    """One process with one session (`worker.Worker`, or a simulated one in tests)."""

    def ready(self) -> None: ...
    def warm_up(self) -> WarmUp: ...
    def saturate(self, seconds: float) -> float:
        """Photos a second with every processor busy."""


Open = Callable[[str], AbstractContextManager[Launched]]


@dataclass(slots=True)
class Saturated:
    """Of one variant, per launch: photos a second, and the logarithm of that over the baseline's."""

    ips: list[float] = field(default_factory=list)
    log_ratios: list[float] = field(default_factory=list)


@dataclass(slots=True)
class SaturatedLaunches:
    """Rounds of fresh launches of all variants.

    together: variants that are open beside the baseline: each launch holds memory.
    read: is given each launch once it is warm. finish: those of the last round as well, after their turns;
    what fails in it costs nothing that was measured. report: takes the rounds made and asked.
    found: by variant. failed: by variant, the message; those are launched no more.
    """

    baseline: str
    open: Open
    read: Callable[[str, Launched], None]
    report: Callable[[int, int], None]
    finish: Callable[[str, Launched], None] = lambda _name, _launched: None
    clock: Callable[[], float] = time.monotonic
    seed: int = 0
    together: int = TOGETHER
    found: dict[str, Saturated] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def measure(self, variants: Sequence[str], budget_s: float) -> None:
        """As many rounds as the first launches say that the budget holds; one at least. Raises ChildError
        where the baseline fails."""
        rng, others = random.Random(self.seed), [name for name in variants if name != self.baseline]
        began, made, rounds = self.clock(), 0, None
        while made < (rounds or 1):
            self.report(made, rounds or ROUNDS)
            rng.shuffle(others)
            running = [name for name in others if name not in self.failed]
            for start in range(0, max(1, len(running)), self.together):
                with ExitStack() as stack:
                    names = [self.baseline, *running[start : start + self.together]]
                    launched = self._make_round(names, rng, stack)
                    if rounds is None:
                        round_s = (self.clock() - began) * max(1, math.ceil(len(others) / self.together))
                        rounds = max(1, min(ROUNDS, int(budget_s / max(round_s, 1e-9))))
                    for name in launched if made + 1 == rounds else ():
                        with suppress(ChildError):
                            self.finish(name, launched[name])
            made += 1

    def _make_round(self, names: list[str], rng: random.Random, stack: ExitStack) -> dict[str, Launched]:
        """One launch of each of these, one after the other; then they take turns. Returns those that live."""
        rng.shuffle(names)
        launched: dict[str, Launched] = {}
        turns: list[dict[str, float]] = []
        for name in names:
            with self._failure_noted(name, launched):
                launched[name] = stack.enter_context(self.open(name))
                launched[name].ready()
                launched[name].warm_up()
                self.read(name, launched[name])
        for _ in range(TURNS):
            turns.append({})
            for name in rng.sample(list(launched), len(launched)):
                with self._failure_noted(name, launched):
                    turns[-1][name] = launched[name].saturate(WINDOW_S)
        for name in launched:
            found = self.found.setdefault(name, Saturated())
            found.ips.append(median(turn[name] for turn in turns))
            found.log_ratios.append(median(math.log(turn[name] / turn[self.baseline]) for turn in turns))
        return launched

    @contextmanager
    def _failure_noted(self, name: str, launched: dict[str, Launched]) -> Iterator[None]:
        try:
            yield
        except ChildError as error:
            if name == self.baseline:
                raise
            self.failed[name] = error.message
            launched.pop(name, None)
