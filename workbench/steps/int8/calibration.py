"""Activation ranges for static INT8, found in bounded memory and whatever the order of the photos.

onnxruntime's own calibrators keep every activation of every photo until the end, and grow their histograms
as they go, so that the ranges depend on the order. Here a first pass sums every tensor up inside the network,
so that no activation leaves the runtime, and a second one counts into histograms of a fixed range, one photo
at a time. Nothing grows with the number of photos.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

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
from workbench.system.records import Record

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from workbench.photos.dataset import Images

    Activations = Mapping[str, NDArray[np.float32]]


Method = Literal["minmax", "entropy", "percentile", "distribution"]
Percentile = Annotated[float, Field(gt=50, le=100)]

AT_ONCE_BYTES = 256 << 20  # of activations that leave the network in one run
CHUNK = 1 << 16  # values counted at a time, which stay in the cache
NARROWEST = 1e-10  # a range within this is one of zeros: its scale would be next to nothing


class Calibration(Record):
    """How activation ranges are found.

    images: photos used, taken evenly from the classes.
    percentile: of the values kept, in percent; used by method `percentile` only. With asymmetric activations
    the rest is cut half at each end, with symmetric ones from |x|.
    deviations: standard deviations kept on each side of the mean; used by method `distribution` only. In 8
    bits, clipping and rounding cost the same at 3.9 for a Gaussian and 7.0 for a Laplace distribution (Banner
    et al., "Post training 4-bit quantization of convolutional networks", NeurIPS 2019); a tensor mixes
    channels of very different size, so its tails are longer.
    bins: of the histograms behind `entropy` and `percentile`. onnxruntime's default of 128 makes its
    `entropy` equal to `minmax`.
    """

    method: Method = "minmax"
    images: Annotated[int, Field(gt=0, strict=True)] = 200
    percentile: Percentile = 99.99
    deviations: Annotated[float, Field(ge=1, le=100)] = 12.0
    bins: Annotated[int, Field(ge=256, le=16384, strict=True)] = 2048


class CalibrationOverride(Record):
    """Another method for what some nodes put out.

    nodes: names, or glob patterns, as in `exclude_nodes`. Of two overrides that fit a node the later counts.
    """

    nodes: Annotated[tuple[str, ...], Field(min_length=1)]
    method: Method
    percentile: Percentile = 99.99
    deviations: Annotated[float, Field(ge=1, le=100)] = 12.0

    def applied(self, base: Calibration) -> Calibration:
        """The calibration of the tensors it names: the same photos and bins, this method."""
        changed = {"method": self.method, "percentile": self.percentile, "deviations": self.deviations}
        return base.model_copy(update=changed)


@dataclass(frozen=True, slots=True)
class Summary:
    """A tensor's values in short.

    squares: sum of squared distances from the mean. largest: values in the largest batch.
    """

    count: int
    largest: int
    low: float
    high: float
    mean: float
    squares: float

    def __add__(self, other: "Summary") -> "Summary":
        """Of both sets of values (Chan, Golub, LeVeque 1979: no cancellation however far the mean is off)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Summary(
            count=count,
            largest=max(self.largest, other.largest),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            mean=self.mean + apart * other.count / count,
            squares=self.squares + other.squares + apart**2 * self.count * other.count / count,
        )

    @property
    def deviation(self) -> float:
        return float((self.squares / self.count) ** 0.5)


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
        if calibration.method == "distribution":
            half = calibration.deviations * summaries[name].deviation
            mean = summaries[name].mean
            found[name] = (max(low, mean - half), min(high, mean + half))
        if calibration.method in ("entropy", "percentile") and low < high:
            two_sided = calibration.method == "percentile" and not symmetric
            counted[name] = (low, high) if two_sided else (0.0, max(-low, high))
    for group in _groups(counted, summaries):
        bins = {name: plan[name].bins for name in group}
        counts = _histograms(passes(group), {name: counted[name] for name in group}, bins)
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


def extremes_of(activations: "Iterator[Activations]") -> dict[str, Range]:
    """Lowest and highest value of each tensor. Raises WorkbenchError where one is not finite."""
    found: dict[str, Range] = {}
    for batch in activations:
        for name, values in batch.items():
            low, high = float(values.min()), float(values.max())
            _check_finite(name, low, high)
            known = found.get(name, (low, high))
            found[name] = (min(low, known[0]), max(high, known[1]))
    return found


def _histograms(
    activations: "Iterator[Activations]", spans: Mapping[str, Range], bins: Mapping[str, int]
) -> "dict[str, NDArray[np.int64]]":
    """Counts of each tensor over its span, of |x| where the span starts at zero."""
    import numpy as np

    counts = {name: np.zeros(bins[name], np.int64) for name in spans}
    for batch in activations:
        for name, values in batch.items():
            flat = values.reshape(-1)
            for start in range(0, len(flat), CHUNK):
                counts[name] += _counted(flat[start : start + CHUNK], spans[name], bins[name])
    return counts


def _counted(values: "NDArray[np.float32]", span: Range, bins: int) -> "NDArray[np.int64]":
    import numpy as np

    low, high = span
    offsets = np.abs(values) if low == 0.0 else values - np.float32(low)
    offsets *= np.float32(bins / (high - low))
    index = np.minimum(offsets, np.float32(bins - 1), out=offsets).astype(np.intp)
    return np.bincount(index, minlength=bins)


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
        low, high, mean, off, square, spread, count = (f"summary/{number}/{part}" for part in range(7))
        graph.node.extend(
            [
                made("ReduceMin", [name], [low], keepdims=0),
                made("ReduceMax", [name], [high], keepdims=0),
                made("ReduceMean", [name], [mean], keepdims=0),
                made("Sub", [name, mean], [off]),
                made("Mul", [off, off], [square]),
                made("ReduceMean", [square], [spread], keepdims=0),
                made("Size", [name], [count]),
            ]
        )
        types = [onnx.TensorProto.FLOAT] * 4 + [onnx.TensorProto.INT64]
        for output, kind in zip((low, high, mean, spread, count), types, strict=True):
            graph.output.append(onnx.helper.make_tensor_value_info(output, kind, []))
            wanted.append(output)
    session = open_cpu(augmented, cpu_options(threads=0))
    image, size = image_input(model).name, batch_size(model)

    def run(batch: "NDArray[np.float32]") -> dict[str, Summary]:
        values = [float(value) for value in session.run(wanted, {image: filled(batch, size)})]
        found = {}
        for number, name in enumerate(tensors):
            low, high, mean, spread, count = values[5 * number : 5 * number + 5]
            found[name] = Summary(int(count), int(count), low, high, mean, spread * count)
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
