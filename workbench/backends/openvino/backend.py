"""OpenVINO on the CPU: IR files, converted from ONNX when the artifact is built.

Settings, and why:

- Precision: f32 unless the recipe asks for another. OpenVINO's default is bf16 where the processor has it.
- Streams: as many as calls run at once (`sessions`). One stream answers one call after the other.
- No pinning: several servers, or a measurement that pins the process itself, share the processors.
- Batch: networks with a free batch size are compiled for one photo and for `runtime.batch`. With a free size,
  OpenVINO plans shapes and memory in every call.
- No cache of compiled networks unless `KRISHI_OPENVINO_CACHE` is set: a cached blob is unverified code, and
  hides how long a start takes on a fresh machine.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact, ArtifactInfo, Format
from workbench.backends.audit import COMPUTED, Audit
from workbench.backends.base import ANY_OPERATORS, Operators, Session
from workbench.backends.common import for_any_batch
from workbench.backends.openvino import reason, without_telemetry
from workbench.backends.openvino.settings import OpenvinoRuntime
from workbench.errors import WorkbenchError
from workbench.photos.contract import Batch
from workbench.system.files import cache_folder
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NAME = "openvino"
PACKAGES: tuple[str, ...] = ("openvino",)
FORMATS: frozenset[Format] = frozenset({"openvino"})
OPERATORS: frozenset[Operators] = ANY_OPERATORS
prepare = None

CACHE_SWITCH = "KRISHI_OPENVINO_CACHE"


def convert(artifact: Artifact, folder: Path) -> ArtifactInfo:
    """Write the IR of an ONNX artifact. Raises WorkbenchError where openvino cannot read it."""
    from workbench.backends.openvino import ir

    ir.save(ir.read(artifact.read(), artifact.path.name), folder)
    return ir.ir_info(folder)


def unavailable(runtime: OpenvinoRuntime) -> str | None:
    if (missing := missing_package("openvino")) is not None:
        return missing
    able = _capabilities()
    if runtime.computes == "f32" or COMPUTED[runtime.computes].upper() in able:
        return None
    computes = ", ".join(hint for hint in ("f32", "bf16", "f16") if COMPUTED[hint].upper() in able)
    return (
        f"this processor does not compute in {runtime.precision} (it does in {computes}): openvino would "
        "take another precision without a word"
    )


@contextmanager
def session(artifact: Artifact, runtime: OpenvinoRuntime) -> Iterator[Session]:
    """Open an IR from its verified bytes. The session may be called from several threads at once.

    Raises WorkbenchError where the file cannot be opened, or openvino took another precision or number of
    threads.
    """
    network = _Network(artifact, runtime)
    compiled = network.compiled(network.size_for(runtime.batch))
    import openvino  # not before it was told to send no telemetry

    threads, streams = (int(compiled.get_property(name)) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS"))
    yield Session(
        for_any_batch(network.infer, artifact.info.input_shape[0]),
        device="cpu",
        provider=f"openvino CPU ({_computed_in(compiled)})",
        threads=threads // streams,
        version=openvino.get_version().partition("-")[0],  # behind it stands the build
    )


def audit(artifact: Artifact, runtime: OpenvinoRuntime, sample: "NDArray[Any]") -> Audit:
    from workbench.backends.openvino.audit import audit_compiled

    network = _Network(artifact, runtime)
    compiled = network.compiled(network.size_for(len(sample)))
    # INT8 is in the file, whatever the hint says of the rest.
    stored = runtime.precision is None or artifact.info.precision == "int8"
    asked = artifact.info.precision if stored else COMPUTED[runtime.computes]
    return audit_compiled(compiled, asked, stored=stored)


class _Network:
    """An artifact, compiled for the batch sizes it is called with, and the requests of each thread."""

    def __init__(self, artifact: Artifact, runtime: OpenvinoRuntime) -> None:
        self._artifact = artifact
        self._runtime = runtime
        batch, *others = artifact.info.input_shape
        self._sizes = {1, runtime.batch} if batch == 0 and all(others) else set[int]()
        self._compiled: dict[int, Any] = {}
        self._compiling = threading.Lock()
        self._own = threading.local()

    def size_for(self, batch: int) -> int:
        """The batch size to compile for; 0: as the network is stored."""
        return batch if batch in self._sizes else 0

    def compiled(self, size: int) -> Any:
        """The openvino.CompiledModel for batches of `size`, compiled at the first call."""
        with self._compiling:
            if size not in self._compiled:
                self._compiled[size] = _compile(self._artifact, self._runtime, size)
            return self._compiled[size]

    def infer(self, batch: Batch) -> "NDArray[np.float32]":
        """Logits of a batch. Raises WorkbenchError where the network does not take it."""
        request = self._request(self.size_for(len(batch)))
        try:
            # Both sides without a copy; the logits are copied once, before this thread's next call.
            found = request.infer([batch], share_inputs=True, share_outputs=True)
        except (RuntimeError, TypeError, ValueError) as error:
            raise WorkbenchError(
                f"openvino cannot run a batch of shape {batch.shape}: {reason(error)}"
            ) from error
        logits: NDArray[np.float32] = found[0].copy()
        return logits

    def _request(self, size: int) -> Any:
        """This thread's own: a request takes one call at a time."""
        requests: dict[int, Any] = self._own.__dict__.setdefault("requests", {})
        if size not in requests:
            requests[size] = self.compiled(size).create_infer_request()
        return requests[size]


