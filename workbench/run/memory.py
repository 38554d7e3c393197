"""How much memory a run may hold at a time, and what fits into it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.errors import WorkbenchError
from workbench.measure.latency import Plan
from workbench.measure.records import BASELINE, TWIN
from workbench.measure.saturated_launches import TOGETHER
from workbench.results.reasons import TooLarge
from workbench.results.records import TrialResult
from workbench.run.check_variant import Context, ended
from workbench.system.machine import available_cpus, free_memory_bytes

RESERVE = 0.1  # of the memory that is free, left to others


def with_room(plan: Plan) -> Plan:
    """The plan with what its limit, or what is free, leaves for the processes that are timed together."""
    import psutil

    if plan.memory_bytes is None:
        return replace(plan, memory_bytes=int((1 - RESERVE) * free_memory_bytes()))
    return replace(plan, memory_bytes=plan.memory_bytes - psutil.Process().memory_info().rss)


def needs_of(context: Context, trials: Sequence[TrialResult]) -> dict[str, int]:
    """Bytes of the measuring process of each that was checked, and of the second copy of the baseline."""
    # The peak of a trial is what it needs above a worker with no runtime in it.
    empty = context.empty_worker.peak_bytes
    needs = {t.variant: empty + t.peak_memory_bytes for t in trials if t.peak_memory_bytes is not None}
    return {**needs, TWIN: needs[BASELINE]} if BASELINE in needs else needs


def fitted(trials: Sequence[TrialResult], needs: Mapping[str, int], room_bytes: int) -> list[TrialResult]:
    """The trials, those ended as skipped that do not fit beside the baseline and its second copy.

    Raises WorkbenchError where not even those two fit.
    """
    beside = needs.get(BASELINE, 0) + needs.get(TWIN, 0)
    if beside > room_bytes:
        raise WorkbenchError(
            f"the baseline and its second copy need {beside / 1e6:.0f} MB at a time to be timed; there are "
            f"{max(0, room_bytes) / 1e6:.0f}",
            hint="give more with --memory, or end other programs",
        )
    return [_fitted(trial, needs.get(trial.variant, 0), beside, room_bytes) for trial in trials]


def together(needs: Mapping[str, int], room_bytes: int) -> int:
    """How many variants, whichever they are, fit beside the baseline at a time: 1 at least."""
    left, count = room_bytes - needs.get(BASELINE, 0), 0
    for need in sorted((need for name, need in needs.items() if name not in (BASELINE, TWIN)), reverse=True):
        left -= need
        if left < 0 or count == TOGETHER:
            break
        count += 1
    return max(1, count)


def heats_ahead(needs: Sequence[int], room_bytes: int | None) -> int:
    """How many heats' launchers may import at the same time: one on each processor, where those that wait
    for their heat fit beside the sessions. needs: bytes of each session; a launcher takes less."""
    cpus = len(available_cpus())
    if room_bytes is None:
        return cpus
    return max(1, min(cpus, room_bytes // max(1, sum(needs))))


def _fitted(trial: TrialResult, needs: int, beside: int, room: int) -> TrialResult:
    if trial.variant == BASELINE or needs + beside <= room:
        return trial
    numbers = {"needs_bytes": needs, "beside_bytes": beside, "limit_bytes": room}
    return ended(trial, TooLarge(variant=trial.variant, **numbers))
