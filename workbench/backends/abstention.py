"""When an answer is uncertain: the rule that a version carries, as its fitting and the server apply it."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from workbench.backends.softmax import OutputKind
from workbench.system.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# As in the answers of the server.
Doubt = Literal["low confidence", "unlike the training photos"]
LEAST_PROBABILITY = 1e-12  # INT8 rounds small ones to 0, which has no logarithm


class RiskLimits(Record):
    """How often the answers of a version that are not called uncertain may be wrong, and how sure that is."""

    max_risk: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.02, description="Largest share of wrong answers among those that are not called uncertain."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.95, description="How sure that has to be, as a fraction of 1."
    )
    unlike: Annotated[float, Field(ge=0, le=0.2)] = Field(
        0.01,
        description="Share of usual photos that may be called unlike the training photos; 0: none ever is.",
    )


class Scores(NamedTuple):
    """Of one photo, or of each of several.

    confidence: calibrated probability of the most probable class. energy: None of a network that gives
    probabilities.
    """

    confidence: "NDArray[np.float64]"
    energy: "NDArray[np.float64] | None"


class Abstention(Record):
    """Fitted at promotion on validation photos of the run.

    temperature: divides the logits, for the calibrated confidence.
    least_confidence: calibrated confidence below which an answer is uncertain; None where no threshold keeps
    the limits.
    least_energy: energy below which a photo is unlike the training photos; usual_energy: the median of usual
    photos. None: none is called so.
    photos: that the threshold was tested on; answered, wrong: of them, with the threshold, or with the surest
    one where none keeps the limits. claims: variants that these photos chose among, all allowed for.
    shown_risk: upper bound of the share of wrong answers with the surest threshold; needed: validation photos
    with which it would be within the limits, at the rates seen; None where no number would do.
    why_not: why nothing could be fitted, a phrase.
    """

    limits: RiskLimits
    temperature: PositiveFloat = 1.0
    least_confidence: NonNegativeFloat | None = None
    least_energy: float | None = None
    usual_energy: float | None = None
    photos: NonNegativeInt = 0
    answered: NonNegativeInt = 0
    wrong: NonNegativeInt = 0
    claims: PositiveInt = 1
    shown_risk: float | None = None
    needed: PositiveInt | None = None
    why_not: str | None = None

    def scores(self, outputs: "NDArray[Any]", kind: OutputKind) -> Scores:
        """outputs: (classes,) or (n, classes), as the network gives them."""
        return scores(outputs, kind, self.temperature)

    def doubt(self, scores: Scores) -> Doubt | None:
        """Why the answer to one photo is uncertain; None where it is not."""
        if self.least_energy is not None and scores.energy is not None and scores.energy < self.least_energy:
            return "unlike the training photos"
        if self.least_confidence is not None and scores.confidence < self.least_confidence:
            return "low confidence"
        return None

    def likeness(self, scores: Scores) -> float | None:
        """0 where a photo begins to be like the training photos, 1 for a usual one; None without a floor."""
        if self.least_energy is None or self.usual_energy is None or scores.energy is None:
            return None
        return float((scores.energy - self.least_energy) / (self.usual_energy - self.least_energy))


def scores(outputs: "NDArray[Any]", kind: OutputKind, temperature: float) -> Scores:
    """Of outputs of (classes,), or of each row of (n, classes).

    The probability of the most probable class by logits divided by a temperature: C. Guo et al., "On
    calibration of modern neural networks", ICML 2017. The energy is the logarithm of the sum of the
    exponentials of the logits, high for what the network knows: W. Liu et al., "Energy-based
    out-of-distribution detection", NeurIPS 2020, with the sign turned.
    """
    import numpy as np

    logits = as_logits(outputs, kind)
    largest = logits.max(axis=-1, keepdims=True)
    logits -= largest
    # A softmax has taken the energy away.
    energy = largest[..., 0] + np.log(np.exp(logits).sum(axis=-1)) if kind == "logits" else None
    logits /= temperature
    return Scores(1 / np.exp(logits).sum(axis=-1), energy)


def as_logits(outputs: "NDArray[Any]", kind: OutputKind) -> "NDArray[np.float64]":
    """Logits, or the logarithms of probabilities, as a new array."""
    import numpy as np

    values = outputs.astype("float64")
    return values if kind == "logits" else np.log(values.clip(LEAST_PROBABILITY))
