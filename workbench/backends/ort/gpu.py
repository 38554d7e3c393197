"""onnxruntime on an NVIDIA GPU: its CUDA and TensorRT providers, and the TensorRT-RTX plug-in."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit
from workbench.backends.base import Engine
from workbench.backends.common import PROBE_SIDE, TF32, onnxruntime_errors, refuse_override, switched
from workbench.backends.gpu import engine_store
from workbench.backends.ort import engine_cache
from workbench.backends.ort.audit import audit_onnx, providers_in_profile
from workbench.backends.ort.availability import CUDA, RTX, TENSORRT, missing_libraries, preload, rtx_devices
from workbench.backends.ort.io_binding import Bound
from workbench.backends.ort.options import (
    ENGINES,
    GRAPH_KEY,
    Options,
    cuda_options,
    rtx_options,
    sizes,
    tensorrt_options,
)
from workbench.backends.ort.providers import RECORD, assigned, refuse_idle, refuse_other
from workbench.backends.ort.settings import OrtRuntime
from workbench.errors import WorkbenchError
from workbench.system.packages import versions

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray


Chain = list[tuple[str, Options]]

CPU = "CPUExecutionProvider"
HOW = "wall clock, buffers on the GPU"
_tf32_was: list[bool] = []  # what the first engine of this process was opened with


def settle_tf32(runtime: OrtRuntime, provider: str) -> None:
    """See to it that FP32 is FP32, or TF32 where that was asked for.

    TensorRT's providers have no option for TF32, which it uses unless the variable says 0 (onnxruntime issue
    6427). TensorRT and cuBLAS read it when they start, so it is decided once per process. Raises
    WorkbenchError where it was decided otherwise.
    """
    wanted = runtime.precision == "tf32"
    refuse_override(wanted)
    if provider in ENGINES:
        if _tf32_was and _tf32_was[0] != wanted:
            raise switched(on=_tf32_was[0])
        _tf32_was.append(wanted)
        if not wanted:
            os.environ[TF32] = "0"


def input_name(data: bytes) -> str:
    """Of an ONNX file's one input."""
    import onnx

    graph = onnx.load_from_string(data).graph
    stored = {weight.name for weight in graph.initializer}
    return next((str(value.name) for value in graph.input if value.name not in stored), "")


@contextmanager
def configured(
    artifact: Artifact, runtime: OrtRuntime, provider: str, options: "onnxruntime.SessionOptions"
) -> Iterator[tuple[Chain, engine_cache.Cache | None]]:
    """The providers in order of preference, while a session is opened with them.

    options: changed: the plug-in's devices are chosen there, and then the list is empty. Raises
    WorkbenchError as `settle_tf32` and `rtx_devices` do.
    """
    options.add_session_config_entry(RECORD, "1")
    settle_tf32(runtime, provider)
    preload()
    if provider == CUDA:
        yield [(CUDA, cuda_options(artifact, runtime)), (CPU, {})], None
        return
    binding = engine_store.bound_to(", ".join(f"{name} {version}" for name, version in _built_by(provider)))
    decides = (runtime.precision, runtime.graph_level, runtime.batch, artifact.info.pixels)
    parts = [provider, artifact.digest, *map(str, decides)]
    with engine_cache.opening(parts, binding, noted=provider == TENSORRT) as cache:
        folder = str(cache.place) if cache.place else None
        name = input_name(artifact.read())
        if provider == RTX:
            options.add_provider_for_devices(rtx_devices(), rtx_options(artifact, runtime, name, folder))
            yield [], cache
            return
        timings = str(engine_store.timing_folder(binding)) if folder else None
        # What TensorRT leaves runs on the CUDA provider, so that it stays on the GPU.
        yield (
            [
                (TENSORRT, tensorrt_options(artifact, runtime, name, folder, timings)),
                (CUDA, cuda_options(artifact, runtime.model_copy(update={"cuda_graph": False}))),
                (CPU, {}),
            ],
            cache,
        )


