"""Which steps make no sense together, for a backend or for an opset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.backends import RuntimeSettings, backend_of, takes_onnx
from workbench.backends.base import OPERATORS
from workbench.errors import FieldProblem, WorkbenchError
from workbench.steps.base import BaseStep

if TYPE_CHECKING:
    from workbench.backends.artifact import Precision


def check_fit(steps: Sequence[BaseStep], runtime: RuntimeSettings, opset: int | None) -> None:
    """opset: that the recipe exports, None where it leaves that open.

    Raises FieldProblem at the first step whose result the backend does not take, or that needs a newer opset.
    """
    backend = backend_of(runtime)
    name = backend.NAME
    if steps and not takes_onnx(runtime):
        raise FieldProblem(
            f"step `{steps[0].use}` changes an ONNX file, and backend `{name}` runs {name}'s own",
            hint="leave the steps out, or choose another `runtime.backend`",
            at=("steps", 0),
        )
    for position, step in enumerate(steps):
        if (operators := step.operators()) not in backend.OPERATORS:
            raise FieldProblem(
                f"step `{step.use}` writes {OPERATORS[operators]}, which `{name}` does not take",
                hint=f"set `{step.PORTABLE}`"
                if step.PORTABLE
                else "leave it out, or choose `onnxruntime` as `runtime.backend`",
                at=("steps", position),
            )
        if step.NATIVE & backend.FORMATS and position < len(steps) - 1:
            raise FieldProblem(
                f"step `{steps[-1].use}` comes after `{step.use}`, whose result on {name} is no ONNX file",
                hint=f"move `{step.use}` to the end",
                at=("steps", len(steps) - 1),
            )
        if opset is not None and (need := step.opset_need()) is not None and opset < need.opset:
            raise FieldProblem(
                f"{need.what} needs opset {need.opset}, {need.why}, not {opset}",
                hint=f"set `export.opset: {need.opset}`",
                at=("steps", position),
            )


def check_sequence(steps: Sequence[BaseStep]) -> None:
    """Raise WorkbenchError where a recipe's steps make no sense in this order, whatever the model."""
    for position, step in enumerate(steps):
        before = steps[:position]
        if not step.REPEATS and any(step.use == earlier.use for earlier in before):
            raise WorkbenchError(
                f"step `{step.use}` is there twice: the second would have nothing to do",
                hint="leave one of them out",
            )
        if step.RESIZES and (resized := [earlier.use for earlier in before if earlier.RESIZES]):
            raise WorkbenchError(f"step `{step.use}` undoes `{resized[0]}`", hint="keep one of the two")
        changed = [earlier.use for earlier in before if earlier.FAMILY != "tidying"]
        if step.FAMILY != "tidying" and changed:
            raise WorkbenchError(
                f"step `{step.use}` comes after `{changed[0]}`, which leaves no float network to work on",
                hint="keep one of the steps that change the precision",
            )
        for earlier in before:
            if earlier.LAST or (earlier.GIVES_PIXELS and not step.TAKES_PIXELS):
                because = "which nothing may follow" if earlier.LAST else "whose graph takes pixels"
                raise WorkbenchError(
                    f"step `{step.use}` comes after `{earlier.use}`, {because}",
                    hint=f"move `{step.use}` before `{earlier.use}`",
                )


def check_order(step: BaseStep, before: "Precision") -> None:
    """Raise WorkbenchError where `step` makes no sense on a model of this precision."""
    if step.FAMILY == "tidying" or before == "fp32":
        return
    reasons = {
        "int8": "its input is quantised already, and quantising twice loses accuracy for nothing",
        "fp16": "its input is fp16 already; ranges and scales are found in fp32",
        "bf16": "its input is bf16 already; ranges and scales are found in fp32",
        "unknown": "its input is not fp32",
    }
    raise WorkbenchError(
        f"step `{step.use}`: {reasons[before]}", hint="keep one of the steps that change the precision"
    )
