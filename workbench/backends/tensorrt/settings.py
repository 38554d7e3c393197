"""The `runtime` section for TensorRT."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from workbench.backends.base import CudaSettings, Device


class TensorrtRuntime(CudaSettings):
    """TensorRT, on NVIDIA GPUs."""

    DEVICES: ClassVar = ("cuda",)
    PRECISIONS: ClassVar = {"cuda": ("f32", "tf32")}
    FP16_IN_GRAPH: ClassVar = True

    backend: Literal["tensorrt"] = "tensorrt"
    device: Annotated[Device, Field(description="`cuda`, which has to be said.", validate_default=True)] = (
        "cpu"
    )
    max_batch: Annotated[
        PositiveInt | None,
        Field(description="Photos the engine takes at most, where the graph's batch is free; 64 by default."),
    ] = None

    @property
    def largest_batch(self) -> int | None:
        return self.max_batch

    @model_validator(mode="after")
    def _batch_fits(self) -> "TensorrtRuntime":
        if self.max_batch is not None and self.max_batch < self.batch:
            raise ValueError(f"`max_batch` {self.max_batch} is less than `batch` {self.batch}")
        return self
