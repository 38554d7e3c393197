"""Accuracy and parity from logits: counts in, no model in sight."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.backends.softmax import softmax
from workbench.errors import WorkbenchError
from workbench.measure.per_class import expected_calibration_error, mean_kl
from workbench.measure.records import Accuracy, Parity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOP5 = 5


def accuracy(
    logits: "NDArray[np.float32]", baseline: "NDArray[np.float32]", labels: Sequence[int]
) -> Accuracy:
    """Count what the variant gets right, and against the baseline on the same photos.

    logits, baseline: (n, classes), before or after softmax: only the order counts.
    labels: (n,) class indices in the order of the class names. Macro-F1 averages over the classes that
    have photos; a class never predicted and never present would have no F1.
    """
    import numpy as np

    truth = np.asarray(labels)
    classes = logits.shape[1]
    right = logits.argmax(axis=1) == truth
    reference_right = baseline.argmax(axis=1) == truth
    images = np.bincount(truth, minlength=classes)
    correct = np.bincount(truth[right], minlength=classes)
    predicted = np.bincount(logits.argmax(axis=1), minlength=classes)
    present = images > 0
    # F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (predicted + present).
    f1 = 2 * correct[present] / (predicted[present] + images[present])
    return Accuracy(
        images=len(truth),
        correct=int(right.sum()),
        correct_top5=_correct_top5(logits, truth) if classes > TOP5 else None,
        macro_f1=float(f1.mean()),
        class_images=tuple(images.tolist()),
        class_correct=tuple(correct.tolist()),
        losses=int((reference_right & ~right).sum()),
        gains=int((right & ~reference_right).sum()),
        class_losses=tuple(np.bincount(truth[reference_right & ~right], minlength=classes).tolist()),
        class_gains=tuple(np.bincount(truth[right & ~reference_right], minlength=classes).tolist()),
        ece=expected_calibration_error(softmax(logits), truth),
    )


def _correct_top5(logits: "NDArray[np.float32]", truth: "NDArray[np.int64]") -> int:
    import numpy as np

    best = np.argpartition(logits, -TOP5, axis=1)[:, -TOP5:]
    return int((best == truth[:, None]).any(axis=1).sum())


def parity(logits: "NDArray[np.float32]", reference: "NDArray[np.float32]") -> Parity:
    """How far logits are from the reference's, both (n, classes).

    Raises WorkbenchError where there are NaN or infinite logits: no accuracy means anything then.
    """
    import numpy as np

    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise WorkbenchError(f"{broken} of {len(logits)} photos gave NaN or infinite logits")
    max_abs = float(np.abs(logits.astype(np.float64) - reference).max())
    return Parity(
        images=len(logits),
        max_abs=max_abs,
        max_rel=max_abs / max(float(np.abs(reference).max()), 1e-12),
        top1_agreement=float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        kl=mean_kl(reference, logits),
    )
