"""Accuracy and parity, from logits alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.backends.softmax import OutputKind, probabilities_of
from workbench.errors import WorkbenchError, plural
from workbench.measure.per_class import expected_calibration_error, mean_kl
from workbench.measure.records import Accuracy, Parity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Outputs = NDArray[np.float32]

TOP5 = 5


def accuracy(
    logits: "Outputs",
    baseline: "Outputs",
    labels: Sequence[int],
    kind: OutputKind = "logits",
    independent: float | None = None,
) -> Accuracy:
    """Count the photos that the variant gets right, and those it loses and gains against the baseline.

    logits, baseline: (n, classes), of this kind. labels: (n,) class indices in the order of the class names.
    independent: see `Accuracy`.
    """
    import numpy as np

    truth, answers = np.asarray(labels), logits.argmax(axis=1)
    classes = logits.shape[1]
    right, baseline_right = answers == truth, baseline.argmax(axis=1) == truth
    lost, gained = baseline_right & ~right, right & ~baseline_right

    def per_class(photos: "NDArray[np.bool_]") -> tuple[int, ...]:
        return tuple(np.bincount(truth[photos], minlength=classes).tolist())

    best = np.argpartition(logits, -TOP5, axis=1)[:, -TOP5:] if classes > TOP5 else None
    return Accuracy(
        images=len(truth),
        correct=int(right.sum()),
        correct_top5=None if best is None else int((best == truth[:, None]).sum()),
        macro_f1=_macro_f1(answers, truth, classes),
        class_images=per_class(np.ones_like(right)),
        class_correct=per_class(right),
        losses=int(lost.sum()),
        gains=int(gained.sum()),
        class_losses=per_class(lost),
        class_gains=per_class(gained),
        ece=expected_calibration_error(probabilities_of(logits, kind), truth),
        independent=independent,
    )


def _macro_f1(answers: "NDArray[np.int64]", truth: "NDArray[np.int64]", classes: int) -> float:
    """Over the classes that have photos."""
    import numpy as np

    right, images, given = (
        np.bincount(labels, minlength=classes) for labels in (truth[answers == truth], truth, answers)
    )
    present = images > 0
    # 2 TP / (2 TP + FP + FN) = 2 TP / (predicted + present)
    return float((2 * right[present] / (given + images)[present]).mean())


def parity(logits: "Outputs", reference: "Outputs", kind: OutputKind = "logits") -> Parity:
    """Compare logits with the reference's, both (n, classes).

    Raises WorkbenchError for NaN and infinite logits: no accuracy means anything then.
    """
    import numpy as np

    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise WorkbenchError(f"{broken} of {plural(len(logits), 'photo')} gave NaN or infinite logits")
    max_abs = float(np.abs(logits.astype(np.float64) - reference).max())
    return Parity(
        images=len(logits),
        max_abs=max_abs,
        max_rel=max_abs / max(float(np.abs(reference).max()), 1e-12),
        top1_agreement=float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        kl=mean_kl(reference, logits, kind),
    )
