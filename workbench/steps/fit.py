"""Which steps make no sense for a backend or an opset, said when the recipe is read and not on the GPU."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.backends import BackendName
from workbench.steps.int8 import HALF_QDQ_OPSET, StaticInt8
from workbench.steps.modelopt_int8 import ModeloptInt8
from workbench.yamlfile import Problem

if TYPE_CHECKING:
    from workbench.steps import Step


def check_fit(steps: "Sequence[Step]", backend: BackendName, opset: int | None) -> None:
    """opset: that the recipe exports, None where it leaves that open.

    Raises yamlfile.Problem at the first step whose result the backend does not take, or that needs a newer
    opset.
    """
    uses = [step.use for step in steps]
    if backend == "torch" and uses:
        raise Problem(
            f"step `{uses[0]}` changes an ONNX file, and backend `torch` runs torch's own",
            hint="leave the steps out, or choose another `runtime.backend`",
            at=("steps", 0),
        )
    if backend == "openvino" and "nncf_int8" in uses[:-1]:
        raise Problem(
            f"step `{uses[-1]}` comes after `nncf_int8`, whose result on openvino is no ONNX file",
            hint="move `nncf_int8` to the end",
            at=("steps", len(uses) - 1),
        )
    for position, step in enumerate(steps):
        if backend == "tensorrt":
            _takes(step, position)
        if opset is not None:
            _new_enough(step, opset, position)


def _takes(step: "Step", position: int) -> None:
    if step.use in ("dynamic_int8", "optimize"):
        raise Problem(
            f"step `{step.use}` writes operators that TensorRT does not have",
            hint="leave it out, or choose `onnxruntime` as `runtime.backend`",
            at=("steps", position),
        )
    if not isinstance(step, StaticInt8) or step.placement == "tensorrt":
        return
    if step.format == "qoperator" or step.activation == "uint8":
        what = "onnxruntime's own operators" if step.format == "qoperator" else "uint8 activations"
        raise Problem(
            f"step `static_int8` writes {what}, which TensorRT does not take",
            hint="set `placement: tensorrt`",
            at=("steps", position),
        )


def _new_enough(step: "Step", opset: int, position: int) -> None:
    if isinstance(step, ModeloptInt8):
        what = "step `modelopt_int8`"
    elif isinstance(step, StaticInt8) and step.rest == "fp16":
        what = "`rest: fp16`"
    else:
        return
    if opset < HALF_QDQ_OPSET:
        raise Problem(
            f"{what} needs opset {HALF_QDQ_OPSET}, the first whose pairs take FP16, not {opset}",
            hint=f"set `export.opset: {HALF_QDQ_OPSET}`",
            at=("steps", position),
        )
