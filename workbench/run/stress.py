"""Variants of a run under field stresses, beside the baseline on the same stressed photos.

Stressed photos are made a few at a time, while worker processes answer those before them; only the answers
are kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError, plural
from workbench.measure.accuracy import accuracy
from workbench.measure.records import BASELINE, Accuracy
from workbench.photos.stress import METHOD, SEVERITIES
from workbench.results.folder import RunFolder
from workbench.results.history import find_trial
from workbench.results.records import RunInfo, TrialResult
from workbench.results.stress import (
    StressCell,
    StressedVariant,
    StressRecord,
    merge,
    read_stress,
    write_stress,
)
from workbench.results.verdict import SEEN, compare
from workbench.run.stress_bench import FieldPhotos, StressBench
from workbench.system.files import load_arrays, read_plain
from workbench.system.machine import usable_cores
from workbench.system.packages import versions
from workbench.system.progress import Progress, Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]

ALL = "all"
SUBSET = 500  # photos at a severity that nothing is certified at
TOGETHER = 3  # variants that are open at a time, beside the baseline
STRESS_S = 0.01  # to make a stressed photo, about


@dataclass(frozen=True, slots=True)
class StressRequest:
    """variants: names, `all`, or none for the winner. limit: most photos at a severity; None: see `_rows`."""

    variants: tuple[str, ...]
    stresses: tuple[str, ...]
    severities: tuple[int, ...] = SEVERITIES
    limit: int | None = None


def measure_stress(folder: RunFolder, info: RunInfo, request: StressRequest, report: Report) -> StressRecord:
    """What is known of the variants under these stresses, measured where it is not known yet.

    info: of the run, with the budget that holds now. What a severity gives is kept when it is done. Raises
    WorkbenchError.
    """
    if info.reference is not None:
        raise WorkbenchError(
            f"run {folder.run_id} is of a gate, which has no plain export to compare with: it is against "
            f"{info.reference}",
            hint="stress a run: `krishi-bench run`, then `krishi-bench stress`",
        )
    trials = folder.trials()
    chosen, baseline = find_trials(folder, info, request.variants), find_trial(folder, BASELINE)
    photos = _photos(folder, baseline)
    record = read_stress(folder, info, trials) or _empty(info, baseline, photos)
    plan = {severity: _rows(photos, info, request, severity) for severity in request.severities}
    plan = {s: rows for s, rows in plan.items() if not _known(record, chosen, request.stresses, s, len(rows))}
    if not plan:
        return record
    report(Progress("photos", 0, 0, _cost(photos, plan, request.stresses, chosen, baseline)))
    groups = _groups(chosen)
    advance = _progress(report, len(groups) * sum(map(len, plan.values())))
    for group in groups:
        opened = [baseline, *(trial for trial in group if trial.variant != BASELINE)]
        with StressBench(folder, info, photos, opened, request.stresses) as bench:
            for severity, rows in _first(plan, info):
                answers = _answers(bench, severity, rows, advance)
                labels, alone = photos.labels[list(rows)].tolist(), photos.independent(len(rows))
                count = partial(accuracy, labels=labels, kind=info.outputs, independent=alone)
                for trial in group:
                    cells = _cells(trial.variant, answers, request.stresses, severity, count)
                    record = _with(record, trial, tuple(cells))
                write_stress(folder, record)
    return record


def _progress(report: Report, total: int) -> Callable[[int, int], None]:
    done = 0

    def advance(photos: int, severity: int) -> None:
        nonlocal done
        done += photos
        report(Progress("stressing photos", done, total, f"severity {severity}"))

    return advance


def _answers(
    bench: StressBench, severity: int, rows: Sequence[int], advance: Callable[[int, int], None]
) -> "dict[str, Logits]":
    """(photos, stresses, classes) of each variant."""
    import numpy as np

    parts = []
    for part in bench.answers(severity, rows):
        parts.append(part)
        advance(len(part[BASELINE]), severity)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def find_trials(folder: RunFolder, info: RunInfo, names: Sequence[str]) -> list[TrialResult]:
    """The trials of that name; for `all` those that were measured and do not compute the baseline's function,
    the winner without any. Raises WorkbenchError for those that were not measured."""
    trials = folder.trials()
    if ALL in names and len(set(names)) > 1:
        raise WorkbenchError(f"--variant: `{ALL}` is every variant", hint="name no other beside it")
    if ALL in names:
        others = [t for t in trials if t.variant != BASELINE and t.status in SEEN and t.accuracy]
        return [t for t in others if t.same_answers is None] or [find_trial(folder, BASELINE)]
    if not names and (winner := compare(info, trials).winner) is None:
        hint = "name a variant with --variant"
        raise WorkbenchError(f"run {folder.run_id} has no winner to be stressed", hint=hint)
    found = [find_trial(folder, name) for name in names or [str(winner)]]
    for trial in found:
        if trial.status not in SEEN or trial.accuracy is None:
            why = f": {trial.reason}" if trial.reason else ""
            raise WorkbenchError(f"`{trial.variant}` of run {folder.run_id} was not measured{why}")
    return found


def left_out(trials: Sequence[TrialResult], names: Sequence[str]) -> tuple[str, ...]:
    """What `all` leaves out: variants that compute the baseline's function, and so lose nothing."""
    return tuple(t.variant for t in trials if t.same_answers is not None) if ALL in names else ()


