"""Activation ranges for static INT8, found in bounded memory and whatever the order of the photos.

onnxruntime's own calibrators keep every activation of every photo until the end, and grow their histograms
as they go, so that the ranges depend on the order. Here a first pass finds the extremes and a second one
counts into histograms of a fixed range: each photo's activations are dropped before the next one's are made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.errors import WorkbenchError
from workbench.onnx_info import image_input

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from workbench.dataset import Images

    Activations = Mapping[str, NDArray[np.float32]]

Range = tuple[float, float]  # lowest, highest

LEVELS = 128  # of |x| in 8 bits with a sign: what `entropy` quantises to
MOST_CLIPPED = 0.01  # of the values, by `entropy`


class Calibration(BaseModel):
    """How activation ranges are found.

    images: photos used, taken evenly from the classes.
    percentile: of the values kept, in percent; used by method `percentile` only. With uint8 activations the
    rest is cut half at each end, with int8 ones (whose range is symmetric) from |x|.
    bins: of the histograms behind `entropy` and `percentile`. onnxruntime's default of 128 makes its
    `entropy` equal to `minmax`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    images: Annotated[int, Field(gt=0, strict=True)] = 200
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    bins: Annotated[int, Field(ge=256, le=16384, strict=True)] = 2048


def find_ranges(
    model: "onnx.ModelProto",
    tensors: Sequence[str],
    images: "Images",
    calibration: Calibration,
    *,
    symmetric: bool,
) -> dict[str, Range]:
    """The range of each tensor over the calibration photos, two runs of the network per photo.

    symmetric: the quantised range will be symmetric around zero.
    Raises WorkbenchError where there are too few photos, or where an activation is not finite.
    """
    if calibration.images > len(images):
        raise WorkbenchError(
            f"calibration.images: {calibration.images} photos asked for, data.calibration has {len(images)}",
            hint=f"lower `calibration.images` to {len(images)} or less, or add photos",
        )
    run = instrumented(model, tensors)

    def passes() -> "Iterator[Activations]":
        return (run(batch) for batch in images.spread(calibration.images, batch_size(model)))

    return ranges_of(passes, calibration, symmetric=symmetric)


def ranges_of(
    passes: "Callable[[], Iterator[Activations]]", calibration: Calibration, *, symmetric: bool
) -> dict[str, Range]:
    """The range of each tensor; `passes()` goes once through the activations of all photos."""
    extremes = extremes_of(passes())
    if calibration.method == "minmax":
        return extremes
    two_sided = calibration.method == "percentile" and not symmetric
    spans = extremes if two_sided else {name: (0.0, max(map(abs, ends))) for name, ends in extremes.items()}
    counts = _histograms(passes(), spans, calibration.bins)
    found = {}
    for name, (low, high) in extremes.items():
        start, end = spans[name]
        if start == end:
            cut = (low, high)  # one value only
        elif two_sided:
            cut = percentile_tails(counts[name], (start, end), calibration.percentile)
        elif calibration.method == "percentile":
            cut = _around_zero(percentile_limit(counts[name], end, calibration.percentile))
        else:
            cut = _around_zero(entropy_threshold(counts[name], end))
        found[name] = (max(low, cut[0]), min(high, cut[1]))
    return found


def _around_zero(limit: float) -> Range:
    return -limit, limit


def percentile_limit(counts: "NDArray[np.int64]", largest: float, percentile: float) -> float:
    """The bin edge that `percentile` of |x| do not exceed. counts: histogram of |x| over (0, largest)."""
    import numpy as np

    cumulative = np.cumsum(counts)
    spare = int(cumulative[-1] * (1 - percentile / 100))
    return float(largest * (np.searchsorted(cumulative, cumulative[-1] - spare) + 1) / len(counts))


def percentile_tails(counts: "NDArray[np.int64]", span: Range, percentile: float) -> Range:
    """The bin edges between which `percentile` of x lie, half of the rest at each end.

    counts: histogram of x over `span`.
    """
    import numpy as np

    cumulative = np.cumsum(counts)
    tail = int(cumulative[-1] * (1 - percentile / 100) / 2)
    width = (span[1] - span[0]) / len(counts)
    first = np.searchsorted(cumulative, tail, side="right")
    last = np.searchsorted(cumulative, cumulative[-1] - tail)
    return float(span[0] + width * first), float(span[0] + width * (last + 1))


