"""Runs of the past, read back and judged."""

from collections.abc import Sequence
from pathlib import Path

from workbench.compare import Comparison, compare
from workbench.details import Details, details
from workbench.errors import WorkbenchError
from workbench.results import RunFolder, RunInfo, TrialResult, find_run
from workbench.timing import reanalysed
from workbench.yamlfile import closest


def compare_runs(
    results: Path, run_ids: Sequence[str], *, mix_machines: bool, reanalyse: bool
) -> list[Comparison]:
    """The comparisons of the named runs, or of the latest.

    reanalyse: work the latencies out again from the raw samples. Raises WorkbenchError for an unknown run,
    and for runs of different machines unless asked to mix them: their times say nothing about each other.
    """
    found = []
    for folder in _folders(results, run_ids):
        info, trials = _read(folder, reanalyse=reanalyse)
        found.append(compare(info, trials))
    machines = {comparison.info.machine.fingerprint for comparison in found}
    if len(machines) > 1 and not mix_machines:
        raise WorkbenchError(
            f"these runs were measured on {len(machines)} different machines",
            hint="name runs of one machine, or add --mix-machines to see them side by side all the same",
        )
    return found


def details_of(results: Path, run_ids: Sequence[str], variant: str, *, reanalyse: bool) -> Details:
    """Everything one run knows of one variant. Raises WorkbenchError for an unknown run or variant, and for
    several runs."""
    folder, *more = _folders(results, run_ids)
    if more:
        raise WorkbenchError(f"`{variant}` was asked of {len(run_ids)} runs", hint="name one run")
    info, trials = _read(folder, reanalyse=reanalyse)
    return details(folder, info, _named(folder, trials, variant))


def find_trial(folder: RunFolder, variant: str) -> TrialResult:
    """The variant's trial. Raises WorkbenchError with the name that was probably meant."""
    return _named(folder, folder.trials(), variant)


def _named(folder: RunFolder, trials: Sequence[TrialResult], variant: str) -> TrialResult:
    known = {trial.variant: trial for trial in trials}
    if variant not in known:
        meant = closest(variant, list(known))
        raise WorkbenchError(
            f"run {folder.run_id} has no variant `{variant}`",
            hint=f"did you mean `{meant}`?" if meant else f"it has {', '.join(known)}",
        )
    return known[variant]


def _read(folder: RunFolder, *, reanalyse: bool) -> tuple[RunInfo, list[TrialResult]]:
    info, trials = folder.info(), folder.trials()
    return reanalysed(info, trials, folder.path / "latency.parquet") if reanalyse else (info, trials)


def _folders(results: Path, run_ids: Sequence[str]) -> list[RunFolder]:
    return [find_run(results, run_id) for run_id in run_ids] or [find_run(results, None)]
