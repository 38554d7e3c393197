"""ONNX Runtime: on the CPU by itself or OpenVINO, on NVIDIA GPUs by CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact, Format
from workbench.backends.audit import Audit
from workbench.backends.base import ANY_OPERATORS, OnDevice, Operators, Session
from workbench.backends.common import filled, for_any_batch, refuse_foreign
from workbench.backends.ort.audit import audit_onnx, open_session
from workbench.backends.ort.settings import OrtRuntime, Provider
from workbench.errors import WorkbenchError, plural
from workbench.photos.contract import Batch
from workbench.system import nvidia_check
from workbench.system.nvidia_check import CUDA_PROVIDER
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray


NAME = "onnxruntime"
PACKAGES: tuple[str, ...] = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino",
    "nvidia-cudnn-cu13", "nvidia-cudnn-cu12",
)  # fmt: skip
FORMATS: frozenset[Format] = frozenset({"onnx"})
OPERATORS: frozenset[Operators] = ANY_OPERATORS
convert = prepare = None

PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": CUDA_PROVIDER,
    "openvino": "OpenVINOExecutionProvider",
}
# The packages that bring a provider carry their own onnxruntime and cannot live beside another one.
INSTALL = {
    "CPUExecutionProvider": "install 'krishi-bench[cpu]'",
    "OpenVINOExecutionProvider": "install onnxruntime-openvino in an environment without onnxruntime, "
    "or use `backend: openvino`, which needs neither",
}
GRAPH_LEVELS = {"disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}


def _provider(runtime: OrtRuntime) -> str:
    return PROVIDERS[runtime.provider or runtime.device]


def unavailable(runtime: OrtRuntime) -> str | None:
    if runtime.device == "cuda":
        return nvidia_check.missing_link(nvidia_check.ORT)
    if (missing := missing_package("onnxruntime")) is not None:
        return missing
    import onnxruntime

    wanted, here = _provider(runtime), onnxruntime.get_available_providers()
    if wanted not in here:
        return f"this onnxruntime has no {wanted} (it has {', '.join(here)}): {INSTALL[wanted]}"
    return None


def options_of(runtime: OrtRuntime) -> "onnxruntime.SessionOptions":
    """Fresh session options with all of `runtime` but the provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = runtime.intra_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, GRAPH_LEVELS[runtime.graph_level]
    )
    # Threads that spin between calls take processors from other models on this machine.
    spins = runtime.profile == "latency" if runtime.spinning is None else runtime.spinning
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(key, "1" if spins else "0")
    return options


def provider_options(runtime: OrtRuntime) -> dict[str, str]:
    """Options of the OpenVINO provider, which does not use onnxruntime's threads.

    FP32 is set because its default is bf16 where the processor has it.
    """
    if runtime.provider != "openvino":
        return {}
    return {
        "device_type": "CPU",
        "precision": "FP32",
        "num_of_threads": str(runtime.intra_threads),
        "num_streams": "1",
    }


def audit(artifact: Artifact, runtime: OrtRuntime, sample: "NDArray[Any]") -> Audit:
    refuse_foreign(artifact)
    batch = filled(sample, artifact.info.input_shape[0])
    # A captured graph runs its kernels without onnxruntime, whose profile then shows none.
    providers = _providers(artifact, runtime.model_copy(update={"cuda_graph": False}))
    return audit_onnx(artifact, options_of(runtime), providers, batch)


def _providers(artifact: Artifact, runtime: OrtRuntime) -> dict[str, dict[str, str]]:
    if runtime.device == "cuda":
        from workbench.backends.ort import gpu  # not where the CPU alone is asked for: it takes time

        return gpu.providers_of(artifact, runtime)
    return {_provider(runtime): provider_options(runtime)}


@contextmanager
def session(artifact: Artifact, runtime: OrtRuntime) -> Iterator[Session]:
    """Open an ONNX file from its verified bytes. A fixed batch is filled up.

    Raises WorkbenchError where the file cannot be opened, is bound to another processor, or where onnxruntime
    silently took another provider, or gave it nothing to do.
    """
    import onnxruntime

    refuse_foreign(artifact)
    opened = open_session(artifact, options_of(runtime), _providers(artifact, runtime))
    inputs, outputs = opened.get_inputs(), opened.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise WorkbenchError(
            f"{artifact.path.name} has {plural(len(inputs), 'input')} and {plural(len(outputs), 'output')}: "
            "a classifier has one of each"
        )
    provider, threads = opened.get_providers()[0], opened.get_session_options().intra_op_num_threads
    version = onnxruntime.__version__
    if runtime.device == "cuda":
        from workbench.backends.ort import gpu

        bound = gpu.bound(opened, artifact, runtime)
        on_device = OnDevice(bound.time, gpu.HOW)
        yield Session(bound.infer, runtime.device, provider, threads, on_device, version=version)
        return
    name, output_names = inputs[0].name, [outputs[0].name]

    def run(batch: Batch) -> "NDArray[np.float32]":
        logits: NDArray[np.float32] = opened.run(output_names, {name: batch})[0]
        return logits

    infer = for_any_batch(run, artifact.info.input_shape[0])
    yield Session(infer, runtime.device, provider, threads, version=version)