def _photos(folder: RunFolder, baseline: TrialResult) -> FieldPhotos:
    """The held-out photos of the run, or all where none are held out. Raises WorkbenchError."""
    import numpy as np

    files, path = folder.photos(), folder.path / "validation.npz"
    if files is None or not path.exists():
        raise WorkbenchError(
            f"run {folder.run_id} did not record where its photos are", hint="run again: `krishi-bench run`"
        )
    labels, certifies = load_arrays(path, read_plain(path), "labels", "certifies")
    held_out = bool(certifies.any())
    rows = np.flatnonzero(certifies) if held_out else np.arange(len(labels))
    counts = baseline.certification if held_out else baseline.accuracy
    return FieldPhotos(
        paths=tuple(map(Path, files.paths)),
        contents=files.sha256,
        labels=labels,
        rows=tuple(rows.tolist()),
        held_out=held_out,
        share=counts.independent / counts.images if counts and counts.independent else None,
    )


def _empty(info: RunInfo, baseline: TrialResult, photos: FieldPhotos) -> StressRecord:
    return StressRecord(
        method=METHOD,
        run_id=info.run_id,
        measured_at=datetime.now(UTC),
        validation_digest=info.validation_digest,
        baseline_digest=baseline.artifact_digest,
        held_out=photos.held_out,
        libraries=versions("krishi-bench", "numpy", "pillow"),
        variants=(),
    )


def _rows(photos: FieldPhotos, info: RunInfo, request: StressRequest, severity: int) -> tuple[int, ...]:
    """All photos where one severity is asked for, and at the one of `budget.field`; else a part of them."""
    if request.limit is not None:
        return photos.spread(request.limit)
    field = info.budget.field
    whole = len(request.severities) == 1 or (field is not None and field.severity == severity)
    return photos.spread(len(photos.rows) if whole else SUBSET)


def _known(
    record: StressRecord, chosen: Sequence[TrialResult], stresses: Sequence[str], severity: int, images: int
) -> bool:
    """Whether as many photos were measured already, of every variant under every stress."""
    stressed = [record.of(trial.variant) for trial in chosen]
    there = [
        {cell.stress for cell in each.at(severity) if cell.accuracy.images >= images} if each else set()
        for each in stressed
    ]
    return all(set(stresses) <= names for names in there)


def _groups(chosen: Sequence[TrialResult]) -> list[Sequence[TrialResult]]:
    return [chosen[start : start + TOGETHER] for start in range(0, len(chosen), TOGETHER)]


def _first(plan: dict[int, tuple[int, ...]], info: RunInfo) -> list[tuple[int, tuple[int, ...]]]:
    """The severity of `budget.field` first: what is stopped has the one that matters."""
    field = info.budget.field
    return sorted(plan.items(), key=lambda item: (field is None or item[0] != field.severity, item[0]))


def _cost(
    photos: FieldPhotos,
    plan: Mapping[int, Sequence[int]],
    stresses: Sequence[str],
    chosen: Sequence[TrialResult],
    baseline: TrialResult,
) -> str:
    """What will be measured, and about how long it takes, in a sentence."""
    kind = "held-out photo" if photos.held_out else "photo"
    by_count: dict[int, list[int]] = {}
    for severity, rows in plan.items():
        by_count.setdefault(len(rows), []).append(severity)
    parts = []
    for count, severities in by_count.items():
        share = "all" if count == len(photos.rows) else f"{count:,} of"
        at = ", ".join(map(str, sorted(severities)))
        parts.append(f"{share} {plural(len(photos.rows), kind)} at severity {at}")
    made = len(stresses) * sum(map(len, plan.values()))
    # The baseline once a group, whose photos are made anew.
    groups = len(_groups(chosen))
    calls = [baseline] * groups + [trial for trial in chosen if trial.variant != BASELINE]
    each_s = STRESS_S * groups + sum(t.latency.p50_ns / 1e9 for t in calls if t.latency)
    minutes = made * each_s / usable_cores() / 60
    answers = (
        f"{plural(made, 'stressed photo')}, answered by {plural(len(chosen), 'variant')} and the baseline"
    )
    about = f"about {minutes:.0f} min" if minutes >= 1 else "less than a minute"
    return f"{'; '.join(parts)}; {plural(len(stresses), 'stress')}: {answers}, {about}"


def _cells(
    variant: str,
    answers: "Mapping[str, Logits]",
    stresses: Sequence[str],
    severity: int,
    count: "Callable[[Logits, Logits], Accuracy]",
) -> Iterator[StressCell]:
    """answers: (photos, stresses, classes) of each variant. Raises WorkbenchError for NaN and infinity."""
    import numpy as np

    for column, stress in enumerate(stresses):
        logits, before = answers[variant][:, column], answers[BASELINE][:, column]
        if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
            gave = f"{broken} of {plural(len(logits), 'photo')} gave NaN or infinite logits"
            raise WorkbenchError(f"`{variant}` under {stress} of severity {severity}: {gave}")
        yield StressCell(
            stress=stress,
            severity=severity,
            accuracy=count(logits, before),
            baseline_ece=count(before, before).ece,
        )


def _with(record: StressRecord, trial: TrialResult, cells: tuple[StressCell, ...]) -> StressRecord:
    new = StressedVariant(
        variant=trial.variant, digest=trial.digest, artifact_digest=trial.artifact_digest, cells=cells
    )
    known = {each.variant: each for each in record.variants}
    known[trial.variant] = merge(known.get(trial.variant), new)
    return record.model_copy(update={"variants": tuple(known.values()), "measured_at": datetime.now(UTC)})
