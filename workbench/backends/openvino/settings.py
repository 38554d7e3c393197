"""The `runtime` section for OpenVINO."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from workbench.backends.base import RuntimeSettings


class OpenvinoRuntime(RuntimeSettings):
    """OpenVINO on the CPU."""

    PRECISIONS: ClassVar = {"cpu": ("f32", "bf16", "f16")}
    DISTRIBUTION: ClassVar = "openvino"
    ALONGSIDE: ClassVar = ("ml-dtypes", "onnx", "protobuf")  # the conversion reads ONNX

    backend: Literal["openvino"] = "openvino"
    streams: PositiveInt | None = Field(
        None, description="Calls that are worked on at once; by default as many as there are sessions."
    )
