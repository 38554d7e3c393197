"""The `runtime` section for onnxruntime."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from workbench.backends.base import CudaSettings

Provider = Literal["cpu", "cuda", "openvino"]


class OrtRuntime(CudaSettings):
    """ONNX Runtime, on the CPU or with its CUDA provider."""

    PRECISIONS: ClassVar = {"cpu": ("f32",), "cuda": ("f32", "tf32")}
    FP16_IN_GRAPH: ClassVar = True
    DISTRIBUTION: ClassVar = "onnxruntime"
    FORKABLE: ClassVar = ("onnxruntime",)
    ALONGSIDE: ClassVar = ("ml-dtypes", "onnx", "protobuf")  # its audit reads the file
    REMOVED_VALUES: ClassVar = {
        "provider": ("tensorrt", "tensorrt-rtx"),
        "graph_level": ("extended", "layout"),
    }

    backend: Literal["onnxruntime"] = "onnxruntime"
    provider: Provider | None = Field(
        None,
        description="Execution provider: `cpu`, `cuda`, or `openvino` where the build has it; the device's "
        "own by default.",
    )
    graph_level: Literal["disable", "basic", "all"] = Field(
        "all", description="How far the graph is rewritten when it is opened: `disable`, `basic` or `all`."
    )
    spinning: bool | None = Field(
        None, description="Threads spin while they wait; by default those of the profile `latency` do."
    )

    @model_validator(mode="after")
    def _provider_fits(self) -> "OrtRuntime":
        if self.provider is not None and (self.provider == "cuda") != (self.device == "cuda"):
            raise ValueError(f"provider `{self.provider}` does not run on device `{self.device}`")
        if self.version is not None and self.provider == "openvino":
            raise ValueError("`version` is for onnxruntime's own provider, and `backend: openvino` has one")
        return self
