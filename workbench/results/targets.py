"""What a variant may be published for, and the best one for a device that is not here."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from workbench.backends import Target, targets_of
from workbench.backends.audit import Delegation
from workbench.results.cost import SMALLEST_DIFFERENCE
from workbench.results.records import TrialResult

T = TypeVar("T")
Facts = tuple[Delegation | None, int]
"""How much of the network the device's delegate runs, where that is known, and the bytes of its files."""


def bound_for(target: Target, trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Those whose files are opened there."""
    return [trial for trial in trials if target in targets_of(trial.backend)]


def best_on_device(pool: Sequence[TrialResult]) -> TrialResult | None:
    """As `best_by_facts` has it, of trials."""
    return best_by_facts(pool, lambda t: (t.audit.delegation if t.audit else None, t.size_bytes or 0))


def best_by_facts(pool: Sequence[T], facts_of: Callable[[T], Facts]) -> T | None:
    """What the device's delegate runs most of, in the fewest pieces; of equal ones the smallest file, and of
    files of one size, by 1 %, the one with the fewest multiplications.

    How fast it is on a device is not known here, and this machine's speed does not tell.
    """
    if not pool:
        return None
    ranks = [_delegated(*facts_of(each)) for each in pool]
    equal = [each for each, rank in zip(pool, ranks, strict=True) if rank == min(ranks)]
    smallest = min(facts_of(each)[1] for each in equal)
    small = [each for each in equal if facts_of(each)[1] <= smallest * (1 + SMALLEST_DIFFERENCE)]
    return min(small, key=lambda each: (_macs(*facts_of(each)), facts_of(each)[1]))


def _delegated(delegation: Delegation | None, _: int) -> tuple[float, int]:
    if delegation is None:
        return (1.0, 0)
    outside = 1 - delegation.delegated / delegation.nodes if delegation.nodes else 0.0
    return (outside, delegation.partitions)


def _macs(delegation: Delegation | None, _: int) -> float:
    return math.inf if delegation is None or delegation.macs is None else delegation.macs
