"""One published model, opened and proven, with the threads that run it."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve.metrics import Metrics
from workbench.artifact import EXECUTABLE_FORMATS
from workbench.backends import BACKENDS, Session
from workbench.errors import WorkbenchError
from workbench.images import FORMATS, preprocess
from workbench.registry import Bundle, check_golden

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Guess:
    """The most probable class and its softmax probability."""

    class_id: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle whose session reproduced its golden logits.

    threads: where `guess` runs, so that the event loop does not. concurrency: how many there are.
    """

    bundle: Bundle
    session: Session
    threads: ThreadPoolExecutor
    concurrency: int

    def guess(self, photo: Callable[[], bytes], metrics: Metrics, queued_at: float) -> Guess:
        """Decode, preprocess and classify one photo.

        photo: gives the encoded bytes; called here so that taking a form apart is off the event loop too.
        queued_at: time.perf_counter() when the work was handed over.
        Raises what `photo` raises, and ImageError.
        """
        started = time.perf_counter()
        manifest = self.bundle.manifest
        batch = preprocess(photo(), manifest.preprocess, raw=manifest.artifact.pixels)
        decoded = time.perf_counter()
        logits = self.session.infer(batch)[0]
        inferred = time.perf_counter()
        guess = _top1(logits)
        metrics.stages.labels("queue").observe(started - queued_at)
        metrics.stages.labels("decode").observe(decoded - started)
        metrics.stages.labels("infer").observe(inferred - decoded)
        metrics.inference_latency.observe(inferred - decoded)
        metrics.predictions.labels(str(guess.class_id)).inc()
        return guess


def softmax(logits: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """(classes,) logits to probabilities, in float64; the largest is subtracted so that none overflows."""
    import numpy as np

    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum()
    return probabilities


def _top1(logits: "NDArray[np.float32]") -> Guess:
    probabilities = softmax(logits)
    class_id = int(probabilities.argmax())
    confidence = float(probabilities[class_id])
    if not confidence > 0:
        raise RuntimeError("the model gave logits that are not finite")
    return Guess(class_id, confidence)


@contextmanager
def opened(bundle: Bundle) -> Iterator[Model]:
    """Verify the bundle's files, open it, hold it to its golden logits and warm it up.

    Raises WorkbenchError where any of it fails.
    """
    manifest = bundle.manifest
    bundle.verify()
    if manifest.artifact.format in EXECUTABLE_FORMATS:
        raise WorkbenchError(f"{manifest.name} {manifest.version} is a torch file: reading one can run code")
    backend = BACKENDS[manifest.runtime.backend]
    if (reason := backend.unavailable(manifest.runtime)) is not None:
        raise WorkbenchError(f"{manifest.name} {manifest.version} cannot run here: {reason}")
    concurrency = manifest.runtime.sessions
    with backend.session(bundle.artifact, manifest.runtime) as session:
        _prove(bundle, session)
        with ThreadPoolExecutor(concurrency, thread_name_prefix="infer") as threads:
            _start_all(threads, concurrency)
            yield Model(bundle, session, threads, concurrency)


def _start_all(threads: ThreadPoolExecutor, count: int) -> None:
    """A pool starts its threads as work comes; started here, no request waits for one."""
    meeting = threading.Barrier(count)
    for waiting in [threads.submit(meeting.wait) for _ in range(count)]:
        waiting.result()


def _prove(bundle: Bundle, session: Session) -> None:
    """Golden logits first, then one photo per format through the path of a request: the first user must
    not pay for lazy imports."""
    from PIL import Image

    pixels, logits = bundle.golden()
    try:
        check_golden(session.infer, bundle.manifest, pixels, logits)
    except WorkbenchError as error:
        raise WorkbenchError(
            f"{bundle.manifest.name} {bundle.version} does not reproduce its golden logits: {error.message}"
        ) from error
    for image_format in FORMATS:
        encoded = io.BytesIO()
        Image.fromarray(pixels[0]).save(encoded, image_format)
        manifest = bundle.manifest
        session.infer(preprocess(encoded.getvalue(), manifest.preprocess, raw=manifest.artifact.pixels))
