"""One published model, opened and verified, with the threads that run it."""

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve.engine.micro_batcher import MicroBatcher
from serve.engine.threads import Threads
from workbench.backends import Infer, Session, backend_of
from workbench.backends.artifact import EXECUTABLE_FORMATS
from workbench.errors import WorkbenchError
from workbench.photos.contract import FORMATS
from workbench.photos.preprocess import batch_of, pixels_of
from workbench.registry.bundle import Bundle, check_golden, compare_logits

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Model:
    """A bundle whose session reproduced its golden logits.

    infer: the session's, or a MicroBatcher where the bundle's measurements say that it pays.
    threads: where photos are processed. concurrency: how many threads there are.
    photo_s: seconds that one photo took, decoded and classified, when the model was warmed up.
    users: requests that use it now; counted on the event loop only.
    """

    bundle: Bundle
    session: Session
    infer: Infer
    threads: Threads
    concurrency: int
    photo_s: float = 0.0
    users: int = 0
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def version(self) -> str:
        return self.bundle.version

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.bundle.manifest.class_names

    def batch(self, photo: bytes) -> "NDArray[Any]":
        """Decode and preprocess a photo into a batch of one. Raises ImageError."""
        manifest = self.bundle.manifest
        pixels = pixels_of(photo, manifest.preprocess)
        return batch_of(pixels[None], manifest.preprocess, raw=manifest.artifact.pixels)

    def keep_until_closed(self, resources: ExitStack) -> None:
        """Close `resources` after the session."""
        both = ExitStack()
        both.callback(resources.close)
        both.callback(self._open.close)
        self._open = both

    def close(self) -> None:
        """Finish the work of its threads, then free the session."""
        self._open.close()


def load_model(bundle: Bundle, *, workers: int = 1) -> Model:
    """Verify the bundle's files, open it, compare its golden logits and warm it up. The caller closes it.

    workers: server processes that share this machine's processors.
    Raises WorkbenchError where any of it fails.
    """
    manifest = bundle.manifest
    name = f"{manifest.name} {manifest.version}"
    bundle.verify()
    if manifest.artifact.format in EXECUTABLE_FORMATS:
        raise WorkbenchError(f"{name} is a torch file: reading one can run code")
    backend = backend_of(manifest.runtime)
    if (reason := backend.unavailable(manifest.runtime)) is not None:
        raise WorkbenchError(f"{name} cannot run here: {reason}")
    batch = manifest.batching.size if manifest.batching else 1
    concurrency = max(1, manifest.runtime.sessions // workers)
    with ExitStack() as resources:
        session = resources.enter_context(backend.session(bundle.artifact, manifest.runtime))
        # Each photo of a shared call is brought by a thread, so it takes as many threads as photos.
        count = max(concurrency, batch)
        threads = resources.enter_context(closing(Threads(count, "infer")))
        infer = MicroBatcher(session.infer, batch) if batch > 1 else session.infer
        model = Model(bundle, session, infer, threads, count)
        _verify_and_warm_up(model)
        model._open = resources.pop_all()
        return model


@contextmanager
def open_model(bundle: Bundle) -> Iterator[Model]:
    """`load_model`, closed at the end."""
    model = load_model(bundle)
    try:
        yield model
    finally:
        model.close()


def _verify_and_warm_up(model: Model) -> None:
    """Compare the golden logits, then process one photo per format as a request does."""
    from PIL import Image

    bundle = model.bundle
    pixels, logits = bundle.golden()
    try:
        check_golden(model.session.infer, bundle.manifest, pixels, logits)
        if model.infer is not model.session.infer:
            # Photos will share calls: a batch must give the same logits.
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
        # Twice: lazy imports happen in the first, so that no user waits for them, and the second is timed.
        for _ in range(2):
            started = time.perf_counter()
            model.infer(model.batch(photo))
            model.photo_s = time.perf_counter() - started
