"""What a variant may be published for, and the best one for a device that is not here."""

from collections.abc import Sequence

from workbench.backends import Target, targets_of
from workbench.results.records import TrialResult


def bound_for(target: Target, trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Those whose files are opened there."""
    return [trial for trial in trials if target in targets_of(trial.backend)]


def best_on_device(pool: Sequence[TrialResult]) -> TrialResult | None:
    """What the device's delegate runs most of, in the fewest pieces; of equal ones the smallest file.

    How fast it is on a device is not known here, and this machine's speed does not tell.
    """
    return min(pool, key=_order, default=None)


def _order(trial: TrialResult) -> tuple[float, int, int]:
    delegation = trial.audit.delegation if trial.audit else None
    if delegation is None:
        return (1.0, 0, trial.size_bytes or 0)
    outside = 1 - delegation.delegated / delegation.nodes if delegation.nodes else 0.0
    return (outside, delegation.partitions, trial.size_bytes or 0)
