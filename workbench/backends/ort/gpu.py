"""onnxruntime on an NVIDIA GPU, by its CUDA provider."""

from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit
from workbench.backends.common import onnxruntime_errors, refuse_override
from workbench.backends.ort.audit import audit_onnx
from workbench.backends.ort.io_binding import Bound
from workbench.backends.ort.providers import RECORD, assigned, refuse_idle, refuse_other
from workbench.backends.ort.settings import OrtRuntime
from workbench.errors import WorkbenchError
from workbench.system.nvidia_check import ORT, missing_link
from workbench.system.nvidia_libraries import CUDA_PROVIDER, preload

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

    ProviderOptions = dict[str, str]


HOW = "wall clock, buffers on the GPU"
MAX_BATCH = 64  # photos, where the graph's batch is free and CUDA graphs are captured


def open_session(
    artifact: Artifact, runtime: OrtRuntime, options: "onnxruntime.SessionOptions"
) -> "onnxruntime.InferenceSession":
    """The file, opened on the GPU.

    options: changed, so that the session records which provider got which node. Raises WorkbenchError where
    it cannot be opened, or the CUDA provider took nothing of it.
    """
    import onnxruntime

    providers = list(_providers(artifact, runtime).items())
    options.add_session_config_entry(RECORD, "1")
    try:
        # Without its fallback: it would open the file once more on the CPU, at opening or at a failed call.
        session = onnxruntime.InferenceSession(
            artifact.read(), options, providers=providers, enable_fallback=False
        )
    except onnxruntime_errors(RuntimeError, ValueError) as error:
        reason = missing_link(ORT) or str(error).strip()
        raise WorkbenchError(f"onnxruntime cannot open {artifact.path.name}: {reason}") from error
    refuse_other(session.get_providers()[0], CUDA_PROVIDER, lambda: missing_link(ORT))
    refuse_idle(assigned(session), CUDA_PROVIDER)
    return session


def bound(
    session: "onnxruntime.InferenceSession", artifact: Artifact, runtime: OrtRuntime, *, device: str = "cuda"
) -> Bound:
    """How an opened file is called. device: as onnxruntime names it; `cpu` for tests without a GPU."""
    sizes = graph_sizes(artifact, runtime)
    return Bound(session, artifact.info.classes, sizes, device=device, graphs=runtime.cuda_graph)


def audit(
    artifact: Artifact,
    runtime: OrtRuntime,
    options: "onnxruntime.SessionOptions",
    batch: "NDArray[Any]",
) -> Audit:
    """What a session on the GPU runs, and how many nodes each provider got. Raises as `open_session` does."""
    # A captured graph runs its kernels without onnxruntime, whose profile then shows none.
    providers = _providers(artifact, runtime.model_copy(update={"cuda_graph": False}))
    return audit_onnx(artifact, options, providers, batch, wanted=CUDA_PROVIDER)


def _providers(artifact: Artifact, runtime: OrtRuntime) -> "dict[str, ProviderOptions]":
    """In order of preference. Raises WorkbenchError where the environment switches TF32 otherwise."""
    refuse_override(runtime.precision == "tf32")
    preload()
    return {CUDA_PROVIDER: cuda_options(artifact, runtime), "CPUExecutionProvider": {}}


def cuda_options(artifact: Artifact, runtime: OrtRuntime) -> "ProviderOptions":
    """Options of the CUDA provider.

    EXHAUSTIVE times every convolution algorithm at the first call of each shape: paid once where shapes are
    few. Where the batch is free it would stall the server whenever a new size comes up, so there cuDNN's
    heuristic chooses. kSameAsRequested: the arena takes what is asked for, where the default doubles it each
    time and so holds up to half of the GPU for nothing.
    """
    few = artifact.info.input_shape[0] > 0 or runtime.cuda_graph
    return {
        "device_id": "0",
        "use_tf32": "1" if runtime.precision == "tf32" else "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE" if few else "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if runtime.cuda_graph else "0",
    }


def graph_sizes(artifact: Artifact, runtime: OrtRuntime) -> tuple[int, ...]:
    """The batch sizes that a session is called with; others are filled up to the next. Empty: any.

    A CUDA graph is captured for each, and keeps its buffers: powers of two keep them few.
    """
    if fixed := artifact.info.input_shape[0]:
        return (fixed,)
    if not runtime.cuda_graph:
        return ()
    most = max(MAX_BATCH, runtime.batch)
    powers = {2**i for i in range(most.bit_length()) if 2**i <= most}
    return tuple(sorted(powers | {runtime.batch, most}))