def entropy_threshold(counts: "NDArray[np.int64]", largest: float) -> float:
    """The |x| to clip at so that 128 levels lose least information (Kullback-Leibler divergence).

    counts: histogram of |x| over (0, largest). For every threshold T on a bin edge, P is the distribution
    with all above T moved to the last bin, and Q the bins below T merged into 128 levels and spread over the
    non-empty bins again; the T with the least KL(P || Q) wins. From S. Migacz, "8-bit inference with
    TensorRT", GTC 2017. As in NVIDIA's pytorch-quantization, the bin at zero takes its neighbour's count:
    zero is represented exactly, and ReLU's spike there would drown the rest. Thresholds that would clip more
    than MOST_CLIPPED are not considered: of a tensor that stays away from zero, such as the gate of a
    squeeze-and-excitation block, next to nothing lies below a low T, and nothing is easily represented. All
    thresholds at once, from prefix sums: sum over P log Q needs the mass and the number of non-empty bins of
    each level only.
    """
    import numpy as np

    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    if bins.sum() == 0 or len(bins) <= LEVELS:
        return largest
    ends, bounds = _levels(len(bins))
    mass = np.concatenate([[0.0], np.cumsum(bins)])
    filled = np.concatenate([[0.0], np.cumsum(bins > 0)])
    total, kept = mass[-1], mass[ends]
    outliers = total - kept
    last = bins[ends - 1]

    level_mass = np.diff(mass[bounds], axis=1)
    level_filled = np.diff(filled[bounds], axis=1)
    level_filled[:, -1] += (last == 0) & (outliers > 0)  # the last bin holds the outliers, so it is not empty
    log_q = np.log(np.divide(level_mass, level_filled, out=np.ones_like(level_mass), where=level_mass > 0))
    cross = (level_mass * log_q).sum(axis=1) + outliers * log_q[:, -1]

    own = np.concatenate([[0.0], np.cumsum(_x_log_x(bins))])
    entropy = own[ends] - _x_log_x(last) + _x_log_x(last + outliers)
    # With P = p / total and Q = q / kept: KL = sum(p log p - p log q) / total - log(total) + log(kept).
    divergence = (entropy - cross) / total - np.log(total) + np.log(np.maximum(kept, 1e-300))
    divergence[(kept < (1 - MOST_CLIPPED) * total) | ((level_mass[:, -1] == 0) & (outliers > 0))] = np.inf
    return float(largest * ends[int(np.argmin(divergence))] / len(bins))


@lru_cache(maxsize=1)
def _levels(bins: int) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Candidate thresholds as bin counts (k,), and the (k, LEVELS + 1) bin edges of their levels."""
    import numpy as np

    ends = np.arange(LEVELS, bins + 1)
    return ends, ends[:, None] * np.arange(LEVELS + 1) // LEVELS


def _x_log_x(x: "NDArray[np.float64]") -> "NDArray[np.float64]":
    import numpy as np

    return x * np.log(np.where(x > 0, x, 1.0))


def extremes_of(activations: "Iterator[Activations]") -> dict[str, Range]:
    """Lowest and highest value of each tensor. Raises WorkbenchError where one is not finite."""
    found: dict[str, Range] = {}
    for batch in activations:
        for name, values in batch.items():
            low, high = float(values.min()), float(values.max())
            if not (abs(low) < float("inf") and abs(high) < float("inf")):  # also where they are NaN
                raise WorkbenchError(
                    f"the activation `{name}` is not finite (NaN or infinity) on a photo",
                    hint="leave the node that computes it in float (`exclude_nodes`), or mend the network",
                )
            known = found.get(name, (low, high))
            found[name] = (min(low, known[0]), max(high, known[1]))
    return found


def _histograms(
    activations: "Iterator[Activations]", spans: Mapping[str, Range], bins: int
) -> "dict[str, NDArray[np.int64]]":
    """Counts of each tensor over its span, of |x| where the span starts at zero."""
    import numpy as np

    counts = {name: np.zeros(bins, np.int64) for name in spans}
    for batch in activations:
        for name, values in batch.items():
            low, high = spans[name]
            if high > low:
                offsets = np.abs(values) if low == 0.0 else values - np.float32(low)
                index = (offsets / np.float32(high - low) * np.float32(bins)).astype(np.intp)
                counts[name] += np.bincount(np.minimum(index, bins - 1).ravel(), minlength=bins)
    return counts


def batch_size(model: "onnx.ModelProto") -> int:
    """One photo at a time, which bounds the memory; more only where the graph has a fixed batch."""
    return int(image_input(model).type.tensor_type.shape.dim[0].dim_value) or 1


def instrumented(
    model: "onnx.ModelProto", tensors: Sequence[str]
) -> "Callable[[NDArray[np.float32]], Activations]":
    """A run of the network that returns the named tensors of a batch, the input among them."""
    import numpy as np
    import onnx
    import onnxruntime

    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    image, outputs = image_input(model).name, {output.name for output in augmented.graph.output}
    wanted = [name for name in tensors if name != image]
    augmented.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in wanted
        if name not in outputs
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Optimised graphs fuse nodes, and tensors between them disappear.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        augmented.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    size = batch_size(model)

    def run(batch: "NDArray[np.float32]") -> "Activations":
        if len(batch) < size:  # a fixed batch is filled up with its own photos
            batch = np.resize(batch, (size, *batch.shape[1:]))
        found = dict(zip(wanted, session.run(wanted, {image: batch}), strict=True))
        return {**found, image: batch} if image in tensors else found

    return run
