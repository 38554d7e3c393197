"""What a network's outputs on labelled photos show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.backends.softmax import OutputKind, probabilities_of
from workbench.results.remarks import Remark
from workbench.run.sanity.class_order import DOUBT, bounds, class_order

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.run.sanity.class_order import Rows

# Photos of a class, or wrong ones, of all, and of all in unequal classes, fewer of which say nothing.
FEW, FEWEST, MANY = 5, 20, 50


def output_kind(outputs: "NDArray[np.float32]") -> OutputKind:
    """Probabilities where every row is above 0 and all rows sum up to the same 1 (or 100)."""
    return "probabilities" if _form_of(outputs) in ("probabilities", "percentages") else "logits"


def _form_of(outputs: "NDArray[np.float32]") -> str | None:
    import numpy as np

    if outputs.shape[1] < 2 or not np.isfinite(outputs).all():
        return None
    wide = outputs.astype(np.float64)
    sums, low, high = wide.sum(axis=1), float(wide.min()), float(wide.max())
    if high <= 0:
        exact = np.abs(np.log(np.exp(wide).sum(axis=1))).max() < 0.01
        return "log_probabilities" if exact else None
    if low < -1e-6:
        return None
    # A quantised softmax is off by a level or two a class.
    slack = 0.01 + outputs.shape[1] / 512 if outputs.shape[1] < 50 else 0.1
    for total, form in ((1.0, "probabilities"), (100.0, "percentages")):
        if np.abs(sums / total - 1).max() < slack:
            return form
    return "sigmoid" if high <= 1 and high > 0.9 and low < 0.5 else None


def of_answers(outputs: "NDArray[np.float32]", labels: "Rows", names: Sequence[str]) -> list[Remark]:
    """outputs: (n, classes) of the network. labels: (n,) in the order of the names."""
    import numpy as np

    if broken := int((~np.isfinite(outputs)).any(axis=1).sum()):
        figures: dict[str, float] = {"images": broken, "total": len(outputs)}
        return [Remark(kind="not_finite", gravity="grave", figures=figures)]
    found, form, answers = [], _form_of(outputs), outputs.argmax(axis=1)
    if form is not None:
        found.append(Remark(kind="outputs", gravity="grave" if form == "sigmoid" else "note", form=form))
    order = class_order(answers, labels, names)
    constant = _one_class(answers, labels, names)
    chance = None if constant else _near_chance(answers, labels, names)
    found += [remark for remark in (order, constant, chance) if remark is not None]
    if constant is None and order is None:
        counts, seen = np.bincount(labels, minlength=len(names)), set(answers.tolist())
        if missed := [n for i, n in enumerate(names) if counts[i] >= FEW and i not in seen]:
            found.append(Remark(kind="never_predicted", gravity="note", names=tuple(missed)))
        probabilities = probabilities_of(outputs, output_kind(outputs))
        confidence = None if form == "sigmoid" else _confidence(probabilities, answers == labels)
        found += [confidence] if confidence is not None else []
    return found


def is_low(right: int, total: int, classes: int) -> bool:
    """Is the accuracy surely less than half way from chance to perfect?"""
    return bounds(right, total)[1] < (1 + 1 / classes) / 2


def _near_chance(answers: "Rows", labels: "Rows", names: Sequence[str]) -> Remark | None:
    """No better than guessing, or than always giving the most frequent class."""
    import numpy as np
    from scipy.special import bdtrc

    right, total, counts = int((answers == labels).sum()), len(labels), np.bincount(labels)
    chance, most = 1 / len(names), int(counts.argmax())
    if (frequent := float(counts[most] / total)) == 1 or len(names) < 2:
        return None

    def is_better(than: float) -> bool:
        return right > 0 and bool(bdtrc(right - 1, total, than) < DOUBT)

    figures: dict[str, float] = {"right": right, "images": total, "chance": chance, "frequent": frequent}
    if total >= FEWEST and is_low(right, total, len(names)) and not is_better(chance):
        form = "below" if bounds(right, total)[1] < chance / 2 else None
        return Remark(kind="near_chance", gravity="grave", form=form, figures=figures)
    recalls = [float((answers[labels == k] == k).mean()) for k in np.flatnonzero(counts)]
    balanced = sum(recalls) / len(recalls)
    if total >= MANY and not is_better(frequent) and balanced < (1 + 1 / len(recalls)) / 2:
        grave = balanced < 1 / len(recalls) + 0.1
        figures["balanced"] = balanced
        return Remark(
            kind="most_frequent", gravity="grave" if grave else "note", figures=figures, names=(names[most],)
        )
    return None


def _one_class(answers: "Rows", labels: "Rows", names: Sequence[str]) -> Remark | None:
    """(Nearly) always the same answer."""
    import numpy as np

    counts = np.bincount(answers)
    top, total = int(counts.argmax()), len(answers)
    share, true = float(counts[top] / total), float((labels == top).mean())
    if total < 10 or share < 0.98 or true > 0.8:
        return None
    figures = {"share": share, "true": true, "images": total}
    return Remark(kind="one_class", gravity="grave", figures=figures, names=(names[top],))


def _confidence(probabilities: "NDArray[np.float64]", right: "NDArray[np.bool_]") -> Remark | None:
    highest, classes, wrong = probabilities.max(axis=1), probabilities.shape[1], int((~right).sum())
    figures: dict[str, float] = {
        "low": float(highest.min()),
        "high": float(highest.max()),
        "accuracy": float(right.mean()),
        "wrong": wrong,
    }
    if wrong >= FEW and highest.min() > 0.99:
        return Remark(kind="confidence", gravity="note", form="sure", figures=figures)
    surely = bounds(int(right.sum()), len(right))[0]
    if len(right) >= 10 and highest.max() < max(1.2 / classes, surely - 0.3):
        return Remark(kind="confidence", gravity="note", form="uniform", figures=figures)
    return None
