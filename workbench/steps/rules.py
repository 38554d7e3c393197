"""Which steps make no sense for a backend or an opset, said when the recipe is read and not on the GPU."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.backends import BackendName
from workbench.backends.artifact import Precision
from workbench.errors import FieldProblem, WorkbenchError
from workbench.steps.int8.settings import HALF_QDQ_OPSET, StaticInt8

if TYPE_CHECKING:
    from workbench.steps import Step


def check_fit(steps: "Sequence[Step]", backend: BackendName, opset: int | None) -> None:
    """opset: that the recipe exports, None where it leaves that open.

    Raises FieldProblem at the first step whose result the backend does not take, or that needs a newer
    opset.
    """
    uses = [step.use for step in steps]
    if backend == "torch" and uses:
        raise FieldProblem(
            f"step `{uses[0]}` changes an ONNX file, and backend `torch` runs torch's own",
            hint="leave the steps out, or choose another `runtime.backend`",
            at=("steps", 0),
        )
    if backend == "openvino" and "nncf_int8" in uses[:-1]:
        raise FieldProblem(
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
        raise FieldProblem(
            f"step `{step.use}` writes operators that TensorRT does not have",
            hint="leave it out, or choose `onnxruntime` as `runtime.backend`",
            at=("steps", position),
        )
    if not isinstance(step, StaticInt8) or step.placement == "tensorrt":
        return
    if step.activation == "uint8":
        raise FieldProblem(
            "step `static_int8` writes uint8 activations, which TensorRT does not take",
            hint="set `placement: tensorrt`",
            at=("steps", position),
        )


def _new_enough(step: "Step", opset: int, position: int) -> None:
    if isinstance(step, StaticInt8) and step.rest == "fp16" and opset < HALF_QDQ_OPSET:
        raise FieldProblem(
            f"`rest: fp16` needs opset {HALF_QDQ_OPSET}, the first whose pairs take FP16, not {opset}",
            hint=f"set `export.opset: {HALF_QDQ_OPSET}`",
            at=("steps", position),
        )


NEEDS_FLOAT = frozenset({"dynamic_int8", "static_int8", "nncf_int8", "fp16"})
HALVES = frozenset({"fp16", "static_int8"})  # what they do not quantise may become FP16
EXACT = frozenset({"simplify", "fold_preprocess", "optimize", "fixed_batch", "dynamic_batch"})
BATCH = frozenset({"fixed_batch", "dynamic_batch"})
LAST = frozenset({"fold_preprocess", "optimize"})
# After a step in LAST the graph has another input, or operators of one runtime only.
AFTER = {
    "fold_preprocess": frozenset({"static_int8", "nncf_int8", "optimize", *BATCH}),
    "optimize": frozenset[str](),
}


def check_sequence(uses: Sequence[str]) -> None:
    """Raise WorkbenchError where a recipe's steps make no sense in this order, whatever the model."""
    for position, use in enumerate(uses):
        before = uses[:position]
        if use in before and use != "simplify":
            raise WorkbenchError(
                f"step `{use}` is there twice: the second would have nothing to do",
                hint="leave one of them out",
            )
        if use in BATCH and BATCH & set(before):
            raise WorkbenchError(f"step `{use}` undoes `{before[-1]}`", hint="keep one of the two")
        if use in NEEDS_FLOAT and (changed := [name for name in before if name in NEEDS_FLOAT]):
            raise WorkbenchError(
                f"step `{use}` comes after `{changed[0]}`, which leaves no float network to work on",
                hint="keep one of the steps that change the precision",
            )
        for earlier in before:
            if earlier in LAST and use not in AFTER[earlier]:
                allowed = " or ".join(f"`{name}`" for name in sorted(AFTER[earlier]))
                follow = f"only {allowed} may follow" if allowed else "nothing may follow"
                raise WorkbenchError(
                    f"step `{use}` comes after `{earlier}`, which {follow}",
                    hint=f"move `{use}` before `{earlier}`",
                )


def check_order(step: str, before: Precision) -> None:
    """Raise WorkbenchError where `step` makes no sense on a model of this precision."""
    if step not in NEEDS_FLOAT or before == "fp32":
        return
    reasons = {
        "int8": "its input is quantised already, and quantising twice loses accuracy for nothing",
        "fp16": "its input is fp16 already; ranges and scales are found in fp32",
        "bf16": "its input is bf16 already; ranges and scales are found in fp32",
        "unknown": "its input is not fp32",
    }
    raise WorkbenchError(
        f"step `{step}`: {reasons[before]}", hint="keep one of the steps that change the precision"
    )
