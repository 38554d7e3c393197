"""The steps a recipe may list. The union is the registry, the schema and the documentation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

from pydantic import Field

from workbench.errors import WorkbenchError
from workbench.onnx_info import load, precision_of
from workbench.steps.check import check, check_order
from workbench.steps.fp16 import Fp16, fp16
from workbench.steps.int8 import DynamicInt8, StaticInt8, dynamic_int8, static_int8
from workbench.steps.simplify import Simplify, simplify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.dataset import Images

Step = Annotated[Simplify | DynamicInt8 | StaticInt8 | Fp16, Field(discriminator="use")]

# The distributions whose versions decide what a step produces: part of its cache key.
PACKAGES: dict[str, tuple[str, ...]] = {
    "simplify": ("onnx", "onnxslim", "onnxsim"),
    "dynamic_int8": ("onnx", "onnxruntime", "onnxruntime-gpu"),
    "static_int8": ("onnx", "onnxruntime", "onnxruntime-gpu", "numpy"),
    "fp16": ("onnx", "onnxruntime", "onnxruntime-gpu"),
}


def apply(
    step: Step,
    source: Path,
    target: Path,
    calibration: "Images | None",
    samples: "NDArray[np.float32] | None" = None,
) -> None:
    """Transform the ONNX file `source` into `target`, and check the result (see `check`).

    calibration: photos through the workspace's preprocessing; only `static_int8` reads them.
    samples: (n, C, H, W) preprocessed photos to check the result on; noise by default.
    Raises WorkbenchError, and leaves no `target`, where the step does not fit the model.
    """
    check_order(step.use, precision_of(load(source)))
    _transform(step, source, target, calibration)
    check(step.use, source, target, samples)


def _transform(step: Step, source: Path, target: Path, calibration: "Images | None") -> None:
    match step:
        case Simplify():
            simplify(step, source, target)
        case DynamicInt8():
            dynamic_int8(step, source, target)
        case StaticInt8():
            if calibration is None:
                raise WorkbenchError(
                    "static_int8 needs photos to calibrate on",
                    hint="name a folder of them as `data.calibration` in krishi.yaml",
                )
            static_int8(step, source, target, calibration)
        case Fp16():
            fp16(step, source, target)
        case _:
            assert_never(step)
