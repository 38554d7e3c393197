"""What a thread does with one request: a photo to a guess, or tensors to logits."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.metrics import Meter
from serve.model import Model, probabilities_of
from serve.responses import ApiError
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
class Server:
    """A loaded model in its role."""

    model: Model
    meter: Meter


@dataclass(frozen=True, slots=True)
class Canary(Server):
    """weight: the share of photos it answers."""

    weight: float

    def takes(self, photo: bytes) -> bool:
        """By the photo's own bytes, so that the same photo always gets the same version."""
        # Salted, or every canary would get the same users' photos.
        hashed = hashlib.sha256(self.model.version.encode())
        hashed.update(photo)
        return int.from_bytes(hashed.digest()[:8]) < self.weight * 2**64


@dataclass(frozen=True, slots=True)
class Serving:
    """Who answers. A request takes this as it finds it, and keeps it whatever is swapped meanwhile."""

    primary: Server
    canary: Canary | None = None

    def server_of(self, photo: bytes) -> Server:
        canary = self.canary
        return canary if canary is not None and canary.takes(photo) else self.primary


@dataclass(frozen=True, slots=True)
class Guess:
    """probabilities: (classes,) float64. photo: the encoded bytes it was made of."""

    model: Model
    class_id: int
    probabilities: "NDArray[np.float64]"
    infer_s: float
    photo: bytes

    @property
    def confidence(self) -> float:
        return float(self.probabilities[self.class_id])


def guess(serving: Serving, photo_of: Callable[[], bytes]) -> Guess:
    """Decode, preprocess and classify one photo.

    photo_of: gives the encoded bytes; called here so that taking a form apart is off the event loop too.
    Raises what `photo_of` raises, and ApiError for bytes that are no photo we take.
    """
    started = time.perf_counter()
    photo = photo_of()
    server = serving.server_of(photo)
    model = server.model
    try:
        batch = model.batch(photo)
        decoded = time.perf_counter()
        logits = model.infer(batch)[0]
        inferred = time.perf_counter()
        probabilities = probabilities_of(logits)
    except ImageError as error:
        status, code = IMAGE_ERRORS[error.kind]
        server.meter.failed(status)
        raise ApiError(status, code, str(error)) from error
    except Exception:
        server.meter.failed(500)
        raise
    made = Guess(model, int(probabilities.argmax()), probabilities, inferred - decoded, photo)
    server.meter.predicted(made.class_id, made.confidence, decode_s=decoded - started, infer_s=made.infer_s)
    return made


def logits_of(server: Server, batch: "NDArray[Any]") -> "NDArray[np.float32]":
    """(n, ...) tensors to (n, classes) logits, one by one as photos are: so they were evaluated, and some
    networks answer differently in company."""
    import numpy as np

    started = time.perf_counter()
    try:
        logits = np.concatenate([server.model.infer(batch[i : i + 1]) for i in range(len(batch))])
    except Exception:
        server.meter.failed(500)
        raise
    server.meter.inferred(len(batch), time.perf_counter() - started)
    return logits
