"""The classes a variant loses on: an accuracy that holds on average can still give up one disease."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.backends.softmax import OutputKind, probabilities_of
from workbench.measure.records import Accuracy
from workbench.measure.stats import PairedDrop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One class against the baseline. p: of exact McNemar, adjusted for the number of classes (Holm)."""

    name: str
    images: int
    losses: int
    gains: int
    p: float

    @property
    def drop(self) -> float:
        """Of this class's recall, a fraction of 1."""
        return (self.losses - self.gains) / self.images


@dataclass(frozen=True, slots=True)
class Confusion:
    """Photos of one class that the variant takes for another and the baseline does not."""

    truth: str
    taken_for: str
    images: int


def class_changes(accuracy: Accuracy, class_names: Sequence[str]) -> list[ClassChange]:
    """Every class whose answers changed, the largest drop first; none where they were not counted."""
    if not accuracy.class_losses:
        return []
    counts = zip(class_names, accuracy.class_images, accuracy.class_losses, accuracy.class_gains, strict=True)
    changed = [(name, images, losses, gains) for name, images, losses, gains in counts if losses + gains]
    adjusted = holm([PairedDrop(losses, gains, images).mcnemar_p() for _, images, losses, gains in changed])
    found = [ClassChange(*counts, p) for counts, p in zip(changed, adjusted, strict=True)]
    return sorted(found, key=lambda change: (-change.drop, change.name))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that any below 0.05 is a 5 % claim about all of them together.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def new_confusions(
    logits: "NDArray[np.float32]",
    baseline: "NDArray[np.float32]",
    labels: Sequence[int],
    class_names: Sequence[str],
) -> list[Confusion]:
    """The confusions of the variant that the baseline does not have, most frequent first.

    logits, baseline: (n, classes).
    """
    answers, before = logits.argmax(axis=1), baseline.argmax(axis=1)
    pairs = Counter(
        (truth, int(answer))
        for truth, answer, earlier in zip(labels, answers, before, strict=True)
        if answer != truth and answer != earlier
    )
    found = pairs.most_common()
    return [Confusion(class_names[truth], class_names[answer], n) for (truth, answer), n in found]


def expected_calibration_error(
    probabilities: "NDArray[np.float64]", labels: "NDArray[np.int64]", bins: int = 15
) -> float:
    """The mean distance of confidence from accuracy, as a fraction of 1.

    probabilities: (n, classes). C. Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    import numpy as np

    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    # The share of a bin's photos cancels against the means over them.
    return float(np.abs(np.bincount(slot, right - confidence)).sum() / len(labels))


def mean_kl(
    reference: "NDArray[np.float32]", logits: "NDArray[np.float32]", kind: OutputKind = "logits"
) -> float:
    """Mean Kullback-Leibler divergence of the logits' probabilities from the reference's, in nats."""
    import numpy as np

    p, q = probabilities_of(reference, kind), probabilities_of(logits, kind)
    tiny = math.ulp(0.0)
    return float((p * (np.log(p + tiny) - np.log(q + tiny))).sum(axis=1).mean())
