"""Activation ranges for static INT8, found in bounded memory and whatever the order of the photos.

onnxruntime's own calibrators keep every activation of every photo until the end, and grow their histograms
as they go, so that the ranges depend on the order. Here a first pass sums every tensor up inside the network,
so that no activation leaves the runtime, and a second one counts into histograms of a fixed range, one photo
at a time. Nothing grows with the number of photos.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.backends.common import cpu_options, filled, open_cpu
from workbench.errors import WorkbenchError
from workbench.model.graph.onnx_file import image_input
from workbench.steps.int8.range_search import (
    Range,
    around_zero,
    entropy_threshold,
    percentile_limit,
    percentile_tails,
)
from workbench.steps.int8.settings import BINS, Calibration

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from workbench.photos.dataset import Images

    Activations = Mapping[str, NDArray[np.float32]]


AT_ONCE_BYTES = 256 << 20  # of activations that leave the network in one run
CHUNK = 1 << 16  # values counted at a time, which stay in the cache
NARROWEST = 1e-10  # a range within this is one of zeros: its scale would be next to nothing


@dataclass(frozen=True, slots=True)
class Summary:
    """A tensor's values in short. largest: values in the largest batch."""

    count: int
    largest: int
    low: float
    high: float
    mean: float

    def __add__(self, other: "Summary") -> "Summary":
        """Of both sets of values."""
        count = self.count + other.count
        return Summary(
            count=count,
            largest=max(self.largest, other.largest),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            mean=self.mean + (other.mean - self.mean) * other.count / count,
        )


def find_ranges(
    model: "onnx.ModelProto",
    plan: Mapping[str, Calibration],
    images: "Images",
    count: int,
    *,
    symmetric: bool,
) -> dict[str, Range]:
    """The range of each tensor of `plan` over `count` photos: one run of the network per photo, or two.

    symmetric: the quantised range will be symmetric around zero.
    Raises WorkbenchError where there are too few photos, or where an activation is not finite.
    """
    if count > len(images):
        raise WorkbenchError(
            f"calibration.images: {count} photos asked for, data.calibration has {len(images)}",
            hint=f"lower `calibration.images` to {len(images)} or less, or add photos",
        )
    image, size = image_input(model).name, batch_size(model)
    summarise = summarised(model, list(plan))
    summaries = pooled((summarise(batch) for batch in images.spread(count, size)), image)

    def passes(names: Sequence[str]) -> "Iterator[Activations]":
        run = instrumented(model, names)
        return (run(batch) for batch in images.spread(count, size))

    return ranges_of(summaries, plan, passes, symmetric=symmetric)


def pooled(batches: Iterator[Mapping[str, Summary]], image: str = "") -> dict[str, Summary]:
    """The summary of each tensor over all batches. Raises WorkbenchError where one is not finite.

    image: the name of the input, which is blamed on the photos and not on the network.
    """
    found: dict[str, Summary] = {}
    for batch in batches:
        for name, summary in batch.items():
            if name == image:
                _check_photo(summary)
            _check_finite(name, summary.low, summary.high, summary.mean)
            found[name] = found[name] + summary if name in found else summary
    return found


def ranges_of(
    summaries: Mapping[str, Summary],
    plan: Mapping[str, Calibration],
    passes: "Callable[[Sequence[str]], Iterator[Activations]]",
    *,
    symmetric: bool,
) -> dict[str, Range]:
    """The range of each tensor, never beyond the values seen, unless all of them are zero.

    passes(names) goes once through those tensors' activations of all photos; it is asked for groups of
    tensors that take at most AT_ONCE_BYTES a batch.
    """
    found = {name: (summary.low, summary.high) for name, summary in summaries.items()}
    counted: dict[str, Range] = {}
    for name, calibration in plan.items():
        low, high = found[name]
        if calibration.method in ("entropy", "percentile") and low < high:
            two_sided = calibration.method == "percentile" and not symmetric
            counted[name] = (low, high) if two_sided else (0.0, max(-low, high))
    for group in _groups(counted, summaries):
        counts = _histograms(passes(group), {name: counted[name] for name in group})
        for name in group:
            cut = _cut(counts[name], counted[name], plan[name], symmetric=symmetric)
            found[name] = (max(found[name][0], cut[0]), min(found[name][1], cut[1]))
    return {name: _wide_enough(ends) for name, ends in found.items()}


def _cut(counts: "NDArray[np.int64]", span: Range, calibration: Calibration, *, symmetric: bool) -> Range:
    if calibration.method == "entropy":
        return around_zero(entropy_threshold(counts, span[1]))
    if symmetric:
        return around_zero(percentile_limit(counts, span[1], calibration.percentile))
    return percentile_tails(counts, span, calibration.percentile)


