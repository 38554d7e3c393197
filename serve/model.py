"""One published model, opened and proven, with the threads that run it."""

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve.batching import Gatherer
from serve.threads import Threads
from workbench.backends import BACKENDS, Infer, Session
from workbench.backends.artifact import EXECUTABLE_FORMATS
from workbench.errors import WorkbenchError
from workbench.photos.contract import FORMATS
from workbench.photos.preprocess import batch_of, pixels_of
from workbench.registry.bundle import Bundle, check_golden, compare_logits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Model:
    """A bundle whose session reproduced its golden logits.

    infer: the session's, or its photos gathered into batches where the bundle's measurements say that pays.
    threads: where photos are worked on, so that the event loop does not; concurrency: how many there are.
    seconds: what one photo took, decoded and classified, when the model was warmed up.
    users: requests that hold it at this moment; only the event loop counts them.
    """

    bundle: Bundle
    session: Session
    infer: Infer
    threads: Threads
    concurrency: int
    seconds: float = 0.0
    users: int = 0
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def version(self) -> str:
        return self.bundle.version

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.bundle.manifest.class_names

    def batch(self, photo: bytes) -> "NDArray[Any]":
        """Photo bytes to a batch of one, as this model takes it. Raises ImageError."""
        manifest = self.bundle.manifest
        pixels = pixels_of(photo, manifest.preprocess)
        return batch_of(pixels[None], manifest.preprocess, raw=manifest.artifact.pixels)

    def hold(self, resources: ExitStack) -> None:
        """Keep these until the model is closed."""
        both = ExitStack()
        both.callback(resources.close)
        both.callback(self._open.close)
        self._open = both

    def close(self) -> None:
        """Finish what its threads have in hand, then free the session."""
        self._open.close()


def probabilities_of(logits: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Softmax of (classes,) logits, in float64; the largest is subtracted so that none overflows.

    Raises RuntimeError where the logits are not finite: that is the model's fault, never the photo's.
    """
    import numpy as np

    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    exponentials = np.exp(shifted)
    total = exponentials.sum()
    if not 0 < total < float("inf"):
        raise RuntimeError("the model gave logits that are not finite")
    probabilities: NDArray[np.float64] = exponentials / total
    return probabilities


def load(bundle: Bundle, *, workers: int = 1) -> Model:
    """Verify the bundle's files, open it, hold it to its golden logits and warm it up.

    workers: processes that do the same on this machine, and share its processors. The caller closes it.
    Raises WorkbenchError where any of it fails.
    """
    manifest = bundle.manifest
    name = f"{manifest.name} {manifest.version}"
    bundle.verify()
    if manifest.artifact.format in EXECUTABLE_FORMATS:
        raise WorkbenchError(f"{name} is a torch file: reading one can run code")
    backend = BACKENDS[manifest.runtime.backend]
    if (reason := backend.unavailable(manifest.runtime)) is not None:
        raise WorkbenchError(f"{name} cannot run here: {reason}")
    batch = manifest.batching.size if manifest.batching else 1
    concurrency = max(1, manifest.runtime.sessions // workers)
    with ExitStack() as resources:
        session = resources.enter_context(backend.session(bundle.artifact, manifest.runtime))
        # A batch is gathered from threads that wait for it, so it takes as many.
        count = max(concurrency, batch)
        threads = resources.enter_context(closing(Threads(count, "infer")))
        infer = Gatherer(session.infer, batch) if batch > 1 else session.infer
        model = Model(bundle, session, infer, threads, count)
        _prove(model)
        model._open = resources.pop_all()
        return model


@contextmanager
def opened(bundle: Bundle) -> Iterator[Model]:
    """`load`, closed at the end."""
    model = load(bundle)
    try:
        yield model
    finally:
        model.close()


def _prove(model: Model) -> None:
    """Golden logits first, then one photo per format through the path of a request: the first user must
    not pay for lazy imports."""
    from PIL import Image

    bundle = model.bundle
    pixels, logits = bundle.golden()
    try:
        check_golden(model.session.infer, bundle.manifest, pixels, logits)
        if model.infer is not model.session.infer:
            # Photos will share calls: they must give the same in company.
            batch = batch_of(pixels, bundle.manifest.preprocess, raw=bundle.manifest.artifact.pixels)
            compare_logits(model.session.infer(batch), logits, bundle.manifest.golden.atol)
    except WorkbenchError as error:
        raise WorkbenchError(
            f"{bundle.manifest.name} {bundle.version} does not reproduce its golden logits: {error.message}"
        ) from error
    for image_format in FORMATS:
        encoded = io.BytesIO()
        Image.fromarray(pixels[0]).save(encoded, image_format)
        photo = encoded.getvalue()
        for _ in range(2):  # the second time nothing is done for the first time
            started = time.perf_counter()
            model.infer(model.batch(photo))
            model.seconds = time.perf_counter() - started
