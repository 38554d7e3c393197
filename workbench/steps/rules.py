"""Which steps make no sense together, for a backend or for an opset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.backends import Backend, RuntimeSettings, backend_of, takes_onnx, takes_program
from workbench.backends.base import OPERATORS
from workbench.errors import FieldProblem, WorkbenchError
from workbench.steps.base import BaseStep

if TYPE_CHECKING:
    from workbench.backends.artifact import Precision


def check_fit(steps: Sequence[BaseStep], runtime: RuntimeSettings, opset: int | None) -> None:
    """Raise FieldProblem at the first step that the backend does not take, or that needs a newer opset.

    opset: that the recipe exports, None where it leaves that open.
    """
    backend = backend_of(runtime)
    name = backend.NAME
    if takes_program(runtime) and not any(step.NATIVE & backend.FORMATS for step in steps):
        raise FieldProblem(
            f"backend `{name}` runs what step `{name}` writes from the network in torch, and nothing else",
            hint=f"add `{{use: {name}}}` to `steps`, alone",
            at=("steps", 0) if steps else ("runtime", "backend"),
        )
    if steps and not takes_onnx(runtime) and not takes_program(runtime):
        raise FieldProblem(
            f"step `{steps[0].use}` changes an ONNX file, and backend `{name}` runs {name}'s own",
            hint="leave the steps out, or choose another `runtime.backend`",
            at=("steps", 0),
        )
    for position, step in enumerate(steps):
        if takes_program(runtime) != step.FROM_TORCH:
            own = f"`{step.use}` writes a file for `backend: {step.use}`, and no ONNX file"
            foreign = f"`{step.use}` changes an ONNX file, and backend `{name}` takes none"
            raise FieldProblem(
                f"step {own if step.FROM_TORCH else foreign}",
                hint=f"set `runtime.backend: {step.use}`" if step.FROM_TORCH else "leave it out",
                at=("steps", position),
            )
        if not takes_program(runtime):
            _check_onnx_step(steps, position, backend, opset)


def _check_onnx_step(
    steps: Sequence[BaseStep], position: int, backend: Backend[Any], opset: int | None
) -> None:
    """Raise FieldProblem where the backend does not take what this step writes, or a step comes after its own
    format, or the opset is too old."""
    step, name = steps[position], backend.NAME
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
        if not step.REPEATS and step.use in [earlier.use for earlier in before]:
            raise WorkbenchError(
                f"step `{step.use}` is there twice: the second would have nothing to do",
                hint="leave one of them out",
            )
        if step.RESIZES and (resized := [earlier.use for earlier in before if earlier.RESIZES]):
            raise WorkbenchError(f"step `{step.use}` undoes `{resized[0]}`", hint="keep one of the two")
        changed = [earlier.use for earlier in before if not earlier.keeps_logits]
        if changed and not step.keeps_logits:
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
    if step.keeps_logits or before == "fp32":
        return
    reason = f"{before} already; ranges and scales are found in fp32"
    if before == "int8":
        reason = "quantised already, and quantising twice loses accuracy for nothing"
    if before == "unknown":
        reason = "not fp32"
    hint = "keep one of the steps that change the precision"
    raise WorkbenchError(f"step `{step.use}`: its input is {reason}", hint=hint)
