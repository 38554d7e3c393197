"""Figures that a launch gives once: what several launches read, each in a process of its own."""

from collections.abc import Sequence
from statistics import median
from typing import TypeVar

from workbench.measure.stats import Interval
from workbench.system.records import Record

LEAST = 2  # launches that a range takes

Counted = TypeVar("Counted", int, float)


class Readings(Record):
    """Of the check first, then of launches that nothing else computed beside.

    load_s: of the file, the runtime already imported. cold_start_s: from the start of the process to its
    first answer. *_memory_bytes: resident, above a process with no runtime in it.
    """

    load_s: tuple[float, ...] = ()
    cold_start_s: tuple[float, ...] = ()
    peak_memory_bytes: tuple[int, ...] = ()
    steady_memory_bytes: tuple[int, ...] = ()


def spread(values: Sequence[float]) -> Interval | None:
    """The smallest and the largest; None with fewer than two.

    Those of six launches or more enclose the median with a confidence of 97 % or more, as each launch lies
    below it with probability 1/2.
    """
    return (min(values), max(values)) if len(values) >= LEAST else None


def typical(values: Sequence[Counted]) -> Counted:
    """The median; of counts a whole number."""
    return type(values[0])(median(values))
