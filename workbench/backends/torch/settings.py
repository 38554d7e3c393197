"""The `runtime` section for PyTorch."""

from typing import ClassVar, Literal

from pydantic import Field

from workbench.backends.base import CudaSettings
from workbench.system.machine import collect


class TorchRuntime(CudaSettings):
    """PyTorch, operator by operator or compiled ahead of time; it is never promoted."""

    FORKABLE: ClassVar = ("torch",)
    PRECISIONS: ClassVar = {"cpu": ("f32", "bf16"), "cuda": ("f32", "tf32", "bf16", "f16")}

    backend: Literal["torch"] = "torch"
    compile: bool = Field(
        False,
        description="The network is compiled ahead of time by inductor, weights frozen, while the artifact "
        "is built.",
    )

    def decides(self) -> tuple[str, ...]:
        if not self.compile:
            return ()
        from workbench.system import nvidia

        made_for = [self.device, self.computes, f"batch {self.batch}", collect().processor]
        return (*made_for, f"{self.intra_threads} threads" if self.device == "cpu" else str(nvidia.gpu()))
