"""ONNX Runtime: CPU, and the CUDA and TensorRT providers where the installed build has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.artifact import Artifact, Format
from workbench.backends.base import Provider, Runtime, Session
from workbench.backends.packages import missing_package
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "onnxruntime"
FORMATS: frozenset[Format] = frozenset({"onnx"})
PACKAGES: tuple[str, ...] = ("onnxruntime", "onnxruntime-gpu")

PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def _provider(runtime: Runtime) -> str:
    return PROVIDERS[runtime.provider or runtime.device]


def unavailable(runtime: Runtime) -> str | None:
    if (missing := missing_package("onnxruntime", extra="ort")) is not None:
        return missing
    import onnxruntime

    wanted = _provider(runtime)
    if wanted in onnxruntime.get_available_providers():
        return None
    return (
        f"this onnxruntime has no {wanted} (it has {', '.join(onnxruntime.get_available_providers())}): on a "
        "machine with an NVIDIA GPU, install 'krishi-bench[gpu]' in an environment without onnxruntime"
    )


@contextmanager
def session(artifact: Artifact, runtime: Runtime) -> Iterator[Session]:
    """Open an ONNX file from its verified bytes.

    Raises WorkbenchError where the file cannot be opened, or where the provider asked for is not the
    first one of the session: onnxruntime falls back to the CPU without an error.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.intra_threads
    options.inter_op_num_threads = 1
    # Threads that spin between calls take processors from whoever else is served on this machine.
    spin = "1" if runtime.profile == "latency" else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
    options.log_severity_level = 3
    wanted = _provider(runtime)
    try:
        opened = onnxruntime.InferenceSession(artifact.read(), options, providers=[wanted])
    except (
        native.Fail,
        native.InvalidGraph,
        native.InvalidProtobuf,
        native.InvalidArgument,
        native.NotImplemented,
        native.RuntimeException,
    ) as error:
        raise WorkbenchError(f"onnxruntime cannot open {artifact.path.name}: {error}") from error
    if opened.get_providers()[0] != wanted:
        raise WorkbenchError(
            f"asked for {wanted}, onnxruntime took {opened.get_providers()[0]}",
            hint="the provider's libraries did not load; the log of this trial names the missing one",
        )
    inputs, outputs = opened.get_inputs(), opened.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise WorkbenchError(
            f"{artifact.path.name} has {len(inputs)} inputs and {len(outputs)} outputs: "
            "a classifier has one of each"
        )
    name, output_names = inputs[0].name, [outputs[0].name]

    def infer(batch: "NDArray[np.float32]") -> "NDArray[np.float32]":
        logits: NDArray[np.float32] = opened.run(output_names, {name: batch})[0]
        return logits

    yield Session(
        infer,
        device="cpu" if wanted == PROVIDERS["cpu"] else "cuda",
        provider=wanted,
        threads=opened.get_session_options().intra_op_num_threads,
    )
