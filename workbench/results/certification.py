"""Whether the accuracy that a variant loses is within the budget, and what shows it."""

from collections.abc import Sequence

from workbench.measure.records import BASELINE, Accuracy, TooFewToSplit
from workbench.measure.stats import CONFIDENCE
from workbench.results import reasons
from workbench.results.records import Budget, RunInfo, TrialResult


def certification_shortfalls(trial: TrialResult, info: RunInfo) -> tuple[reasons.Shortfall, ...]:
    """Why the trial's drop is not certified on held-out photos; empty where it is.

    Too few photos to hold any out is no shortfall: the run says so, and those that chose must do.
    """
    if trial.same_answers is not None:
        return ()
    if trial.certification is not None:
        return accuracy_shortfalls(trial, trial.certification, info)
    return (reasons.LeakShortfall(cause=info.uncertified),) if info.leak else ()


def accuracy_shortfalls(
    trial: TrialResult, counts: Accuracy | None, info: RunInfo
) -> tuple[reasons.Shortfall, ...]:
    if counts is None:
        return (reasons.UnmeasuredShortfall(what="accuracy"),)
    missed = (
        _drop_shortfall(counts, trial, info.budget),
        _class_shortfall(counts, info),
        _absent_classes(counts, trial, info),
    )
    return tuple(shortfall for shortfall in missed if shortfall is not None)


def _drop_shortfall(counts: Accuracy, trial: TrialResult, budget: Budget) -> reasons.Shortfall | None:
    # The baseline is what the drop is measured against, and the same function loses nothing: no sample.
    if trial.variant == BASELINE or trial.same_answers is not None:
        return None
    # The one-sided 95 % upper bound decides (non-inferiority): no difference on few photos proves nothing.
    drop, limit = counts.paired, budget.max_accuracy_drop
    if drop.drop > limit:
        return reasons.DropShortfall(drop=drop.drop, limit=limit)
    if (bound := drop.upper_bound()) <= limit:
        return None
    needed = drop.images_needed(limit) if drop.drop < limit else None
    return reasons.PhotosShortfall(
        images=drop.total, drop=drop.drop, drop_upper=bound, limit=limit, images_needed=needed
    )


def _class_shortfall(counts: Accuracy, info: RunInfo) -> reasons.Shortfall | None:
    if (limit := info.budget.max_class_drop) is None:
        return None
    counted = zip(counts.class_images, counts.class_losses, counts.class_gains, strict=True)
    drops = [(losses - gains) / images if images else 0.0 for images, losses, gains in counted]
    if (worst := max(drops, default=0.0)) <= limit:
        return None
    return reasons.ClassShortfall(class_name=_name(drops.index(worst), info), drop=worst, limit=limit)


def _absent_classes(counts: Accuracy, trial: TrialResult, info: RunInfo) -> reasons.Shortfall | None:
    if (limit := info.budget.max_class_drop) is None or not counts.absent_classes:
        return None
    # As for the drop of all: the baseline loses nothing against itself.
    if trial.variant == BASELINE or trial.same_answers is not None:
        return None
    names = tuple(_name(label, info) for label in counts.absent_classes)
    return reasons.AbsentClassShortfall(class_names=names, limit=limit)


def _name(label: int, info: RunInfo) -> str:
    return info.class_names[label] if label < len(info.class_names) else f"class {label}"


def certification(info: RunInfo, trials: Sequence[TrialResult], winner: TrialResult) -> reasons.Certification:
    """What shows that the winner keeps the accuracy, or why nothing does."""
    if (same := winner.same_answers) is not None:
        return reasons.CertifiedAsSame(variant=winner.variant, **dict(same))
    if (counts := winner.certification) is None:
        return _on_those_that_chose(info, trials, winner)
    if missed := certification_shortfalls(winner, info):
        return reasons.NotCertified(variant=winner.variant, images=counts.images, shortfalls=missed)
    drop = None if winner.variant == BASELINE else counts.paired
    return reasons.Certified(
        variant=winner.variant,
        images=counts.images,
        top1=counts.top1,
        drop=drop and drop.drop,
        drop_upper=drop and drop.upper_bound(),
        limit=info.budget.max_accuracy_drop,
        mcnemar_p=drop and drop.mcnemar_p(),
    )


def _on_those_that_chose(
    info: RunInfo, trials: Sequence[TrialResult], winner: TrialResult
) -> reasons.CertifiedTogether | reasons.NoneCertifies:
    none = reasons.NoneCertifies(variant=winner.variant, cause=info.uncertified, leak=info.leak)
    few, counts = isinstance(info.uncertified, TooFewToSplit), winner.accuracy
    if not few or counts is None or winner.variant == BASELINE:
        return none
    # The fastest of many within its bound is partly lucky: Bonferroni's inequality bounds the error of all of
    # them together. A two-fold cross-fit certifies less: docs/measured-certification.md.
    tried = max(1, candidates(trials))
    confidence, drop, limit = 1 - (1 - CONFIDENCE) / tried, counts.paired, info.budget.max_accuracy_drop
    if (bound := drop.upper_bound(confidence)) > limit:
        return none.model_copy(update={"candidates": tried, "drop_upper": bound})
    return reasons.CertifiedTogether(
        variant=winner.variant,
        images=counts.images,
        candidates=tried,
        confidence=confidence,
        drop=drop.drop,
        drop_upper=bound,
        limit=limit,
    )


def candidates(trials: Sequence[TrialResult]) -> int:
    """How many variants the photos chose among, beside the baseline and what gives its very answers."""
    return sum(map(is_candidate, trials))


def is_candidate(trial: TrialResult) -> bool:
    """Whether photos decided on the trial's drop; those that a search looked at too."""
    if trial.variant == BASELINE or trial.same_answers is not None:
        return False
    return trial.accuracy is not None or isinstance(trial.cause, reasons.NotFinalist)
