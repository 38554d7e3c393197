"""Fits the rule by which a version abstains: a temperature, a threshold with a promise, an energy floor.

The threshold is one of a sequence that was fixed on other photos, from few answers to all. Each is tested by
the exact binomial test of "more answers are wrong than allowed", and the last before the first that fails is
kept: a fixed sequence of tests, which needs no correction for their number (A. N. Angelopoulos et al., "Learn
then test", 2021; selective risk: Y. Geifman and R. El-Yaniv, "Selective classification for deep neural
networks", NeurIPS 2017).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.backends.abstention import Abstention, RiskLimits, Scores, as_logits
from workbench.backends.softmax import OutputKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLDEST, HOTTEST = 0.25, 16.0  # where every answer is right, no temperature is the best one
STEPS = 50  # thresholds; more are stopped by chance more often, fewer answer less
NEARLY = 0.01  # less power than the best start, for the sake of fewer answers to begin with
LEAST_PHOTOS = 20  # of each part; a quantile or a temperature of fewer means nothing
LARGEST = 10**7  # photos; what takes more is out of reach


@dataclass(frozen=True, slots=True)
class LabelledOutputs:
    """What a network gave for photos.

    outputs: (n, classes). labels: (n,) class indices. groups: (n,) numbers that near-duplicates share.
    """

    outputs: "NDArray[np.float32]"
    kind: OutputKind
    labels: "NDArray[np.int64]"
    groups: "NDArray[np.int64]"

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: "NDArray[np.bool_]") -> "LabelledOutputs":
        return LabelledOutputs(self.outputs[chosen], self.kind, self.labels[chosen], self.groups[chosen])

    def wrong(self) -> "NDArray[np.bool_]":
        found: NDArray[np.bool_] = self.outputs.argmax(axis=1) != self.labels
        return found

    def halves(self) -> "tuple[LabelledOutputs, LabelledOutputs]":
        """Near-duplicates stay together; the same for ever."""
        import numpy as np

        order = {group: place for place, group in enumerate(dict.fromkeys(self.groups.tolist()))}
        first = np.array([order[group] % 2 == 0 for group in self.groups.tolist()])
        return self.rows(first), self.rows(~first)


@dataclass(frozen=True, slots=True)
class ThresholdCounts:
    """Answers by threshold, (thresholds,) each. photos, wrong: near-duplicates count once."""

    answered: "NDArray[np.int64]"
    failed: "NDArray[np.int64]"
    photos: "NDArray[np.float64]"
    wrong: "NDArray[np.float64]"


def fit(
    fitting: LabelledOutputs, testing: LabelledOutputs, limits: RiskLimits, *, claims: int = 1
) -> Abstention:
    """fitting: photos for temperature, floor and sequence; testing: photos that had no part in them.

    claims: versions whose promises all have to hold together.
    """
    if min(len(fitting), len(testing)) < LEAST_PHOTOS:
        few = f"too few photos: {len(fitting)} to fit it, {len(testing)} to test it"
        return Abstention(limits=limits, why_not=few)
    rule = Abstention(limits=limits, temperature=temperature(fitting), photos=len(testing), claims=claims)
    rule = rule.model_copy(update=_floor(rule.scores(fitting.outputs, fitting.kind), limits.unlike))
    alpha = (1 - limits.confidence) / claims
    thresholds = _sequence(rule, fitting)
    seen, tested = (tally(rule, part, thresholds) for part in (fitting, testing))
    start = _start(seen, len(testing) / len(fitting), limits.max_risk, alpha)
    passed = tail(tested.wrong, tested.photos, limits.max_risk)[start:] <= alpha
    kept = start + int(passed.argmin() if not passed.all() else len(passed)) - 1
    chosen = max(kept, start)
    counts = {"answered": int(tested.answered[chosen]), "wrong": int(tested.failed[chosen])}
    if kept >= start:
        return rule.model_copy(update={**counts, "least_confidence": float(thresholds[kept])})
    needed = _needed(tested, limits.max_risk, alpha, len(testing))
    if needed is not None:
        needed += math.ceil(needed * len(fitting) / len(testing))
    shown = upper_bound(float(tested.wrong[start]), float(tested.photos[start]), alpha)
    return rule.model_copy(update={**counts, "shown_risk": shown, "needed": needed})


def temperature(answers: LabelledOutputs) -> float:
    """The one with the least negative log-likelihood, within bounds."""
    import numpy as np

    logits = as_logits(answers.outputs, answers.kind)
    own = logits[np.arange(len(answers)), answers.labels]

    def slope(inverse: float) -> float:
        powers = np.exp(inverse * (logits - logits.max(axis=1, keepdims=True)))
        return float(np.mean((powers * logits).sum(axis=1) / powers.sum(axis=1) - own))

    # The likelihood is convex in the inverse of the temperature.
    low, high = 1 / HOTTEST, 1 / COLDEST
    while high / low > 1 + 1e-6:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / high


def _floor(scores: Scores, unlike: float) -> dict[str, float | None]:
    """The energy that a share of usual photos lies below, and their median; neither of fewer than show it."""
    import numpy as np

    if scores.energy is None or len(scores.energy) * unlike < 1:
        return {}
    least, usual = np.quantile(scores.energy, [unlike, 0.5], method="lower").tolist()
    return {"least_energy": least, "usual_energy": usual} if usual > least else {}


def _sequence(rule: Abstention, fitting: LabelledOutputs) -> "NDArray[np.float64]":
    """Thresholds that answer ever larger shares of the photos, the last one all."""
    import numpy as np

    confidence = rule.scores(fitting.outputs, fitting.kind).confidence
    shares = np.linspace(1, 0, STEPS, endpoint=False)[::-1]
    found = np.quantile(confidence, 1 - shares, method="lower")
    found[-1] = 0.0
    return np.unique(found)[::-1].copy()


def tally(rule: Abstention, answers: LabelledOutputs, thresholds: "NDArray[np.float64]") -> ThresholdCounts:
    """Count the answers that are given with each threshold, and the wrong ones."""
    import numpy as np

    scores = rule.scores(answers.outputs, answers.kind)
    like = np.ones(len(answers), dtype=bool)
    if rule.least_energy is not None and scores.energy is not None:
        like = scores.energy >= rule.least_energy
    given = (scores.confidence >= thresholds[:, None]) & like
    wrong = given & answers.wrong()
    answered, failed = given.sum(axis=1), wrong.sum(axis=1)
    photos = answered.astype("float64")
    if len(np.unique(answers.groups)) < len(answers):
        photos = np.array([independent(answers.groups[row]) for row in given])
    return ThresholdCounts(answered, failed, photos, failed * (photos / np.maximum(answered, 1)))


def independent(groups: "NDArray[np.int64]") -> float:
    """The photos that these count as: see `split.Parts.independent`."""
    import numpy as np

    sizes = np.unique(groups, return_counts=True)[1].astype("float64")
    return float(len(groups) ** 2 / (sizes**2).sum()) if len(groups) else 0.0


def tail(wrong: "NDArray[np.float64]", photos: "NDArray[np.float64]", risk: float) -> "NDArray[np.float64]":
    """P(no more are wrong), were the true risk `risk`: the p-value of "the risk is no smaller".

    Of whole counts the binomial distribution; of others its continuation, as in Korn and Graubard's interval
    ("Confidence intervals for proportions with small expected number of positive counts estimated from survey
    data", Survey Methodology 24, 1998).
    """
    import numpy as np
    from scipy.special import betainc

    all_wrong = photos - wrong <= 0
    found = betainc(np.where(all_wrong, 1, photos - wrong), wrong + 1, 1 - risk)
    return np.where(all_wrong, 1.0, found)


def upper_bound(wrong: float, photos: float, alpha: float) -> float:
    """The largest risk that the counts do not reject: Clopper and Pearson's."""
    from scipy.special import betaincinv

    return float(betaincinv(wrong + 1, photos - wrong, 1 - alpha)) if wrong < photos else 1.0


def _start(seen: ThresholdCounts, scale: float, risk: float, alpha: float) -> int:
    """Where the sequence begins: the fewest answers with which a test is all but sure to pass.

    scale: photos of the test over photos seen.
    """
    import numpy as np
    from scipy.special import bdtr, bdtrik, betaincinv

    expected = (seen.wrong + 0.5) / (seen.photos + 1)
    photos = np.floor(seen.photos * scale)
    possible = tail(np.zeros_like(photos), photos, risk) <= alpha
    if not possible.any():  # Too few photos: the one that shows the least risk.
        right = np.maximum(seen.photos - seen.wrong, 1e-9)
        return int(betaincinv(seen.wrong + 1, right, 1 - alpha).argmin())
    allowed = np.floor(bdtrik(alpha, np.maximum(photos, 1), risk))
    power = np.where(possible, bdtr(allowed, photos.astype(int), expected), 0.0)
    return int((power >= power.max() - NEARLY).argmax())


def _needed(tested: ThresholdCounts, risk: float, alpha: float, photos: int) -> int | None:
    """The photos to test with that some threshold would take which does not pass, at the rates seen."""
    short = tail(tested.wrong, tested.photos, risk) > alpha
    counts = zip(tested.wrong[short], tested.photos[short], strict=True)
    found = [_photos_for(k / n, risk, alpha) * photos / n for k, n in counts if n > 0 and k / n < risk]
    return math.ceil(min(found)) if found and min(found) < LARGEST else None


def _photos_for(rate: float, risk: float, alpha: float) -> float:
    """Answers it takes for the test to pass where so many are wrong."""
    import numpy as np

    low, high = 1.0, float(LARGEST)
    while high / low > 1.005:
        middle = (low * high) ** 0.5
        passes = tail(np.array([rate * middle]), np.array([middle]), risk)[0] <= alpha
        low, high = (low, middle) if passes else (middle, high)
    return high
