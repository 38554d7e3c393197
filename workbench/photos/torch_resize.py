"""Resizing as torch does it for 8-bit images with `antialias`, without torch. It is that of
torchvision's tensors, and of the image processors of transformers that use them.

Pillow's filters with weights of 16 bits, always across first; Pillow has 22 bits and begins with the cheaper
direction (aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h of torch 2).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

A = -0.5  # of the cubic


def resize_as_torch(
    pixels: "NDArray[np.uint8]",
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    whole: tuple[float, float, float, float],
    *,
    cubic: bool,
) -> "NDArray[np.uint8]":
    """The part in `box` of (height, width, 3) pixels at `size`, (width, height).

    box, whole: (left, top, right, bottom) in pixels of the result; of `pixels`, where the photo lies in them.
    """
    across = _one_way(pixels.swapaxes(0, 1), whole[::2], size[0], box[::2], cubic=cubic)
    return _one_way(across.swapaxes(0, 1), whole[1::2], size[1], box[1::2], cubic=cubic)


def _one_way(
    lines: "NDArray[np.uint8]",
    ends: tuple[float, ...],
    count: int,
    kept: tuple[int, ...],
    *,
    cubic: bool,
) -> "NDArray[np.uint8]":
    """The `kept` ones, from one to before another, of `count` lines that those between `ends` are made."""
    import numpy as np

    if (0, count) == ends and count == len(lines):
        return lines[slice(*kept)]
    first, weights, bits = _weights(len(lines), ends, count, cubic=cubic)
    first, weights = first[slice(*kept)], weights[slice(*kept)]
    total = np.full((len(first), *lines.shape[1:]), 1 << (bits - 1), np.int32)
    for tap, weight in enumerate(weights.T):
        # Taps beyond the last line have no weight.
        total += weight[:, None, None] * lines[np.minimum(first + tap, len(lines) - 1)]
    resized: NDArray[np.uint8] = np.clip(total >> bits, 0, 255).astype(np.uint8)
    return resized


def _weights(
    length: int, ends: tuple[float, ...], count: int, *, cubic: bool
) -> "tuple[NDArray[np.int64], NDArray[np.int32], int]":
    """Of each line: the first that it is mixed from, the weights from there on, and their binary places."""
    import numpy as np

    scale = (ends[1] - ends[0]) / count
    support, narrower = (2.0 if cubic else 1.0) * max(scale, 1.0), min(1.0, 1.0 / scale)
    centre = ends[0] + scale * (np.arange(count) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), length)
    taps = first[:, None] + np.arange(int((last - first).max()))
    found = _filter(np.abs(taps - centre[:, None] + 0.5) * narrower, cubic=cubic)
    found[taps >= last[:, None]] = 0.0
    found /= found.sum(axis=1, keepdims=True)
    # As many binary places as let the largest weight of all lines fit into 16 bits.
    largest = float(found.max())
    bits = next((n for n in range(22) if int(0.5 + largest * (1 << (n + 1))) >= 1 << 15), 22)
    whole = np.trunc(found * (1 << bits) + np.copysign(0.5, found)).astype(np.int32)
    return first, whole, bits


def _filter(x: "NDArray[np.float64]", *, cubic: bool) -> "NDArray[np.float64]":
    import numpy as np

    if not cubic:
        return np.maximum(1.0 - x, 0.0)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * A
    result: NDArray[np.float64] = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return result
