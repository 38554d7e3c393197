"""The steps a recipe may list. The union is the registry, the schema and the documentation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never, get_args

from pydantic import Field

from workbench.errors import WorkbenchError
from workbench.steps.base import BaseStep, Photos, calibration_of
from workbench.steps.batch import DynamicBatch, FixedBatch, resize
from workbench.steps.executorch.settings import Executorch
from workbench.steps.fold import FoldPreprocess, fold_preprocess
from workbench.steps.fp16.settings import Fp16
from workbench.steps.int8.settings import DynamicInt8, StaticInt8
from workbench.steps.litert.settings import Litert
from workbench.steps.nncf.settings import NncfInt8
from workbench.steps.optimize import Optimize, optimize
from workbench.steps.rules import check_order, check_sequence
from workbench.steps.simplify import Simplify, simplify

if TYPE_CHECKING:
    from workbench.backends.artifact import ArtifactInfo

Step = Annotated[
    Simplify
    | DynamicInt8
    | StaticInt8
    | NncfInt8
    | Litert
    | Executorch
    | Fp16
    | FoldPreprocess
    | Optimize
    | FixedBatch
    | DynamicBatch,
    Field(discriminator="use"),
]
STEPS: dict[str, type[BaseStep]] = {
    get_args(step.model_fields["use"].annotation)[0]: step for step in get_args(get_args(Step)[0])
}

__all__ = ["STEPS", "Photos", "Step", "apply", "apply_native", "check_sequence", "transform"]


def apply(step: Step, source: Path, target: Path, photos: Photos) -> None:
    """Transform the ONNX file `source` into `target`, and check the result (see `check`).

    Raises WorkbenchError, and leaves no `target`, where the step does not fit the model.
    """
    from workbench.steps.verify import check

    _check_order_in(step, source)
    transform(step, source, target, photos)
    check(step, source, target, photos.samples, photos.contract)


def transform(step: Step, source: Path, target: Path, photos: Photos) -> None:
    """Transform as `apply` does, without a check."""
    match step:
        case Simplify():
            simplify(step, source, target)
        case DynamicInt8():
            from workbench.steps.int8.ort_quantizer import dynamic_int8

            dynamic_int8(step, source, target)
        case StaticInt8():
            from workbench.steps.int8.static import static_int8

            static_int8(step, source, target, calibration_of(photos, step.use))
        case NncfInt8():
            from workbench.steps.nncf.quantize import nncf_onnx

            nncf_onnx(step, source, target, photos)
        case Litert() | Executorch():
            raise WorkbenchError(f"step `{step.use}` writes no ONNX file, but one for backend `{step.use}`")
        case Fp16():
            from workbench.steps.fp16.convert import fp16

            fp16(step, source, target, photos.calibration, photos.samples)
        case FoldPreprocess():
            fold_preprocess(source, target, photos.contract)
        case Optimize():
            optimize(step, source, target)
        case FixedBatch() | DynamicBatch():
            resize(step, source, target)
        case _:
            assert_never(step)


def apply_native(step: Step, source: Path, folder: Path, photos: Photos) -> "ArtifactInfo":
    """Write the result of a step in its NATIVE format into `folder`. Raises as `apply` does.

    source: an ONNX file, or of steps FROM_TORCH the torch.export program that this process chain wrote.
    """
    match step:
        case Litert():
            from workbench.steps.litert.convert import write_tflite

            return write_tflite(step, source, folder, photos)
        case Executorch():
            from workbench.steps.executorch.convert import write_pte

            return write_pte(step, source, folder, photos)
        case NncfInt8():
            from workbench.steps.nncf.quantize import nncf_ir

            _check_order_in(step, source)
            return nncf_ir(step, source, folder, photos)
        case _:
            raise AssertionError(f"{step.use} writes ONNX alone")


def _check_order_in(step: Step, source: Path) -> None:
    from workbench.model.graph.onnx_file import load, precision_of

    check_order(step, precision_of(load(source)))
