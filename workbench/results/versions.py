"""Variants that differ in the version of their runtime alone."""

from collections.abc import Mapping, Sequence

from workbench.backends import Runtime
from workbench.measure.records import BASELINE
from workbench.results.records import TrialResult


def by_version(
    trials: Sequence[TrialResult], runtimes: Mapping[str, Runtime]
) -> list[dict[str, TrialResult]]:
    """Trials of one build with the same settings, one a version, oldest first; where there are several.

    The baseline stands for its version.
    """
    from packaging.version import Version

    groups: dict[object, dict[str, TrialResult]] = {}
    for trial in sorted(trials, key=lambda trial: trial.variant != BASELINE):
        runtime = runtimes.get(trial.variant)
        if runtime is None or trial.runtime_version is None or trial.build_digest is None:
            continue
        settings = runtime.model_copy(
            update={"version": None, "threads": runtime.intra_threads, "precision": runtime.computes}
        )
        group = groups.setdefault((trial.build_digest, settings), {})
        group.setdefault(trial.runtime_version, trial)
    return [
        {version: group[version] for version in sorted(group, key=Version)}
        for group in groups.values()
        if len(group) > 1
    ]


def siblings(trials: Sequence[TrialResult], runtimes: Mapping[str, Runtime]) -> frozenset[str]:
    """The names of all those."""
    return frozenset(t.variant for group in by_version(trials, runtimes) for t in group.values())
