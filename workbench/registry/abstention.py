"""The rule by which a version abstains: fitted from what its run recorded, and in words."""

from collections.abc import Sequence

from workbench.backends.abstention import Abstention, RiskLimits
from workbench.errors import WorkbenchError, plural
from workbench.measure.abstention import LabelledOutputs, fit
from workbench.results.certification import candidates
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.system.files import load_arrays, read_plain

SHARED = "photos are in both the {use} and the validation data"


def fit_abstention(
    run: RunFolder, info: RunInfo, trial: TrialResult, trials: Sequence[TrialResult], limits: RiskLimits
) -> Abstention | None:
    """The rule of the trial's own answers. None where there is one class, and in runs that kept no groups.

    Temperature, floor and sequence come from the photos that chose the winner, the threshold from those held
    out. Where none are held out, all chose: then a half of them tests, and the promise allows for every
    variant that they chose among.
    """
    import numpy as np

    labels_path, outputs_path = run.path / "validation.npz", run.predictions(trial.variant)
    if len(info.class_names) < 2 or not labels_path.is_file():
        return None
    data = read_plain(labels_path)
    labels, certifies = load_arrays(labels_path, data, "labels", "certifies")
    try:
        (groups,) = load_arrays(labels_path, data, "groups")
    except WorkbenchError:
        return None  # of an older run
    (outputs,) = load_arrays(outputs_path, read_plain(outputs_path), "logits")
    if outputs.shape != (len(labels), len(info.class_names)):
        raise WorkbenchError(
            f"{outputs_path} is of other photos or classes than {labels_path}", hint="run it again"
        )
    if info.leak:
        return Abstention(limits=limits, why_not=SHARED.format(use=info.leak_of))
    if not np.isfinite(outputs).all():
        return Abstention(limits=limits, why_not="some of its logits are not finite")
    answers = LabelledOutputs(outputs, info.outputs, labels, groups)
    if certifies.any():
        return fit(answers.rows(~certifies), answers.rows(certifies), limits)
    return fit(*answers.halves(), limits, claims=candidates(trials) + 1)  # the baseline, too, may be promoted


def promise(rule: Abstention) -> str:
    """`answers 87 % of photos; at most 2 % of answers wrong (95 %, 240 photos)`, or why it is not so."""
    if rule.why_not is not None:
        return f"no abstain threshold: {rule.why_not}"
    risk, sure = percent(rule.limits.max_risk), percent(rule.limits.confidence)
    share, photos = percent(rule.answered / rule.photos, 0), plural(rule.photos, "photo")
    if rule.least_confidence is not None:
        return f"answers {share} of photos; at most {risk} of answers wrong ({sure}, {photos})"
    surest = f"all {photos}" if rule.answered == rule.photos else f"the surest {share} of {photos}"
    shown = f"{surest} show at most {percent(rule.shown_risk or 1.0)} wrong ({sure})"
    return f"no abstain threshold: {shown}, not {risk}; {_remedy(rule)}"


def _remedy(rule: Abstention) -> str:
    allow = "allow more with `abstain.max_risk` in krishi.yaml"
    if rule.needed is None:
        return f"no number of photos would show it at the errors seen: {allow}"
    photos = plural(_rounded(rule.needed), "validation photo")
    return f"about {photos} would show it at the errors seen; or {allow}"


def _rounded(photos: int) -> int:
    """Up, to two digits: it is an estimate."""
    unit = int(10 ** max(0, len(str(photos)) - 2))
    return -(-photos // unit) * unit


def percent(share: float, digits: int = 1) -> str:
    return f"{round(100 * share, digits):g} %"


def in_words(rule: Abstention) -> list[str]:
    """For a model card: what it promises, when it abstains, and what that does not cover."""
    lines = [f"- {promise(rule)[0].upper()}{promise(rule)[1:]}."]
    if rule.least_confidence:
        lines.append(
            f"- An answer is `uncertain` below a calibrated confidence of {rule.least_confidence:.3g} "
            f"(temperature {rule.temperature:.3g})."
        )
    if rule.least_energy is not None:
        lines.append(
            f"- A photo with an energy below {rule.least_energy:.3g} counts as unlike the training photos, "
            f"which {percent(rule.limits.unlike)} of the photos for selection did."
        )
    if rule.claims > 1:
        choice = plural(rule.claims, "variant")
        lines.append(f"- No photo was held out: the promise allows for a choice among {choice}.")
    if rule.least_confidence is not None:
        lines.append("- The promise is of photos like the validation photos, not of other fields or seasons.")
    return lines
