"""From what a network gives to probabilities: the functions of evaluation, measurement and server."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OutputKind = Literal["logits", "probabilities"]


def probabilities_of(outputs: "NDArray[Any]", kind: OutputKind) -> "NDArray[np.float64]":
    """`softmax` of logits; of a network that ends in softmax its own probabilities, scaled to sum up to 1."""
    import numpy as np

    if kind == "logits":
        return softmax(outputs)
    # INT8 rounds them, and percentages sum up to 100. NaN where there is nothing to scale.
    positive = outputs.astype("float64").clip(0)
    with np.errstate(invalid="ignore"):
        positive /= positive.sum(axis=-1, keepdims=True)
    return positive


def softmax(logits: "NDArray[Any]") -> "NDArray[np.float64]":
    """Probabilities along the last axis, in float64: (classes,) or (n, classes). NaN where logits are."""
    import numpy as np

    # The largest logit is subtracted so that no exponential overflows.
    powers = np.exp(_shifted(logits))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def log_softmax(logits: "NDArray[Any]") -> "NDArray[np.float64]":
    """Logarithms of `softmax`, finite where a probability would be rounded to 0."""
    import numpy as np

    shifted = _shifted(logits)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _shifted(logits: "NDArray[Any]") -> "NDArray[np.float64]":
    shifted = logits.astype("float64")
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted
