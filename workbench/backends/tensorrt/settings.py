"""The `runtime` section for TensorRT."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from workbench.backends.base import CudaSettings


class TensorrtRuntime(CudaSettings):
    """TensorRT on NVIDIA GPUs, by an engine that is built on the machine that runs it."""

    DEVICES: ClassVar = ("cuda",)
    PRECISIONS: ClassVar = {"cuda": ("f32", "tf32")}
    FP16_IN_GRAPH: ClassVar = True

    backend: Literal["tensorrt"] = "tensorrt"
    max_batch: PositiveInt | None = Field(
        None,
        description="Photos that the engine takes in one call, where the graph's batch is free; 64 by "
        "default.",
    )

    @property
    def largest_batch(self) -> int | None:
        return self.max_batch

    @model_validator(mode="after")
    def _batch_fits(self) -> "TensorrtRuntime":
        if self.max_batch is not None and self.max_batch < self.batch:
            raise ValueError(f"`max_batch` {self.max_batch} is less than `batch` {self.batch}")
        return self
