"""What a runtime answers for an ONNX file."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from workbench.backends import Runtime, backend_of
from workbench.backends.artifact import Artifact
from workbench.photos.contract import Batch
from workbench.system.child import call
from workbench.system.files import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


TIMEOUT_S = 600.0


def answers(artifact: Artifact, runtime: Runtime, batch: Batch) -> "NDArray[np.float32]":
    """(rows, classes) logits, photo by photo, as the server asks; in the runtime's environment.

    Raises WorkbenchError.
    """
    if (environment := runtime.environment()) is None:
        return answers_here(artifact, runtime, batch)
    log, given = cache_folder() / "logs" / f"{environment.name}.txt", (artifact, runtime, batch)
    return call(
        answers_here, *given, log=log, timeout_s=TIMEOUT_S, label="the runtime", environment=environment
    )


def answers_here(artifact: Artifact, runtime: Runtime, batch: Batch) -> "NDArray[np.float32]":
    """The same, in this process."""
    import numpy as np

    backend = backend_of(runtime)
    with ExitStack() as stack:
        if backend.convert is not None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            artifact = Artifact(folder, backend.convert(artifact, folder))
        session = stack.enter_context(backend.session(artifact, runtime))
        return np.concatenate([session.infer(batch[row : row + 1]) for row in range(len(batch))])
