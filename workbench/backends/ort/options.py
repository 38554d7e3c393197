"""What onnxruntime's CUDA provider is told, from the recipe's `runtime`."""

from workbench.backends.artifact import Artifact
from workbench.backends.ort.settings import OrtRuntime

ProviderOptions = dict[str, str]

MAX_BATCH = 64  # photos, where the graph's batch is free and CUDA graphs are captured


def cuda_options(artifact: Artifact, runtime: OrtRuntime) -> ProviderOptions:
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


def sizes(artifact: Artifact, runtime: OrtRuntime) -> tuple[int, ...]:
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
