"""Whether a conversion still computes what it came from, by the logits of both on the same photos."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from workbench.errors import plural
from workbench.measure.records import SameAnswers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Of the largest logit: what float32 arithmetic in another order changes, with room: re-exports and other
# runtimes differ by 1e-7 to 1e-5, and FP16 by 1e-3. Photos whose two best classes are closer than that, and
# whose answer is thus open, are as rare.
SAME = 1e-4
ROUNDING = 1e-3  # of the largest logit: what another order of float32 additions may change, and far above it
SMALLEST = 0.1  # logits below count as this large: float32 rounds them as the terms that they add up
# Of the spread of the logits: a coarse format may cost accuracy, which is measured; beyond this it is another
# function. bf16 keeps 8 bits, tf32 and fp16 three more; 1 is what constant logits would be off by.
LOSSY = {"tf32": 0.1, "fp16": 0.1, "bf16": 0.5, "unknown": 0.5, "int8": 1.0}
HINTS = {"f16": "fp16"}  # names that runtimes have for the formats
FEWEST = 20  # photos, before agreement by chance can be told
LEAST_KAPPA = 0.1  # of Cohen: 0 is chance, 1 is always the same


class Disagreement(NamedTuple):
    """row: the photo that differs most. text: how far, and what is allowed."""

    row: int
    text: str


def coarsest(formats: Iterable[str]) -> str:
    """The format of those that rounds most; `fp32` where all are exact."""
    known = [HINTS.get(name, name) for name in formats]
    return max((name for name in known if name in LOSSY), key=lambda name: LOSSY[name], default="fp32")


def disagreement(
    expected: "NDArray[np.float32]",
    got: "NDArray[np.float32]",
    precision: str = "fp32",
    *,
    rounding: float = ROUNDING,
    classes: bool = True,
) -> Disagreement | None:
    """How far `got` is from what it came from, both (n, classes); None where that is within the bound.

    precision: fp32 is held to `rounding` of the largest logit, a format of LOSSY to its fraction of the
    spread, and to naming the expected class more often than chance would. classes: the values are logits.
    """
    import numpy as np

    if got.shape != expected.shape:
        return Disagreement(0, f"it gives {got.shape} values for {expected.shape}")
    error = got.astype(np.float64) - expected
    furthest = np.abs(error).reshape(len(error), -1).max(axis=1, initial=0.0)
    if not np.isfinite(error).all():
        finite = np.isfinite(error).reshape(len(error), -1).all(axis=1)
        return Disagreement(int(np.argmin(finite)), "it is not finite (NaN or infinity)")
    row, largest = int(furthest.argmax()), float(np.abs(expected).max(initial=0.0))
    off = f"{'a logit' if classes else 'a value'} is off by {furthest[row]:.3g} of {largest:.3g}"
    if (bound := LOSSY.get(precision)) is None:
        allowed = rounding * max(SMALLEST, largest)
        text = f"{off}, and rounding explains {allowed:.2g}"
        return Disagreement(row, text) if furthest[row] > allowed else None
    share = _rms(error) / max(_rms(expected), rounding * SMALLEST)
    if share > bound:
        text = f"{off}, on average by {share:.2g} of the spread; {precision} explains {bound:g}"
        return Disagreement(row, text)
    return _by_chance(expected.argmax(axis=1), got.argmax(axis=1), row, off) if classes else None


def same_answers(expected: "NDArray[np.float32]", got: "NDArray[np.float32]") -> SameAnswers | None:
    """Whether the logits in FP32, both (n, classes), are those of one function; None where they are not.

    The same class on every photo, ties included, and no logit off by more than SAME of the largest one.
    """
    import numpy as np

    if got.shape != expected.shape or not np.array_equal(expected.argmax(axis=1), got.argmax(axis=1)):
        return None
    furthest = float(np.abs(got.astype(np.float64) - expected).max(initial=0.0))
    share = furthest / max(SMALLEST, float(np.abs(expected).max(initial=0.0)))
    # NaN is within no bound.
    return SameAnswers(images=len(got), max_rel=share, bound=SAME) if share <= SAME else None


def _rms(logits: "NDArray[np.floating]") -> float:
    """Root mean square of the distances from each photo's mean, which softmax takes no notice of."""
    import numpy as np

    flat = np.asarray(logits, np.float64).reshape(len(logits), -1)
    return float(np.sqrt(np.mean((flat - flat.mean(axis=1, keepdims=True)) ** 2)))


def _by_chance(
    expected: "NDArray[np.intp]", got: "NDArray[np.intp]", row: int, off: str
) -> Disagreement | None:
    """Where the classes agree no more often than those of two that know nothing of each other would."""
    import numpy as np

    count, most = len(expected), int(max(expected.max(), got.max())) + 1
    frequencies = [np.bincount(classes, minlength=most) / count for classes in (expected, got)]
    chance, agreeing = float(frequencies[0] @ frequencies[1]), int((expected == got).sum())
    # Where one class is named for nearly every photo, agreement says nothing.
    if count < FEWEST or max(map(max, frequencies)) > 0.75:
        return None
    if agreeing / count > chance + LEAST_KAPPA * (1 - chance):
        return None
    what = f"its class is the expected one for {agreeing} of {plural(count, 'photo')}"
    return Disagreement(row, f"{off}, and {what}")
