"""One published model, opened and verified, with the threads that run it."""

import io
import os
import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.engine.micro_batcher import MicroBatcher
from serve.engine.threads import Threads
from workbench.backends import Infer, Session, backend_of
from workbench.backends.abstention import Abstention
from workbench.backends.artifact import EXECUTABLE_FORMATS
from workbench.errors import WorkbenchError
from workbench.photos.contract import FORMATS
from workbench.photos.preprocess import batch_of, pixels_of
from workbench.registry.bundle import Bundle, check_golden
from workbench.registry.fitness import check_processor
from workbench.registry.logits import compare_logits, logits_of
from workbench.registry.store import Registry
from workbench.system.child import Handler

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class Model:
    """A bundle whose session reproduced its golden logits.

    infer: the session's, or a MicroBatcher where the bundle's measurements say that it pays.
    concurrency: the number of threads, which process photos.
    abstention: says which answers are uncertain; None: the bundle has no such rule, or it is turned off.
    photo_s: time to decode and classify one photo in the warm-up.
    users: requests that use it now, counted on the event loop.
    maps: of the file that gives class activation maps too, where there is one (see `Bundle.class_maps`).
    """

    bundle: Bundle
    session: Session
    infer: Infer
    threads: Threads
    concurrency: int
    abstention: Abstention | None = None
    photo_s: float = 0.0
    users: int = 0
    maps: Infer | None = None
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

    def close(self) -> None:
        """Finish the work of the threads, then free the session."""
        self._open.close()


def load_model(
    bundle: Bundle,
    *,
    workers: int = 1,
    lease: AbstractContextManager[object] | None = None,
    abstain: bool = True,
) -> Model:
    """Verify the bundle's files, open it, compare its golden logits and warm it up. The caller closes it.

    workers: server processes that share this machine's processors. lease: held until the model is closed.
    abstain: follow the bundle's rule for uncertain answers. Raises WorkbenchError where any of it fails.
    """
    manifest = bundle.manifest
    name = f"{manifest.name} {manifest.version}"
    batch = manifest.batching.size if manifest.batching else 1
    # Each photo of a shared call is brought by a thread, so it takes as many threads as photos.
    concurrency = max(1, manifest.runtime.sessions // workers, batch)
    with ExitStack() as resources:
        resources.enter_context(lease or nullcontext())
        bundle.verify()
        if manifest.artifact.format in EXECUTABLE_FORMATS:
            raise WorkbenchError(f"{name} is a torch file: reading one can run code")
        check_processor(manifest)
        backend = backend_of(manifest.runtime)
        if (reason := backend.unavailable(manifest.runtime)) is not None:
            raise WorkbenchError(f"{name} cannot run here: {reason}")
        session = resources.enter_context(backend.session(bundle.artifact, manifest.runtime))
        threads = resources.enter_context(closing(Threads(concurrency, "infer")))
        infer = MicroBatcher(session.infer, batch) if batch > 1 else session.infer
        rule = manifest.abstention if abstain else None
        model = Model(bundle, session, infer, threads, concurrency, rule)
        if (explaining := bundle.class_maps) is not None:
            model.maps = resources.enter_context(backend.session(explaining, manifest.runtime)).infer
        _verify_and_warm_up(model)
        model._open = resources.pop_all()
        return model


def load_once(registry: Path, name: str, version: str, digest: str) -> Handler:
    """Load and close a bundle, in a child process of which nothing more is asked. Raises WorkbenchError."""
    os.nice(10)
    # Should memory run out, this process is the one to end, not the server.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    bundle = Registry(registry).bundle(name, version)
    if bundle.digest != digest:
        raise WorkbenchError(f"{name} {version} was changed since it was looked up")
    try:
        load_model(bundle).close()
    except MemoryError as error:
        raise WorkbenchError(f"{name} {version} does not fit into memory") from error
    return repr


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
        if model.maps is not None:
            answers = logits_of(
                model.maps, bundle.manifest.preprocess, pixels, raw=bundle.manifest.artifact.pixels
            )
            compare_logits(answers[:, : logits.shape[1]], logits, bundle.manifest.golden.atol)
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
