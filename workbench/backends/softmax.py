"""From logits to probabilities: the one function of evaluation, measurement and server."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
