"""What onnxruntime's GPU providers are told: one function per provider, from the recipe's `runtime`."""

from workbench.backends.artifact import Artifact
from workbench.backends.ort.availability import CUDA, RTX, TENSORRT
from workbench.backends.ort.settings import OrtRuntime

Options = dict[str, str]

ENGINES = frozenset({TENSORRT, RTX})  # the providers that build one
MAX_BATCH = 64  # photos, where the graph's batch is free: engines are built for a range
# The run option by which a provider tells captured graphs apart. TensorRT's does not (see `ort_gpu.opened`).
GRAPH_KEY = {CUDA: "gpu_graph_id", TENSORRT: "gpu_graph_id", RTX: "cuda_graph_annotation_id"}


def cuda_options(artifact: Artifact, runtime: OrtRuntime) -> Options:
    """Of the CUDA provider.

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


def tensorrt_options(
    artifact: Artifact, runtime: OrtRuntime, name: str, folder: str | None, timings: str | None
) -> Options:
    """Of the TensorRT provider. name: of the graph's input. folder, timings: where it keeps those.

    Neither `trt_fp16_enable` nor `trt_int8_enable`: without them the network is strongly typed, and TensorRT
    computes in what the graph says (onnxruntime pull request 18707). `True` and `False` in so many words:
    onnxruntime's Python side refuses `1` and `0` for this provider, and for this one alone.
    """
    options = {
        "device_id": "0",
        "trt_engine_cache_enable": str(folder is not None),
        "trt_timing_cache_enable": str(timings is not None),
        "trt_cuda_graph_enable": str(runtime.cuda_graph),
        **profiles(artifact, runtime, name, "trt_profile_{}_shapes"),
    }
    if folder:
        options["trt_engine_cache_path"] = folder
    if timings:
        options["trt_timing_cache_path"] = timings
    return options


def rtx_options(artifact: Artifact, runtime: OrtRuntime, name: str, folder: str | None) -> Options:
    """Of the TensorRT-RTX plug-in 0.5, which is strongly typed always."""
    return {
        "enable_cuda_graph": "1" if runtime.cuda_graph else "0",
        **({"nv_runtime_cache_path": folder} if folder else {}),
        **profiles(artifact, runtime, name, "nv_profile_{}_shapes"),
    }


def profiles(artifact: Artifact, runtime: OrtRuntime, name: str, option: str) -> Options:
    """The batch sizes an engine is built for, where the graph leaves them free.

    Empty for fixed shapes, and for a free height or width: then the provider builds for the sizes it meets.
    """
    batch, channels, height, width = artifact.info.input_shape
    if batch or not (channels and height and width):
        return {}
    image = (height, width, channels) if artifact.info.pixels else (channels, height, width)
    counts = {"min": 1, "opt": runtime.batch, "max": largest(runtime)}
    return {
        option.format(which): f"{name}:{'x'.join(map(str, (count, *image)))}"
        for which, count in counts.items()
    }


def largest(runtime: OrtRuntime) -> int:
    return max(MAX_BATCH, runtime.batch)


def sizes(artifact: Artifact, runtime: OrtRuntime, provider: str) -> tuple[int, ...]:
    """The batch sizes that a session is called with; others are filled up to the next. Empty: any.

    A CUDA graph is captured for each, and keeps its buffers: powers of two keep them few.
    """
    if fixed := artifact.info.input_shape[0]:
        return (fixed,)
    most = largest(runtime)
    if runtime.cuda_graph:
        powers = {2**i for i in range(most.bit_length()) if 2**i <= most}
        return tuple(sorted(powers | {runtime.batch, most}))
    return tuple(range(1, most + 1)) if provider in ENGINES else ()