def _built_by(provider: str) -> list[tuple[str, str]]:
    import onnxruntime

    found = [("onnxruntime", onnxruntime.__version__)]
    if provider == RTX:
        return [*found, *versions("onnxruntime-ep-nv-tensorrt-rtx-cu13").items()]
    try:
        number = int(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):  # Opening the session names what is missing.
        return found
    return [*found, ("TensorRT", f"{number // 10000}.{number // 100 % 100}.{number % 100}")]


def opened(
    artifact: Artifact, runtime: OrtRuntime, provider: str, options: "onnxruntime.SessionOptions"
) -> "tuple[onnxruntime.InferenceSession, Engine | None]":
    """The file, opened with `provider`, and what that built for it.

    Raises WorkbenchError where it cannot be opened, or the provider took nothing of it.
    """
    if provider == TENSORRT and runtime.cuda_graph and artifact.info.input_shape[0] == 0:
        # It ignores which graph is asked for: photos in a batch of another size would get old logits.
        raise WorkbenchError(
            "runtime.cuda_graph: onnxruntime's TensorRT provider records one call and repeats it for every "
            "batch size",
            hint="fix the batch with the step `fixed_batch`, or use `backend: tensorrt`, which records each",
        )
    with configured(artifact, runtime, provider, options) as (chain, cache):
        session = open_with(artifact, options, chain, provider)
        refuse_other(session.get_providers()[0], provider, missing_libraries)
        nodes = assigned(session) or providers_in_profile(artifact, options, chain, _sample(artifact))
        refuse_idle(nodes, provider)
    return session, cache.engine() if cache else None


def called(
    opened: "onnxruntime.InferenceSession",
    artifact: Artifact,
    runtime: OrtRuntime,
    provider: str,
    *,
    device: str = "cuda",
) -> Bound:
    """How an opened file is called. device: as onnxruntime names it; `cpu` for tests without a GPU."""
    return Bound(
        opened,
        artifact.info.classes,
        sizes(artifact, runtime, provider),
        device=device,
        graph_key=GRAPH_KEY[provider] if runtime.cuda_graph else None,
    )


def audit(
    artifact: Artifact,
    runtime: OrtRuntime,
    provider: str,
    options: "onnxruntime.SessionOptions",
    batch: "NDArray[Any]",
) -> Audit:
    """What a session with `provider` runs, and how many nodes each provider got. Raises as `opened` does."""
    # A captured graph runs its kernels without onnxruntime, whose profile then shows none.
    plain = runtime.model_copy(update={"cuda_graph": False})
    with configured(artifact, plain, provider, options) as (chain, _):
        return audit_onnx(artifact, options, dict(chain), batch, wanted=provider)


def _sample(artifact: Artifact) -> "NDArray[Any]":
    """A batch of zeros that the graph takes."""
    import numpy as np

    batch, channels, height, width = artifact.info.input_shape
    image = (channels or 3, height or PROBE_SIDE, width or PROBE_SIDE)
    if artifact.info.pixels:
        return np.zeros((batch or 1, image[1], image[2], image[0]), np.uint8)
    return np.zeros((batch or 1, *image), np.float32)


def open_with(
    artifact: Artifact, options: "onnxruntime.SessionOptions", chain: Chain, provider: str
) -> "onnxruntime.InferenceSession":
    """chain: empty where `options` have the providers. Raises WorkbenchError."""
    import onnxruntime

    try:
        # Without its fallback: it would open the file once more on the CPU, at opening or at a failed call.
        return onnxruntime.InferenceSession(
            artifact.read(), options, providers=chain or None, enable_fallback=False
        )
    except onnxruntime_errors(RuntimeError, ValueError) as error:
        reason = missing_libraries(provider) or str(error).strip()
        raise WorkbenchError(f"onnxruntime cannot open {artifact.path.name}: {reason}") from error
