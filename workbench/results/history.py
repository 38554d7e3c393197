"""Runs of the past, read back and judged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError, did_you_mean
from workbench.measure import samples
from workbench.measure.latency import Measured, noise_floor, summarize
from workbench.measure.per_class import ClassChange, Confusion, class_changes, new_confusions
from workbench.measure.records import BASELINE, FINAL, RACE
from workbench.results.folder import RunFolder, find_run
from workbench.results.reasons import Failed
from workbench.results.records import RunInfo, TrialResult
from workbench.results.stress import read_stress
from workbench.results.verdict import Comparison, compare
from workbench.system.files import load_arrays, read_plain
from workbench.system.spans import Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compare_runs(results: Path, run_ids: Sequence[str], *, reanalyse: bool) -> list[Comparison]:
    """The comparisons of the named runs, or of the latest.

    reanalyse: work the latencies out again from the raw samples. Raises WorkbenchError for an unknown run.
    """
    return [compare_folder(folder, reanalyse=reanalyse) for folder in _folders(results, run_ids)]


def compare_folder(folder: RunFolder, *, reanalyse: bool = False) -> Comparison:
    """The comparison of one run. reanalyse: with the latencies worked out again from the raw samples."""
    info, trials = _read(folder, reanalyse=reanalyse)
    return compare(info, trials, read_stress(folder, info, trials))


@dataclass(frozen=True, slots=True)
class Details:
    """Against the baseline, changes: on the selection photos; confusions: on all photos."""

    info: RunInfo
    trial: TrialResult
    changes: tuple[ClassChange, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    baseline_ece: float | None = None


def details_of(results: Path, run_ids: Sequence[str], variant: str, *, reanalyse: bool) -> Details:
    """Everything one run knows of one variant. Raises WorkbenchError for an unknown run or variant, and for
    several runs."""
    folder, *more = _folders(results, run_ids)
    if more:
        raise WorkbenchError(f"`{variant}` was asked of {len(run_ids)} runs", hint="name one run")
    info, trials = _read(folder, reanalyse=reanalyse)
    return details(folder, info, _named(folder, trials, variant), trials)


def details(folder: RunFolder, info: RunInfo, trial: TrialResult, trials: Iterable[TrialResult]) -> Details:
    """What the run recorded of a trial, with the classes it loses on; older runs recorded no labels.

    trials: of the run, the baseline's among them.
    """
    path = folder.path / "validation.npz"
    if trial.accuracy is None or not path.exists():
        return Details(info, trial)
    labels = _array(path, "labels")
    logits, reference = (_array(folder.predictions(name), "logits") for name in (trial.variant, BASELINE))
    confusions = new_confusions(logits, reference, labels.tolist(), info.class_names)
    changes = class_changes(trial.accuracy, info.class_names)
    ece = [t.accuracy.ece for t in trials if t.variant == BASELINE and t.accuracy]
    return Details(info, trial, tuple(changes), tuple(confusions), *ece[:1])


def _array(path: Path, name: str) -> "NDArray[Any]":
    return load_arrays(path, read_plain(path), name)[0]


def record_timings(results: Path, comparison: Comparison, spans: Spans) -> Comparison:
    """Add to `run.json`, and to the comparison, where the time of the run went."""
    info = comparison.info.model_copy(update={"timings": dict(spans.seconds)})
    RunFolder(results / info.run_id).save_info(info)
    return replace(comparison, info=info)


def find_trial(folder: RunFolder, variant: str) -> TrialResult:
    """The variant's trial. Raises WorkbenchError with the name that was probably meant."""
    return _named(folder, folder.trials(), variant)


def _named(folder: RunFolder, trials: Sequence[TrialResult], variant: str) -> TrialResult:
    known = {trial.variant: trial for trial in trials}
    if variant in known:
        return known[variant]
    hint = did_you_mean(variant, known) or f"it has {', '.join(known)}"
    raise WorkbenchError(f"run {folder.run_id} has no variant `{variant}`", hint=hint)


def _folders(results: Path, run_ids: Sequence[str]) -> list[RunFolder]:
    return [find_run(results, run_id) for run_id in run_ids] or [find_run(results, None)]


def with_latency(trials: Sequence[TrialResult], sessions: Mapping[str, Measured]) -> list[TrialResult]:
    """The trials with their latencies: from the final session where it timed them, else from the race."""
    return [_with_latency(trial, sessions) for trial in trials]


def _with_latency(trial: TrialResult, sessions: Mapping[str, Measured]) -> TrialResult:
    race, final = sessions.get(RACE), sessions.get(FINAL)
    for measured in filter(None, (race, final)):
        if (reason := measured.failed.get(trial.variant)) is not None:
            cause = Failed(variant=trial.variant, message=reason, while_timing=True)
            return trial.model_copy(update={"status": "failed", "reason": reason, "cause": cause})
    confirmed = final and summarize(final, trial.variant, BASELINE, confirmed=True)
    latency = confirmed or (race and summarize(race, trial.variant, BASELINE, confirmed=False))
    if latency is None:
        return trial
    lost = race and race.pruned.get(trial.variant)
    ended = {"status": "pruned", "cause": lost} if lost else {}
    return trial.model_copy(update={"latency": latency, **ended})


def _read(folder: RunFolder, *, reanalyse: bool) -> tuple[RunInfo, list[TrialResult]]:
    info, trials = folder.info(), folder.trials()
    if not reanalyse:
        return info, trials
    # Of the trials: `info.runtimes` lacks those that this version no longer has.
    batch_sizes = {trial.variant: trial.latency.batch_size for trial in trials if trial.latency}
    sessions = samples.load(folder.path / "latency.parquet", batch_sizes)
    floors = [floor for measured in sessions.values() if (floor := noise_floor(measured)) is not None]
    again = []
    for trial in trials:
        latency = None
        if (old := trial.latency) is not None:
            measured = sessions[FINAL if old.confirmed else RACE]
            new = summarize(measured, trial.variant, BASELINE, confirmed=old.confirmed)
            # Whether a launch settled is not in the samples: warm-up calls are not kept.
            latency = new and new.model_copy(update={"settled": old.settled})
        again.append(trial.model_copy(update={"latency": latency}))
    return info.model_copy(update={"noise_floor": max(floors, default=None)}), again
