"""The integer arithmetic of a quantised layer, its sums of byte products exact or clipped to 16 bits.

Sums are formed in the order of onnxruntime's kernels (MLAS, `QgemmU8X8KernelAvx2.S`, `ConvSymKernelAvx2.S`):
along kernel row, kernel column and input channel, in pairs from the first.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]


Arrays = dict[str, "NDArray[Any]"]
Tally = Counter[str]
"""By layer: pair sums that saturated."""

LARGEST, SMALLEST = 2**15 - 1, -(2**15)
ROWS = 4096  # of a layer's data at once: keeps a convolution's unrolled photo below some tens of MB

# The inputs, in their order, of the layers that are computed here.
_QLINEAR = ("data", "data_scale", "data_zero", "weight", "weight_scale", "weight_zero")
INPUTS: Mapping[str, tuple[str, ...]] = {
    "QLinearConv": (*_QLINEAR, "out_scale", "out_zero", "bias"),
    "QLinearMatMul": (*_QLINEAR, "out_scale", "out_zero"),
    "QGemm": (*_QLINEAR, "bias", "out_scale", "out_zero"),
    "MatMulInteger": ("data", "weight", "data_zero", "weight_zero"),
}


def layer_output(
    node: "onnx.NodeProto", tensors: "Mapping[str, NDArray[Any]]", tally: Tally | None, name: str
) -> "NDArray[Any]":
    """The output of one layer: (N, C, H, W) of a convolution, (..., columns) of a product.

    The rounding is onnxruntime's: one float32 scale for the int32 sum, to the nearest, ties to even.
    """
    import numpy as np

    role = dict(zip(INPUTS[node.op_type], node.input, strict=False))
    given: Arrays = dict.fromkeys(("data_zero", "weight_zero"), np.zeros(1, np.int64))
    given |= {key: tensors[value] for key, value in role.items() if value}
    zero = int(given["data_zero"].ravel()[0])
    layer = _convolution if node.op_type == "QLinearConv" else _product
    sums = layer(node, given, zero, tally, name)
    if "bias" in given:
        sums = sums + given["bias"].astype(np.int64)
    return _rescaled(node, given, sums)


def _rescaled(node: "onnx.NodeProto", given: Arrays, sums: "Ints") -> "NDArray[Any]":
    """Integer sums (..., columns) as the type that the layer's output has."""
    import numpy as np

    if node.op_type == "MatMulInteger":
        return sums.astype(np.int32)
    scale = given["data_scale"].astype(np.float32) * given["weight_scale"].astype(np.float32)
    scale = scale * np.float32(attribute_of(node, "alpha", 1.0))
    if "out_scale" not in given:
        return sums.astype(np.float32) * scale
    out_zero = given["out_zero"].ravel()[0] if "out_zero" in given else np.uint8(0)
    limits = np.iinfo(out_zero.dtype)
    rounded = np.rint(sums.astype(np.float32) * (scale / given["out_scale"].astype(np.float32)))
    quantised = np.clip(rounded + int(out_zero), limits.min, limits.max).astype(out_zero.dtype)
    return np.moveaxis(quantised, -1, 1) if node.op_type == "QLinearConv" else quantised


def _product(node: "onnx.NodeProto", given: Arrays, zero: int, tally: Tally | None, name: str) -> "Ints":
    data, weight = given["data"], given["weight"]
    if attribute_of(node, "transA", 0):
        data = data.T
    if attribute_of(node, "transB", 0):
        weight = weight.T
    rows = data.reshape(-1, data.shape[-1])
    sums = _sums(rows, weight, zero, given["weight_zero"], tally, name)
    return sums.reshape(*data.shape[:-1], weight.shape[1])


