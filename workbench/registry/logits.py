"""The logits of golden images: computed as a server does, and compared.

It imports little, for the processes of trial starts.
"""

from typing import TYPE_CHECKING, TypeAlias

from workbench.backends import Infer
from workbench.errors import WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import batch_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Pixels: TypeAlias = "NDArray[np.uint8]"  # (n, height, width, 3)
Logits: TypeAlias = "NDArray[np.float32]"  # (n, classes)


def logits_of(infer: Infer, contract: Preprocess, pixels: Pixels, *, raw: bool) -> Logits:
    """The logits of one image at a time, as in a server."""
    import numpy as np

    return np.concatenate([infer(batch_of(pixels[i : i + 1], contract, raw=raw)) for i in range(len(pixels))])


def compare_logits(got: Logits, expected: Logits, atol: float) -> float:
    """The largest absolute difference.

    Raises WorkbenchError where it exceeds atol, and where the top-1 class of a row differs.
    """
    import numpy as np

    if got.shape != expected.shape:
        raise WorkbenchError(f"the logits have the shape {got.shape}, the recorded ones {expected.shape}")
    difference = float(np.max(np.abs(got.astype(np.float64) - expected)))
    # The negation also catches NaN, which is neither above nor below.
    if not difference <= atol:
        raise WorkbenchError(f"the logits differ by up to {difference:.3g}, more than the {atol:.3g} allowed")
    if moved := np.flatnonzero(got.argmax(axis=1) != expected.argmax(axis=1)).tolist():
        raise WorkbenchError(f"the top-1 class differs on golden image {moved[0]}")
    return difference