def _wide_enough(ends: Range) -> Range:
    """A range of zeros becomes one of 1: a scale next to nothing overflows the biases that it multiplies.

    One that starts at zero stays so: a ReLU is left out of the graph where its range starts there.
    """
    low, high = ends
    if max(abs(low), abs(high)) > NARROWEST:
        return ends
    return (0.0 if low >= 0 else -1.0, 1.0)


def _groups(names: Mapping[str, Range], summaries: Mapping[str, Summary]) -> Iterator[list[str]]:
    """The tensors, in order, in groups that take AT_ONCE_BYTES a batch or hold one tensor."""
    group: list[str] = []
    taken = 0
    for name in names:
        size = 4 * summaries[name].largest
        if group and taken + size > AT_ONCE_BYTES:
            yield group
            group, taken = [], 0
        group.append(name)
        taken += size
    if group:
        yield group


def _check_finite(name: str, *values: float) -> None:
    if not all(abs(value) < float("inf") for value in values):  # also where one is NaN
        raise WorkbenchError(
            f"the activation `{name}` is not finite (NaN or infinity) on a photo",
            hint="leave the node that computes it in float (`exclude_nodes`), or mend the network",
        )


def _check_photo(summary: Summary) -> None:
    if not all(abs(value) < float("inf") for value in (summary.low, summary.high, summary.mean)):
        raise WorkbenchError(
            "a calibration photo is not finite (NaN or infinity) after preprocessing",
            hint="look at `preprocess.mean` and `preprocess.std`, and at the photos of data.calibration",
        )


def _histograms(
    activations: "Iterator[Activations]", spans: Mapping[str, Range]
) -> "dict[str, NDArray[np.int64]]":
    """Counts of each tensor over its span, of |x| where the span starts at zero."""
    import numpy as np

    counts = {name: np.zeros(BINS, np.int64) for name in spans}
    for batch in activations:
        for name, values in batch.items():
            flat = values.reshape(-1)
            for start in range(0, len(flat), CHUNK):
                counts[name] += _counted(flat[start : start + CHUNK], spans[name])
    return counts


def _counted(values: "NDArray[np.float32]", span: Range) -> "NDArray[np.int64]":
    import numpy as np

    low, high = span
    offsets = np.abs(values) if low == 0.0 else values - np.float32(low)
    offsets *= np.float32(BINS / (high - low))
    index = np.minimum(offsets, np.float32(BINS - 1), out=offsets).astype(np.intp)
    return np.bincount(index, minlength=BINS)


def summarised(
    model: "onnx.ModelProto", tensors: Sequence[str]
) -> "Callable[[NDArray[np.float32]], dict[str, Summary]]":
    """A run of the network that sums up the named tensors of a batch, the input among them.

    The sums are nodes of the graph, so that each activation is dropped as soon as the network has used it.
    """
    import onnx

    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    graph, made = augmented.graph, onnx.helper.make_node
    wanted: list[str] = []
    for number, name in enumerate(tensors):
        low, high, mean, count = (f"summary/{number}/{part}" for part in range(4))
        graph.node.extend(
            [
                made("ReduceMin", [name], [low], keepdims=0),
                made("ReduceMax", [name], [high], keepdims=0),
                made("ReduceMean", [name], [mean], keepdims=0),
                made("Size", [name], [count]),
            ]
        )
        types = [onnx.TensorProto.FLOAT] * 3 + [onnx.TensorProto.INT64]
        for output, kind in zip((low, high, mean, count), types, strict=True):
            graph.output.append(onnx.helper.make_tensor_value_info(output, kind, []))
            wanted.append(output)
    session = open_cpu(augmented, cpu_options(threads=0))
    image, size = image_input(model).name, batch_size(model)

    def run(batch: "NDArray[np.float32]") -> dict[str, Summary]:
        values = [float(value) for value in session.run(wanted, {image: filled(batch, size)})]
        found = {}
        for number, name in enumerate(tensors):
            low, high, mean, count = values[4 * number : 4 * number + 4]
            found[name] = Summary(int(count), int(count), low, high, mean)
        return found

    return run


def batch_size(model: "onnx.ModelProto") -> int:
    """One photo at a time, which bounds the memory; more only where the graph has a fixed batch."""
    return int(image_input(model).type.tensor_type.shape.dim[0].dim_value) or 1


def instrumented(
    model: "onnx.ModelProto", tensors: Sequence[str]
) -> "Callable[[NDArray[np.float32]], Activations]":
    """A run of the network that returns the named tensors of a batch, the input among them."""
    import onnx

    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    image, outputs = image_input(model).name, {output.name for output in augmented.graph.output}
    wanted = [name for name in tensors if name != image]
    augmented.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in wanted
        if name not in outputs
    )
    session, size = open_cpu(augmented, cpu_options(threads=0)), batch_size(model)

    def run(batch: "NDArray[np.float32]") -> "Activations":
        batch = filled(batch, size)
        found = dict(zip(wanted, session.run(wanted, {image: batch}), strict=True))
        return {**found, image: batch} if image in tensors else found

    return run
