"""Every pair of a run's variants, from its raw samples."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.measure import samples
from workbench.measure.pairs import Difference, TimedTurns, VariantPair, differences, pair_of, turns_of
from workbench.measure.records import BASELINE, FINAL, RACE
from workbench.results.folder import RunFolder, find_run
from workbench.results.records import RunInfo, TrialResult, Upgrade
from workbench.results.versions import by_version


def pairs_of(results: Path, run_ids: Sequence[str]) -> list[Difference]:
    """Every two variants that were timed to the end of a session, fastest first.

    In the final session where it timed both, else in the race. A variant that was dropped early is left out:
    when it was dropped depends on what it showed. Raises WorkbenchError for several runs, and where the raw
    samples are gone.
    """
    if len(run_ids) > 1:
        raise WorkbenchError(f"--pairs was asked of {len(run_ids)} runs", hint="name one run")
    folder = find_run(results, *run_ids) if run_ids else find_run(results, None)
    trials = _timed(folder.trials())
    rounds = _rounds(folder, trials)
    return differences([_pair(rounds, one, other) for one, other in combinations(trials, 2)])


def finalist_pairs(folder: RunFolder, trials: Sequence[TrialResult]) -> tuple[VariantPair, ...]:
    """Every two of the confirmed trials; none with the baseline, whose ratios each trial records."""
    confirmed = [trial for trial in _timed(trials) if trial.latency and trial.latency.confirmed]
    others = [trial for trial in confirmed if trial.variant != BASELINE]
    if len(others) < 2:
        return ()
    rounds = _rounds(folder, others)
    return tuple(_pair(rounds, one, other) for one, other in combinations(others, 2))


def upgrades_of(folder: RunFolder, info: RunInfo, trials: Sequence[TrialResult]) -> tuple[Upgrade, ...]:
    """What each version of a runtime is to the one that is installed, else to the newest, older one first."""
    found = []
    for versions in by_version(_timed(trials), info.runtimes):
        own = [version for version, trial in versions.items() if info.runtimes[trial.variant].version is None]
        reference = own[0] if own else next(reversed(versions))
        rounds = _rounds(folder, list(versions.values()))
        numbers = list(versions)
        for version in numbers:
            if version != reference:
                older, newer = sorted((version, reference), key=numbers.index)
                pair = _pair(rounds, versions[newer], versions[older])
                backend = versions[newer].backend
                found.append(Upgrade(backend=backend, older=older, newer=newer, pair=pair))
    return tuple(found)


def _timed(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Fastest first."""
    return sorted((trial for trial in trials if trial.status == "ok" and trial.latency), key=_pace)


def _rounds(folder: RunFolder, trials: Sequence[TrialResult]) -> dict[str, list[TimedTurns]]:
    batch_sizes = {trial.variant: trial.latency.batch_size for trial in trials if trial.latency}
    return turns_of(samples.hot_calls(folder.path / "latency.parquet"), batch_sizes)


def _pace(trial: TrialResult) -> float:
    """Nanoseconds a photo."""
    return trial.latency.p50_ns / trial.latency.batch_size if trial.latency else 0.0


def _pair(rounds: dict[str, list[TimedTurns]], one: TrialResult, other: TrialResult) -> VariantPair:
    confirmed = [trial.latency is not None and trial.latency.confirmed for trial in (one, other)]
    session = FINAL if all(confirmed) else RACE
    return pair_of(rounds.get(session, []), one.variant, other.variant, session)
