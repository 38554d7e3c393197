"""What the network's inputs show, and what it does with the same inputs again."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workbench.backends.artifact import Artifact
from workbench.backends.common import filled, open_cpu
from workbench.model.graph.onnx_file import describe, logits_of
from workbench.photos.contract import Batch, Preprocess
from workbench.photos.dataset import Images
from workbench.photos.preprocess import batch_of, normalize
from workbench.results.remarks import Remark
from workbench.run.sanity.class_order import is_surely_more

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.run.sanity.class_order import Rows

TOGETHER = 16  # photos of one call
NARROW, WIDE, FAR = 0.5, 20.0, 5.0  # gains of the normalisation that no training uses; a mean of inputs
SAME = 1e-3  # of the largest output: rounding
BATCH_SHIFT = 0.05  # likewise, where other photos of a batch decide
# What networks are trained with, as (mean, std) of pixels in [0, 1].
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]": ((0.5,) * 3, (0.5,) * 3),
    "mean [0, 0, 0], std [1, 1, 1]": ((0.0,) * 3, (1.0,) * 3),
    "mean [0, 0, 0], std [0.00392, 0.00392, 0.00392] (values of 0 to 255)": ((0.0,) * 3, (1 / 255,) * 3),
}


def of_inputs(pixels: "NDArray[np.uint8]", contract: Preprocess, *, low: bool) -> list[Remark]:
    """pixels: (n, H, W, 3) of some photos. low: whether the accuracy is.

    Networks are trained on values of 0 to 1, of 0 to 255, or with mean 0 and spread 1: what is far from that
    is a note where the accuracy is good all the same.
    """
    inputs = normalize(pixels, contract)
    mean, spread, raw = float(inputs.mean()), float(inputs.std()), float(pixels.std()) / 255
    if raw < 0.02:  # photos of one colour
        return []
    if (gain := spread / raw) < NARROW:
        form = "narrow"
    elif gain > WIDE:
        form = "wide"
    elif abs(mean) > FAR:
        form = "far"
    elif low and gain < 1.5 and inputs.min() >= 0:
        form = "unscaled"
    else:
        return []
    grave = low and form != "unscaled"
    figures = {"mean": mean, "spread": spread, "low": float(inputs.min()), "high": float(inputs.max())}
    return [Remark(kind="inputs", gravity="grave" if grave else "note", form=form, figures=figures)]


def try_inputs(baseline: Artifact, photos: Images, rows: "Rows") -> dict[str, int]:
    """Right answers of these photos with other inputs than those stated; in a process of its own."""
    import numpy as np

    pixels, labels = photos.pixels()[rows], np.asarray(photos.labels)[rows]
    tried = {"`preprocess` with the channels as BGR": normalize(pixels[..., ::-1], photos.contract)}
    for name, (mean, std) in NORMALISATIONS.items():
        batch = ((pixels / 255 - np.asarray(mean)) / np.asarray(std)).astype(np.float32)
        tried[name] = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    return {
        name: int((_outputs(baseline, batch).argmax(axis=1) == labels).sum()) for name, batch in tried.items()
    }


def outputs_of(baseline: Artifact, photos: Images, rows: "Rows") -> "NDArray[np.float32]":
    """(rows, classes) of these photos; in a process of its own."""
    return _outputs(baseline, batch_of(photos.pixels()[rows], photos.contract, raw=baseline.info.pixels))


def _outputs(baseline: Artifact, batch: Batch) -> "NDArray[np.float32]":
    import numpy as np

    facts, starts = describe(baseline.path), range(0, len(batch), TOGETHER)
    parts = [logits_of(baseline.path, facts, batch[start : start + TOGETHER]) for start in starts]
    return np.concatenate(parts)


def of_tried(right: Mapping[str, int], stated: int, total: int) -> list[Remark]:
    """stated: right answers with the inputs as they are said to be."""
    best = max(right, key=lambda name: right[name], default="")
    if not right or not is_surely_more(right[best], stated, total):
        return []
    figures: dict[str, float] = {"right": right[best], "stated": stated, "images": total}
    return [Remark(kind="other_inputs", gravity="grave", figures=figures, names=(best,))]


def of_stated(mean: Sequence[float] | None, std: Sequence[float] | None) -> list[Remark]:
    """What a file's own preprocessing shows without any photo; in units of pixels from 0 to 1."""
    if (std and max(std) > 2) or (mean and max(map(abs, mean)) > 2):
        figures = {"mean": max(mean or (0.0,)), "spread": max(std or (1.0,))}
        return [Remark(kind="inputs", gravity="note", form="stated", figures=figures)]
    return []


def of_mode(training: Sequence[str]) -> list[Remark]:
    """training: the layers of the graph that compute as in training."""
    return [Remark(kind="training_mode", gravity="grave", names=tuple(training))] if training else []


def unstable(again: float, in_batch: float) -> tuple[Remark, ...]:
    """Changes of an output, over the largest one, of the same photos given again and given in a batch."""
    if not again <= SAME:
        return (Remark(kind="unstable", gravity="grave", form="again", figures={"change": again}),)
    if not in_batch <= 10 * SAME:
        gravity = "grave" if in_batch > BATCH_SHIFT else "note"
        return (Remark(kind="unstable", gravity=gravity, form="batch", figures={"change": in_batch}),)
    return ()


def repeat(baseline: Artifact, photos: Images, rows: "Rows") -> tuple[float, float]:
    """The figures of `unstable`; in a process of its own."""
    import numpy as np

    batch = batch_of(photos.pixels()[rows], photos.contract, raw=baseline.info.pixels)
    facts, session = describe(baseline.path), open_cpu(baseline.path)

    def alone() -> "NDArray[np.float32]":
        # In one session: another would begin with the same random numbers.
        photos = [filled(batch[i : i + 1], facts.input_shape[0] or 1) for i in range(len(batch))]
        answers = [session.run([facts.output_name], {facts.input_name: photo})[0][:1] for photo in photos]
        return np.concatenate(answers)

    first, again = alone(), alone()
    scale = max(float(np.abs(first).max()), math.ulp(1.0))
    together = _outputs(baseline, batch)
    return float(np.abs(again - first).max()) / scale, float(np.abs(together - first).max()) / scale