def _convolution(node: "onnx.NodeProto", given: Arrays, zero: int, tally: Tally | None, name: str) -> "Ints":
    """Sums (N, height, width, out channels)."""
    import numpy as np

    data, weight = given["data"], given["weight"]
    groups = int(attribute_of(node, "group", 1))
    windows = _windows(node, data, weight.shape[2:], zero)  # (N, h, w, kh, kw, C)
    place = windows.shape[:3]
    weight_zero = np.broadcast_to(given["weight_zero"], (weight.shape[0],))
    parts = []
    for part in range(groups):
        outs = slice(part * weight.shape[0] // groups, (part + 1) * weight.shape[0] // groups)
        ins = slice(part * weight.shape[1], (part + 1) * weight.shape[1])
        matrix = weight[outs].transpose(2, 3, 1, 0).reshape(-1, outs.stop - outs.start)
        # Unrolling copies every pixel once per kernel position: some lines of the picture at a time.
        lines = max(1, ROWS // place[2])
        strips = [
            _sums(
                windows[:, start : start + lines, ..., ins].reshape(-1, matrix.shape[0]),
                matrix, zero, weight_zero[outs], tally, name,
            ).reshape(place[0], -1, place[2], matrix.shape[1])
            for start in range(0, place[1], lines)
        ]  # fmt: skip
        parts.append(np.concatenate(strips, axis=1))
    return np.concatenate(parts, axis=-1)


def _windows(
    node: "onnx.NodeProto", data: "NDArray[Any]", kernel: Sequence[int], zero: int
) -> "NDArray[Any]":
    """The inputs of each output pixel: (N, height, width, *kernel, C); `zero` outside the picture."""
    import numpy as np

    strides, dilations = (tuple(attribute_of(node, key, (1, 1))) for key in ("strides", "dilations"))
    spans = [dilation * (side - 1) + 1 for side, dilation in zip(kernel, dilations, strict=True)]
    pads = _pads(node, data.shape[2:], strides, spans)
    padded = np.pad(data, ((0, 0), (0, 0), *pads), constant_values=zero)
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    view = view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return view.transpose(0, 2, 3, 4, 5, 1)


def _pads(
    node: "onnx.NodeProto", sides: Sequence[int], strides: Sequence[int], spans: Sequence[int]
) -> list[tuple[int, int]]:
    mode = attribute_of(node, "auto_pad", b"NOTSET").decode()
    if not mode.startswith("SAME"):
        pads = tuple(attribute_of(node, "pads", (0, 0, 0, 0))) if mode == "NOTSET" else (0, 0, 0, 0)
        return [(pads[0], pads[2]), (pads[1], pads[3])]
    both = []
    for side, stride, span in zip(sides, strides, spans, strict=True):
        total = max((-(-side // stride) - 1) * stride + span - side, 0)
        half = total // 2
        both.append((half, total - half) if mode == "SAME_UPPER" else (total - half, half))
    return both


def _sums(
    data: "NDArray[Any]", weight: "NDArray[Any]", zero: int, weight_zero: "Ints",
    tally: Tally | None, name: str,
) -> "Ints":  # fmt: skip
    """Sums of products, (rows, columns): exact, or with their 16-bit pairs clipped where there is a tally.

    data: (rows, depth) uint8. weight: (depth, columns) int8. The kernels multiply the bytes as they are and
    take the zero points out afterwards, so that what was clipped stays missing.
    """
    import numpy as np

    # Whole numbers below 2**53 are exact in float64, and its matrix product is many times faster.
    centred = weight.astype(np.float64) - weight_zero
    sums = np.rint((data.astype(np.float64) - zero) @ centred).astype(np.int64)
    if tally is None or data.dtype != np.uint8:
        return sums
    lost, count = clipped(data, weight)
    tally[name] += count
    return sums - lost


def clipped(data: "NDArray[Any]", weight: "NDArray[Any]") -> "tuple[Ints, int]":
    """What 16-bit pair sums lose of each product, (rows, columns), and how many pair sums saturate.

    data: (rows, depth) uint8. weight: (depth, columns) int8. Only pairs that can reach 16 bits with the
    brightest values in `data` are computed; few do, which is why this is quick.
    """
    import numpy as np

    lost = np.zeros((data.shape[0], weight.shape[1]), np.int64)
    count = 0
    even = data.shape[1] // 2 * 2  # a last value without a partner is paired with zero and cannot saturate
    wide, bytes_ = data[:, :even].astype(np.int32), weight[:even].astype(np.int32)
    brightest = wide.max(axis=0, initial=0)[:, None]
    highest = np.maximum(bytes_, 0) * brightest
    lowest = np.minimum(bytes_, 0) * brightest
    reach = (highest[0::2] + highest[1::2] > LARGEST) | (lowest[0::2] + lowest[1::2] < SMALLEST)
    for pair in np.flatnonzero(reach.any(axis=1)):
        columns = np.flatnonzero(reach[pair])
        both = wide[:, 2 * pair : 2 * pair + 2]
        rows = np.flatnonzero(both.sum(axis=1) * 128 > LARGEST)  # -128 is the largest weight there is
        sums = both[rows] @ bytes_[2 * pair : 2 * pair + 2, columns]
        excess = sums - np.clip(sums, SMALLEST, LARGEST)
        count += int(np.count_nonzero(excess))
        lost[np.ix_(rows, columns)] += excess
    return lost, count


def attribute_of(node: "onnx.NodeProto", name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
