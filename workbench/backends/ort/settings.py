"""The `runtime` section for onnxruntime."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from workbench.backends.base import CudaSettings

Provider = Literal["cpu", "cuda", "openvino"]


class OrtRuntime(CudaSettings):
    """ONNX Runtime, on the CPU or by its CUDA provider."""

    PRECISIONS: ClassVar = {"cpu": ("f32",), "cuda": ("f32", "tf32")}
    FP16_IN_GRAPH: ClassVar = True

    backend: Literal["onnxruntime"] = "onnxruntime"
    provider: Annotated[
        Provider | None, Field(description="Execution provider; the device's own by default.")
    ] = None
    graph_level: Annotated[
        Literal["disable", "basic", "all"],
        Field(description="How far the graph is rewritten when it is opened."),
    ] = "all"
    spinning: Annotated[
        bool | None,
        Field(description="Threads spin while they wait; by default those of the profile `latency` do."),
    ] = None

    @model_validator(mode="after")
    def _provider_fits(self) -> "OrtRuntime":
        if self.provider is not None and (self.provider == "cuda") != (self.device == "cuda"):
            raise ValueError(f"provider `{self.provider}` does not run on device `{self.device}`")
        return self
