"""Where a network looked for an answer: class activation maps read from its output, or occlusion.

A heat map is (height, width) float32 from 0, where nothing spoke for the class, to 1, where most did.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench.backends.base import Infer
from workbench.backends.softmax import OutputKind, log_softmax
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import batch_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CELLS = 8  # a side, of an occlusion map
WINDOW = 2  # cells a side that are covered at a time
CALLS = (CELLS + WINDOW - 1) ** 2 + 1
LEAST = 1e-12  # of a probability, before its logarithm


def split_maps(
    outputs: "NDArray[np.float32]", classes: int, grid: tuple[int, int], step: float
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """The answers (n, classes) and the class activation maps (n, classes, *grid) in the outputs of a network
    `with_class_maps`. The mean of a map is the score of its class."""
    maps = outputs[:, classes:].reshape(len(outputs), classes, *grid)
    mean = maps.mean((2, 3), keepdims=True)
    return outputs[:, :classes], mean + (maps - mean) / step


def class_heat(maps: "NDArray[np.float32]", class_id: int) -> "NDArray[np.float32]":
    """maps: (classes, height, width) of one photo."""
    # What speaks for all classes alike moves no answer: a softmax takes it away.
    return _from_zero_to_one(maps[class_id] - maps.mean(0))


def occlusion_heat(
    infer: Infer,
    pixels: "NDArray[np.uint8]",
    contract: Preprocess,
    class_id: int,
    *,
    raw: bool,
    outputs: OutputKind,
    before_call: Callable[[], None] = lambda: None,
) -> "NDArray[np.float32]":
    """How much less likely the class is while a part of the photo is covered (Zeiler and Fergus, ECCV 2014).

    pixels: (height, width, 3) as the network sees them. A window of WINDOW x WINDOW cells, in the mean colour
    of the photo, moves by one cell, so that as many windows cover each; CALLS calls of one photo.
    before_call: may wait, or raise to stop.
    """
    import numpy as np

    def evidence(shown: "NDArray[np.uint8]") -> float:
        before_call()
        answer = infer(batch_of(shown[None], contract, raw=raw))[0].astype(np.float64)
        known = log_softmax(answer) if outputs == "logits" else np.log(answer.clip(LEAST))
        return float(known[class_id])

    height, width = pixels.shape[:2]
    plain = np.rint(pixels.mean((0, 1))).astype(np.uint8)
    rows, columns = (np.linspace(0, side, CELLS + 1).round().astype(int) for side in (height, width))
    whole, drops = evidence(pixels), np.zeros((CELLS, CELLS), np.float32)
    for top in range(1 - WINDOW, CELLS):
        for left in range(1 - WINDOW, CELLS):
            down, across = (slice(max(0, at), min(CELLS, at + WINDOW)) for at in (top, left))
            covered = pixels.copy()
            covered[rows[down.start] : rows[down.stop], columns[across.start] : columns[across.stop]] = plain
            drops[down, across] += whole - evidence(covered)
    return _from_zero_to_one(drops)


def _from_zero_to_one(values: "NDArray[np.float32]") -> "NDArray[np.float32]":
    import numpy as np

    positive: NDArray[np.float32] = values.clip(0).astype(np.float32)
    highest = positive.max()
    if highest > 0:
        positive /= highest
    return positive
