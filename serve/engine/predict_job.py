"""What a thread does for one request: a photo to a classification, or tensors to logits."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from serve.engine.model import Model
from serve.errors import ApiError
from serve.metrics import Meter
from workbench.backends.abstention import Doubt
from workbench.backends.softmax import probabilities_of
from workbench.photos.contract import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_ERRORS = {
    "unsupported": (415, "unsupported-image"),
    "broken": (422, "broken-image"),
    "empty": (422, "empty-image"),
    "too-large": (422, "image-too-large"),
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, and the counters of its role."""

    model: Model
    meter: Meter


@dataclass(frozen=True, slots=True)
class Canary(ServedModel):
    """weight: the share of photos it answers."""

    weight: float

    def takes(self, photo: bytes) -> bool:
        """Decide by a hash of the photo, so that the same photo always gets the same version."""
        # Salted with the version, or every canary would get the same users' photos.
        digest = hashlib.sha256(self.model.version.encode())
        digest.update(photo)
        return int.from_bytes(digest.digest()[:8]) < self.weight * 2**64


@dataclass(frozen=True, slots=True)
class Routing:
    """Which models answer. A request keeps the routing it started with, also during a swap."""

    primary: ServedModel
    canary: Canary | None = None

    def route(self, photo: bytes) -> ServedModel:
        return self.canary if self.canary is not None and self.canary.takes(photo) else self.primary


@dataclass(frozen=True, slots=True)
class Classification:
    """probabilities: (classes,) float64. photo: the encoded bytes. doubt: why the answer is uncertain."""

    model: Model
    class_id: int
    probabilities: "NDArray[np.float64]"
    infer_s: float
    photo: bytes
    doubt: Doubt | None = None

    @property
    def confidence(self) -> float:
        return float(self.probabilities[self.class_id])


def classify(routing: Routing, read_photo: Callable[[], bytes]) -> Classification:
    """Decode, preprocess and classify one photo. Called in a thread.

    read_photo: returns the encoded bytes; called here, so that forms are parsed off the event loop too.
    Raises what it raises, ApiError for bytes that are no photo, RuntimeError for logits that are not finite.
    """
    started = time.perf_counter()
    photo = read_photo()
    served = routing.route(photo)
    model = served.model
    try:
        batch = model.batch(photo)
        decoded = time.perf_counter()
        logits = model.infer(batch)[0]
        inferred = time.perf_counter()
        result = _with_doubt(_top1(model, logits, inferred - decoded, photo), logits, served.meter)
    except ImageError as error:
        status, code = IMAGE_ERRORS[error.kind]
        served.meter.count_failure(status)
        raise ApiError(status, code, str(error)) from error
    except Exception:
        served.meter.count_failure(500)
        raise
    served.meter.count_photo(result.class_id, result.confidence, decoded - started, result.infer_s)
    return result


def _top1(model: Model, logits: "NDArray[np.float32]", infer_s: float, photo: bytes) -> Classification:
    probabilities = probabilities_of(logits, model.bundle.manifest.outputs)
    result = Classification(model, int(probabilities.argmax()), probabilities, infer_s, photo)
    # One NaN among the logits makes every probability NaN. That is the model's fault, never the photo's.
    if not math.isfinite(result.confidence):
        raise RuntimeError("the model gave logits that are not finite")
    return result


def _with_doubt(result: Classification, logits: "NDArray[np.float32]", meter: Meter) -> Classification:
    """The result with the doubt of the version's rule, which is counted."""
    if (rule := result.model.abstention) is None or rule.why_not is not None:
        return result
    scores = rule.scores(logits, result.model.bundle.manifest.outputs)
    doubt = rule.doubt(scores)
    meter.count_scores(float(scores.confidence), rule.likeness(scores), doubt)
    return result if doubt is None else replace(result, doubt=doubt)


def compute_logits(served: ServedModel, batch: "NDArray[Any]") -> "NDArray[np.float32]":
    """(n, ...) tensors to (n, classes) logits, row by row."""
    import numpy as np

    started = time.perf_counter()
    try:
        # Not as a batch: the model was evaluated photo by photo, and some networks answer differently then.
        logits = np.concatenate([served.model.infer(batch[i : i + 1]) for i in range(len(batch))])
    except Exception:
        served.meter.count_failure(500)
        raise
    served.meter.count_tensors(len(batch), time.perf_counter() - started)
    return logits
