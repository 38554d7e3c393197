"""The trial start of a promotion: the artifact opened once more, as a server does, in its own process."""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workbench.backends import Runtime, backend_of
from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import batch_of
from workbench.registry.batch_gain import Batching, batching_of
from workbench.registry.logits import Logits, Pixels, logits_of
from workbench.system.child import call

TIMEOUT_S = {"cpu": 300.0, "cuda": 1800.0}  # a GPU runtime may have to build its engine first


def start_apart(
    artifact: Artifact, runtime: Runtime, contract: Preprocess, images: Sequence[Pixels], *, log: Path
) -> tuple[list[Logits], Batching]:
    """The logits of each set of pixels, and whether batches pay. Raises ChildError, and Unsuited where its
    environment is not made."""
    timeout_s, apart = TIMEOUT_S[runtime.device], runtime.environment()
    model = (artifact, runtime, contract)
    return call(
        start, *model, images, log=log, timeout_s=timeout_s, label="the trial start", environment=apart
    )


def start(
    artifact: Artifact, runtime: Runtime, contract: Preprocess, images: Sequence[Pixels]
) -> tuple[list[Logits], Batching]:
    """`start_apart` in this process. Raises WorkbenchError."""
    backend = backend_of(runtime)
    if (reason := backend.unavailable(runtime)) is not None:
        hint = "promote on a machine that can run it, as the one it was measured on"
        raise WorkbenchError(reason, hint=hint)
    info = artifact.info
    # In an empty folder: a model that reads a second file beside it must fail here, not in production.
    with (
        tempfile.TemporaryDirectory() as empty,
        contextlib.chdir(empty),
        backend.session(artifact, runtime) as session,
    ):
        outputs = [logits_of(session.infer, contract, pixels, raw=info.pixels) for pixels in images]
        photos = batch_of(images[0][:4], contract, raw=info.pixels)
        fixed, sessions = info.input_shape[0], runtime.sessions
        return outputs, batching_of(
            session.infer, photos, fixed=fixed, sessions=sessions, device=runtime.device
        )
