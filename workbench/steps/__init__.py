"""The steps a recipe may list. The union is the registry, the schema and the documentation."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

from pydantic import Field

from workbench.errors import WorkbenchError
from workbench.model.graph.onnx_file import load, precision_of
from workbench.photos.contract import Batch, Preprocess
from workbench.steps.batch import DynamicBatch, FixedBatch, dynamic_batch, fixed_batch
from workbench.steps.fold import FoldPreprocess, fold_preprocess
from workbench.steps.fp16.convert import fp16
from workbench.steps.fp16.notes import notes_of
from workbench.steps.fp16.settings import Fp16
from workbench.steps.int8.dynamic import dynamic_int8
from workbench.steps.int8.settings import DynamicInt8, StaticInt8
from workbench.steps.int8.static import static_int8
from workbench.steps.nncf.quantize import nncf_onnx
from workbench.steps.nncf.settings import NncfInt8
from workbench.steps.optimize import Optimize, optimize
from workbench.steps.rules import check_order, check_sequence
from workbench.steps.simplify import Simplify, simplify
from workbench.steps.verify import check

if TYPE_CHECKING:
    from workbench.photos.dataset import Images

Step = Annotated[
    Simplify
    | DynamicInt8
    | StaticInt8
    | NncfInt8
    | Fp16
    | FoldPreprocess
    | Optimize
    | FixedBatch
    | DynamicBatch,
    Field(discriminator="use"),
]
# What looks at calibration photos; `fp16` at a few others where there are none.
RANGED = frozenset({"static_int8", "nncf_int8", "fp16"})

# The distributions whose versions decide what a step produces: part of its cache key.
PACKAGES: dict[str, tuple[str, ...]] = {
    "simplify": ("onnx", "onnxslim", "onnxsim"),
    "dynamic_int8": ("onnx", "onnxruntime", "onnxruntime-gpu"),
    "static_int8": ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy"),
    "nncf_int8": ("onnx", "nncf", "openvino", "numpy"),
    "fp16": ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy"),
    "fold_preprocess": ("onnx",),
    "optimize": ("onnx", "onnxruntime", "onnxruntime-gpu"),
    "fixed_batch": ("onnx",),
    "dynamic_batch": ("onnx",),
}


__all__ = [
    "PACKAGES",
    "RANGED",
    "Photos",
    "Step",
    "apply",
    "calibration_of",
    "check_order",
    "check_sequence",
    "note_of",
]


@dataclass(frozen=True, slots=True)
class Photos:
    """What steps and their checks may look at.

    calibration: for the steps in RANGED. validation, choosing: photos, and the rows of those that choose, for
    nncf's accuracy control. samples: a few as the source takes them (see `preprocess.batch_of`); noise by
    default.
    """

    contract: Preprocess
    calibration: "Images | None" = None
    validation: "Images | None" = None
    samples: "Batch | None" = None
    choosing: tuple[int, ...] | None = None


def apply(step: Step, source: Path, target: Path, photos: Photos) -> None:
    """Transform the ONNX file `source` into `target`, and check the result (see `check`).

    Raises WorkbenchError, and leaves no `target`, where the step does not fit the model.
    """
    check_order(step.use, precision_of(load(source)))
    _transform(step, source, target, photos)
    check(step.use, source, target, photos.samples, photos.contract)


def _transform(step: Step, source: Path, target: Path, photos: Photos) -> None:
    match step:
        case Simplify():
            simplify(step, source, target)
        case DynamicInt8():
            dynamic_int8(step, source, target)
        case StaticInt8():
            static_int8(step, source, target, calibration_of(step, photos))
        case NncfInt8():
            calibration = calibration_of(step, photos)
            nncf_onnx(step, source, target, calibration, photos.validation, photos.choosing)
        case Fp16():
            fp16(step, source, target, photos.calibration, photos.samples)
        case FoldPreprocess():
            fold_preprocess(source, target, photos.contract)
        case Optimize():
            optimize(step, source, target)
        case FixedBatch():
            fixed_batch(step, source, target)
        case DynamicBatch():
            dynamic_batch(source, target)
        case _:
            assert_never(step)


def note_of(step: Step, result: Path) -> str | None:
    """What a step says of its work, for those who read the results."""
    if not isinstance(step, Fp16 | StaticInt8):
        return None
    notes = notes_of(result)
    return notes.text() if notes else None


def calibration_of(step: StaticInt8 | NncfInt8, photos: Photos) -> "Images":
    """Raises WorkbenchError where the workspace names none."""
    if photos.calibration is None:
        raise WorkbenchError(
            f"{step.use} needs photos to calibrate on",
            hint="name a folder of them as `data.calibration` in krishi.yaml",
        )
    return photos.calibration