def _compile(artifact: Artifact, runtime: OpenvinoRuntime, size: int) -> Any:
    without_telemetry()
    import openvino

    settings = _settings(runtime)
    graph = artifact.read()
    if not graph.lstrip().startswith(b"<"):
        # openvino opens other formats too, and ONNX may name weights in unverified files.
        raise WorkbenchError(f"{artifact.path.name} is not an OpenVINO network: it is no XML")
    try:
        core = openvino.Core()
        model = core.read_model(graph, *artifact.read_companions())
        if size:
            _, channels, height, width = artifact.info.input_shape
            image = (height, width, channels) if artifact.info.pixels else (channels, height, width)
            model.reshape([size, *image])
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise WorkbenchError(f"openvino cannot open {artifact.path.name}: {reason(error)}") from error
    _check_taken(compiled, settings)
    return compiled


def _settings(runtime: OpenvinoRuntime) -> dict[str, Any]:
    streams = runtime.streams or runtime.sessions
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": runtime.computes,
        "INFERENCE_NUM_THREADS": streams * runtime.intra_threads,  # of all streams together
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
    }
    folder = _private_cache() if os.environ.get(CACHE_SWITCH) else None
    return {**settings, "CACHE_DIR": str(folder)} if folder else settings


def _private_cache() -> Path | None:
    """A folder for compiled networks that only this user can write to; None where there is none."""
    folder = cache_folder() / "openvino"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = folder.stat()
    except OSError:
        return None  # Read-only, as in a container: starting takes its full time there.
    private = owned.st_uid == os.getuid() and not owned.st_mode & 0o022
    return folder if private and os.access(folder, os.W_OK) and not folder.is_symlink() else None


def _check_taken(compiled: Any, settings: dict[str, Any]) -> None:
    # openvino replaces settings that it cannot follow, without an error.
    asked, got = settings["INFERENCE_PRECISION_HINT"], _computed_in(compiled)
    if asked != got:
        raise WorkbenchError(
            f"asked openvino for {asked}, it computes in {got}",
            hint="leave `runtime.precision` out, or choose what this processor has",
        )
    for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS"):
        number = int(compiled.get_property(name))
        if settings[name] != number:
            raise WorkbenchError(
                f"asked openvino for {name} {settings[name]}, it took {number}",
                hint="threads times streams must not be more than this machine's processors",
            )


def _computed_in(compiled: Any) -> str:
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())


@lru_cache(maxsize=1)
def _capabilities() -> frozenset[str]:
    without_telemetry()
    import openvino

    return frozenset(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
