"""onnxruntime on an NVIDIA GPU, by its CUDA provider."""

from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit
from workbench.backends.common import PROBE_SIDE, onnxruntime_errors, refuse_override
from workbench.backends.ort.audit import audit_onnx, providers_in_profile
from workbench.backends.ort.io_binding import Bound
from workbench.backends.ort.options import ProviderOptions, cuda_options, sizes
from workbench.backends.ort.providers import RECORD, assigned, refuse_idle, refuse_other
from workbench.backends.ort.settings import OrtRuntime
from workbench.errors import WorkbenchError
from workbench.system.nvidia_check import ORT, missing_link
from workbench.system.nvidia_libraries import CUDA_PROVIDER, preload

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray


ProviderChain = list[tuple[str, ProviderOptions]]

CPU = "CPUExecutionProvider"
HOW = "wall clock, buffers on the GPU"


def configured(
    artifact: Artifact, runtime: OrtRuntime, options: "onnxruntime.SessionOptions"
) -> ProviderChain:
    """The providers in order of preference, to open a session with.

    options: changed, so that the session records which provider got which node. Raises WorkbenchError where
    the environment switches TF32 otherwise than `runtime` asks.
    """
    options.add_session_config_entry(RECORD, "1")
    refuse_override(runtime.precision == "tf32")
    preload()
    return [(CUDA_PROVIDER, cuda_options(artifact, runtime)), (CPU, {})]


def opened(
    artifact: Artifact, runtime: OrtRuntime, options: "onnxruntime.SessionOptions"
) -> "onnxruntime.InferenceSession":
    """The file, opened on the GPU.

    Raises WorkbenchError where it cannot be opened, or the CUDA provider took nothing of it.
    """
    chain = configured(artifact, runtime, options)
    session = open_with(artifact, options, chain)
    refuse_other(session.get_providers()[0], CUDA_PROVIDER, lambda: missing_link(ORT))
    nodes = assigned(session) or providers_in_profile(artifact, options, chain, _sample(artifact))
    refuse_idle(nodes, CUDA_PROVIDER)
    return session


def called(
    opened: "onnxruntime.InferenceSession", artifact: Artifact, runtime: OrtRuntime, *, device: str = "cuda"
) -> Bound:
    """How an opened file is called. device: as onnxruntime names it; `cpu` for tests without a GPU."""
    return Bound(
        opened,
        artifact.info.classes,
        sizes(artifact, runtime),
        device=device,
        graphs=runtime.cuda_graph,
    )


def audit(
    artifact: Artifact,
    runtime: OrtRuntime,
    options: "onnxruntime.SessionOptions",
    batch: "NDArray[Any]",
) -> Audit:
    """What a session on the GPU runs, and how many nodes each provider got. Raises as `opened` does."""
    # A captured graph runs its kernels without onnxruntime, whose profile then shows none.
    plain = runtime.model_copy(update={"cuda_graph": False})
    chain = configured(artifact, plain, options)
    return audit_onnx(artifact, options, dict(chain), batch, wanted=CUDA_PROVIDER)


def _sample(artifact: Artifact) -> "NDArray[Any]":
    """A batch of zeros that the graph takes."""
    import numpy as np

    batch, channels, height, width = artifact.info.input_shape
    image = (channels or 3, height or PROBE_SIDE, width or PROBE_SIDE)
    if artifact.info.pixels:
        return np.zeros((batch or 1, image[1], image[2], image[0]), np.uint8)
    return np.zeros((batch or 1, *image), np.float32)


def open_with(
    artifact: Artifact, options: "onnxruntime.SessionOptions", chain: ProviderChain
) -> "onnxruntime.InferenceSession":
    """Raises WorkbenchError."""
    import onnxruntime

    try:
        # Without its fallback: it would open the file once more on the CPU, at opening or at a failed call.
        return onnxruntime.InferenceSession(artifact.read(), options, providers=chain, enable_fallback=False)
    except onnxruntime_errors(RuntimeError, ValueError) as error:
        reason = missing_link(ORT) or str(error).strip()
        raise WorkbenchError(f"onnxruntime cannot open {artifact.path.name}: {reason}") from error
