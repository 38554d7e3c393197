"""What variants lose under field stresses: `stress.json` of a run, and the certificate that it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from workbench.measure.per_class import class_changes, holm
from workbench.measure.records import BASELINE, Accuracy, TooFewToSplit
from workbench.measure.stats import CONFIDENCE
from workbench.photos.stress import METHOD, STRESSES
from workbench.results import reasons
from workbench.results.certification import is_candidate
from workbench.results.folder import RunFolder
from workbench.results.records import Budget, RunInfo, TrialResult
from workbench.system.records import Record, read_record, write_record

FILE = "stress.json"
DEFAULT_SEVERITY = 3


class StressCell(Record):
    """One stress at one severity. accuracy: of the variant, its losses and gains against the baseline on the
    same stressed photos. baseline_ece: its expected calibration error there."""

    stress: str
    severity: int
    accuracy: Accuracy
    baseline_ece: float | None

    @property
    def baseline_top1(self) -> float:
        return self.accuracy.top1 + self.accuracy.paired.drop


class StressedVariant(Record):
    """digest: of the variant; artifact_digest: of its model file. cells: in the order of STRESSES."""

    variant: str
    digest: str
    artifact_digest: str | None
    cells: tuple[StressCell, ...]

    def at(self, severity: int) -> list[StressCell]:
        return [cell for cell in self.cells if cell.severity == severity]

    @property
    def severities(self) -> tuple[int, ...]:
        return tuple(sorted({cell.severity for cell in self.cells}))


class StressRecord(Record):
    """`stress.json`. method: how photos were stressed. validation_digest, baseline_digest: what it is of.

    held_out: the photos had no part in the choice of a winner.
    """

    schema_version: Literal[1] = 1
    method: str
    run_id: str
    measured_at: datetime
    validation_digest: str
    baseline_digest: str | None
    held_out: bool
    libraries: dict[str, str]
    variants: tuple[StressedVariant, ...]

    def of(self, variant: str) -> StressedVariant | None:
        return next((each for each in self.variants if each.variant == variant), None)


def read_stress(folder: RunFolder, info: RunInfo, trials: Sequence[TrialResult]) -> StressRecord | None:
    """What was measured of this run's photos and artifacts as they are; None where nothing was, or by another
    method. Raises WorkbenchError for a file that cannot be read."""
    if not (path := folder.path / FILE).exists():
        return None
    record, built = read_record(path, StressRecord, what="stress record"), _digests(trials)
    same = (record.method, record.validation_digest) == (METHOD, info.validation_digest)
    if not same or record.baseline_digest != built[BASELINE][1]:
        return None
    kept = tuple(each for each in record.variants if built.get(each.variant) == _digests_of(each))
    return record.model_copy(update={"variants": kept})


def write_stress(folder: RunFolder, record: StressRecord) -> None:
    write_record(folder.path / FILE, record)


def _digests(trials: Sequence[TrialResult]) -> dict[str, tuple[str, str | None]]:
    return {BASELINE: ("", None)} | {trial.variant: _digests_of(trial) for trial in trials}


def _digests_of(built: TrialResult | StressedVariant) -> tuple[str, str | None]:
    return built.digest, built.artifact_digest


def merge(known: StressedVariant | None, new: StressedVariant) -> StressedVariant:
    """With the new cells in the place of old ones, unless those are of more photos."""
    cells = {(cell.stress, cell.severity): cell for cell in known.cells} if known else {}
    for cell in new.cells:
        old = cells.get((cell.stress, cell.severity))
        if old is None or old.accuracy.images <= cell.accuracy.images:
            cells[cell.stress, cell.severity] = cell
    ordered = sorted(cells.values(), key=lambda cell: ([*STRESSES].index(cell.stress), cell.severity))
    return new.model_copy(update={"cells": tuple(ordered)})


@dataclass(frozen=True, slots=True)
class CertifiedStress:
    """p: of a drop beyond the limit, adjusted for the stresses that were measured at its severity."""

    cell: StressCell
    p: float

    @property
    def certified(self) -> bool:
        return self.p <= 1 - CONFIDENCE


def certificate(cells: Sequence[StressCell], limit: float, candidates: int = 1) -> list[CertifiedStress]:
    """Which drops are within the limit: at 95 % all that are certified are, however many were tried.

    cells: of one severity. S. Holm's step-down test (see `per_class.holm`). candidates: variants that the
    same photos chose among, 1 where they are held out (Bonferroni).
    """
    adjusted = holm([cell.accuracy.paired.p_beyond(limit) for cell in cells])
    return [CertifiedStress(cell, min(1.0, candidates * p)) for cell, p in zip(cells, adjusted, strict=True)]


def candidates_of(info: RunInfo, trials: Sequence[TrialResult]) -> int:
    """Variants that the stressed photos chose among; 1 where they are held out."""
    few = not info.certification_images and isinstance(info.uncertified, TooFewToSplit)
    return max(1, sum(map(is_candidate, trials))) if few else 1


def largest_drop(budget: Budget) -> float:
    """That a certificate allows: of `budget.field`, else that of photos without stress."""
    return budget.field.max_drop if budget.field else budget.max_accuracy_drop


def main_severity(known: StressedVariant, budget: Budget) -> int:
    """The one to look at first: of `budget.field`, else of most photos, else the one in the middle."""
    images = {s: min(cell.accuracy.images for cell in known.at(s)) for s in known.severities}
    asked = budget.field.severity if budget.field else DEFAULT_SEVERITY
    return max(images, key=lambda s: (s == asked and budget.field is not None, images[s], -abs(s - asked)))


def field_shortfalls(
    trial: TrialResult, info: RunInfo, trials: Sequence[TrialResult], record: StressRecord | None
) -> tuple[reasons.Shortfall, ...]:
    """What keeps the trial from `budget.field`; empty where it is certified, or there is no such rule."""
    # The baseline is what the drop is measured against, and the same function loses nothing under any stress.
    if (field := info.budget.field) is None or trial.variant == BASELINE or trial.same_answers is not None:
        return ()
    known = record.of(trial.variant) if record else None
    cells = known.at(field.severity) if known else []
    there = {cell.stress for cell in cells}
    if missing := tuple(name for name in STRESSES if name not in there):
        return (
            reasons.FieldUnmeasuredShortfall(
                run=info.run_id, variant=trial.variant, severity=field.severity, stresses=missing
            ),
        )
    if info.leak:
        return (reasons.LeakShortfall(cause=info.uncertified),)
    return tuple(
        reasons.FieldShortfall(
            stress=found.cell.stress,
            severity=field.severity,
            images=found.cell.accuracy.images,
            drop=found.cell.accuracy.paired.drop,
            drop_upper=found.cell.accuracy.paired.upper_bound(),
            limit=field.max_drop,
            p=found.p,
        )
        for found in certificate(cells, field.max_drop, candidates_of(info, trials))
        if not found.certified
    )


def field_check(
    winner: TrialResult, info: RunInfo, trials: Sequence[TrialResult], record: StressRecord | None
) -> list[reasons.FieldCheck]:
    """What `budget.field` says of the winner; nothing without such a rule."""
    if (field := info.budget.field) is None:
        return []
    missed = field_shortfalls(winner, info, trials, record)
    return [
        reasons.FieldCheck(
            variant=winner.variant, severity=field.severity, limit=field.max_drop, shortfalls=missed
        )
    ]


@dataclass(frozen=True, slots=True)
class StressLine:
    """A variant under one stress, as it is shown. Fractions are of 1.

    drop_upper: one-sided 95 % bound. p: of a drop beyond the limit, adjusted for the stresses of its
    severity; None where nothing can be lost. ece: expected calibration error. worst_class: the one that loses
    the largest share of its photos, None where none loses any.
    """

    variant: str
    stress: str
    severity: int
    images: int
    baseline_top1: float
    top1: float
    drop: float
    drop_upper: float
    p: float | None
    certified: bool
    baseline_ece: float | None
    ece: float | None
    worst_class: str | None
    worst_class_images: int
    worst_class_lost: int


def stress_lines(
    record: StressRecord, info: RunInfo, trials: Sequence[TrialResult], variants: Sequence[str]
) -> list[StressLine]:
    """Everything known of these variants: by variant, then by stress, then by severity."""
    limit, candidates = largest_drop(info.budget), candidates_of(info, trials)
    sure = {BASELINE, *(trial.variant for trial in trials if trial.same_answers is not None)}
    found = []
    for known in (each for name in variants if (each := record.of(name)) is not None):
        certified = {
            (each.cell.stress, severity): each
            for severity in known.severities
            for each in certificate(known.at(severity), limit, candidates)
        }
        found += [
            _line(certified[cell.stress, cell.severity], known.variant, info, sure=known.variant in sure)
            for cell in known.cells
        ]
    return found


def _line(found: CertifiedStress, variant: str, info: RunInfo, *, sure: bool) -> StressLine:
    """sure: it computes the baseline's function."""
    cell, counts = found.cell, found.cell.accuracy
    worst = next((change for change in class_changes(counts, info.class_names) if change.drop > 0), None)
    return StressLine(
        variant=variant,
        stress=cell.stress,
        severity=cell.severity,
        images=counts.images,
        baseline_top1=cell.baseline_top1,
        top1=counts.top1,
        drop=counts.paired.drop,
        drop_upper=counts.paired.upper_bound(),
        p=None if sure else found.p,
        certified=sure or (found.certified and not info.leak),
        baseline_ece=cell.baseline_ece,
        ece=counts.ece,
        worst_class=worst.name if worst else None,
        worst_class_images=worst.images if worst else 0,
        worst_class_lost=worst.losses - worst.gains if worst else 0,
    )
