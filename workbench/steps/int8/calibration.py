"""Activation ranges for static INT8, found in bounded memory and whatever the order of the photos.

onnxruntime's own calibrators keep every activation of every photo until the end, and grow their histograms
as they go, so that the ranges depend on the order. Here a first pass sums every tensor up inside the network,
and a second one counts into histograms of a fixed range. Nothing grows with the number of photos.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.backends.common import filled
from workbench.errors import WorkbenchError
from workbench.model.graph.onnx_file import image_input
from workbench.photos.dataset import Images
from workbench.steps.graph import FLOAT, INT64, Editor, batch_size, runner
from workbench.steps.int8.range_search import Range, entropy_threshold, percentile_limit, percentile_tails
from workbench.steps.int8.settings import BINS, Calibration

if TYPE_CHECKING:
    import onnx


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
        mean = self.mean + (other.mean - self.mean) * other.count / count
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Summary(count, max(self.largest, other.largest), low, high, mean)


def find_ranges(
    model: "onnx.ModelProto",
    plan: Mapping[str, Calibration],
    images: Images,
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
    size = batch_size(model)
    summarise = _summariser(model, list(plan))
    image = image_input(model).name
    summaries = pooled((summarise(batch) for batch in images.spread(count, size)), image)

    def passes(names: Sequence[str]) -> Iterator[Activations]:
        run = _instrumented(model, names)
        return (run(batch) for batch in images.spread(count, size))

    return ranges_of(summaries, plan, passes, symmetric=symmetric)


def pooled(batches: Iterator[Mapping[str, Summary]], image: str = "") -> dict[str, Summary]:
    """The summary of each tensor over all batches. Raises WorkbenchError where one is not finite.

    image: the name of the input, whose values come from the photos and not from the network.
    """
    found: dict[str, Summary] = {}
    for batch in batches:
        for name, summary in batch.items():
            if not all(isfinite(value) for value in (summary.low, summary.high, summary.mean)):
                raise _not_finite(name, name == image)
            found[name] = found[name] + summary if name in found else summary
    return found


def _not_finite(name: str, photo: bool) -> WorkbenchError:
    if photo:
        return WorkbenchError(
            "a calibration photo is not finite (NaN or infinity) after preprocessing",
            hint="look at `preprocess.mean` and `preprocess.std`, and at the photos of data.calibration",
        )
    return WorkbenchError(
        f"the activation `{name}` is not finite (NaN or infinity) on a photo",
        hint="leave the node that computes it in float (`exclude_nodes`), or mend the network",
    )


def ranges_of(
    summaries: Mapping[str, Summary],
    plan: Mapping[str, Calibration],
    passes: Callable[[Sequence[str]], Iterator[Activations]],
    *,
    symmetric: bool,
) -> dict[str, Range]:
    """The range of each tensor, never beyond its values, unless all of them are zero.

    passes(names) goes once through those tensors' activations of all photos; it is called for groups of
    tensors that take at most AT_ONCE_BYTES a batch.
    """
    found = {name: (summary.low, summary.high) for name, summary in summaries.items()}
    spans: dict[str, Range] = {}
    for name, calibration in plan.items():
        low, high = found[name]
        if calibration.method != "minmax" and low < high:
            two_sided = calibration.method == "percentile" and not symmetric
            spans[name] = (low, high) if two_sided else (0.0, max(-low, high))
    for group in _groups(spans, summaries):
        counts = _histograms(passes(group), spans)
        for name in group:
            low, high = _cut(counts[name], spans[name], plan[name], symmetric=symmetric)
            found[name] = (max(found[name][0], low), min(found[name][1], high))
    return {name: _wide_enough(ends) for name, ends in found.items()}


def _cut(counts: NDArray[np.int64], span: Range, calibration: Calibration, *, symmetric: bool) -> Range:
    if calibration.method == "percentile" and not symmetric:
        return percentile_tails(counts, span, calibration.percentile)
    if calibration.method == "percentile":
        limit = percentile_limit(counts, span[1], calibration.percentile)
    else:
        limit = entropy_threshold(counts, span[1])
    return -limit, limit


def _wide_enough(ends: Range) -> Range:
    """A range of zeros becomes one of 1: a scale next to nothing overflows the biases that it multiplies."""
    if max(abs(end) for end in ends) > NARROWEST:
        return ends
    return (0.0 if ends[0] >= 0 else -1.0, 1.0)  # a ReLU is left out of the graph where its range starts at 0


def _groups(names: Iterable[str], summaries: Mapping[str, Summary]) -> Iterator[list[str]]:
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


def _histograms(
    activations: Iterator[Activations], spans: Mapping[str, Range]
) -> dict[str, NDArray[np.int64]]:
    """Counts of each tensor over its span, of |x| where the span starts at zero."""
    counts: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(BINS, np.int64))
    for batch in activations:
        for name, values in batch.items():
            flat = values.reshape(-1)
            for start in range(0, len(flat), CHUNK):
                counts[name] += _counted(flat[start : start + CHUNK], spans[name])
    return counts


def _counted(values: NDArray[np.float32], span: Range) -> NDArray[np.int64]:
    low, high = span
    offsets = np.abs(values) if low == 0.0 else values - np.float32(low)
    offsets *= np.float32(BINS / (high - low))
    index = np.minimum(offsets, np.float32(BINS - 1), out=offsets).astype(np.intp)
    return np.bincount(index, minlength=BINS)


def _summariser(
    model: "onnx.ModelProto", tensors: Sequence[str]
) -> Callable[[NDArray[np.float32]], dict[str, Summary]]:
    """A run of the network that sums up the named tensors of a batch, the input among them.
    The sums are nodes of the graph, so that each activation is dropped as soon as the network has used it."""
    editor = Editor(deepcopy(model))
    for number, name in enumerate(tensors):
        for op in ("ReduceMin", "ReduceMax", "ReduceMean", "Size"):
            kind, attributes = (INT64, {}) if op == "Size" else (FLOAT, {"keepdims": 0})
            editor.output(editor.node(op, [name], f"summary/{number}/{op}", **attributes), kind)
    run = editor.run()

    def summarise(batch: NDArray[np.float32]) -> dict[str, Summary]:
        values = iter([float(value) for value in run(batch)])
        rows = zip(tensors, values, values, values, values, strict=True)
        return {name: Summary(int(n), int(n), low, high, mean) for name, low, high, mean, n in rows}

    return summarise


def _instrumented(
    model: "onnx.ModelProto", tensors: Sequence[str]
) -> Callable[[NDArray[np.float32]], Activations]:
    """A run of the network that returns the named tensors of a batch, the input among them."""
    editor = Editor(deepcopy(model))
    image, outputs = image_input(model).name, {output.name for output in model.graph.output}
    wanted = [name for name in tensors if name != image]
    for name in wanted:
        if name not in outputs:
            editor.output(name, shape=None)
    run, size = runner(editor.model, wanted), batch_size(model)

    def activations(batch: NDArray[np.float32]) -> Activations:
        found = dict(zip(wanted, run(batch), strict=True))
        return {**found, image: filled(batch, size)} if image in tensors else found

    return activations
