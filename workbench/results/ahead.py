"""The winner against the next best, by the rounds that timed both."""

from collections.abc import Sequence

from workbench.measure.records import BASELINE
from workbench.measure.stats import Ratio
from workbench.results.reasons import Ahead
from workbench.results.records import RunInfo, TrialResult


def ahead(info: RunInfo, winner: TrialResult, ranked: Sequence[TrialResult]) -> list[Ahead]:
    """ranked: all that fit the budget, best first.

    Nothing where the next best is the baseline, with which the winner is compared anyway, where speed does
    not decide, and in runs that did not record it.
    """
    runner_up = next((trial.variant for trial in ranked if trial is not winner), BASELINE)
    if info.budget.objective != "latency" or runner_up == BASELINE:
        return []
    if winner.variant == BASELINE:
        timed = next(trial.latency for trial in ranked if trial.variant == runner_up)
        ratios = tuple(-ratio for ratio in timed.round_log_ratios) if timed else ()
    else:
        ratios = _log_ratios(info, winner.variant, runner_up)
    if not ratios:
        return []
    ratio = Ratio(ratios)
    return [Ahead(variant=winner.variant, behind=runner_up, ratio=ratio.speedup, ratio_ci=ratio.interval)]


def _log_ratios(info: RunInfo, winner: str, behind: str) -> tuple[float, ...]:
    for pair in info.pairs:
        if (pair.one, pair.other) == (winner, behind):
            return pair.log_ratios
        if (pair.other, pair.one) == (winner, behind):
            return tuple(-ratio for ratio in pair.log_ratios)
    return ()
