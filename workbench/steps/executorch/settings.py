"""The `executorch` step as a recipe states it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from workbench.backends.base import RuntimeSettings
from workbench.model.graph.roles import Role
from workbench.steps.base import BaseStep
from workbench.system.environments import VirtualEnvironment

Count = Annotated[int, Field(gt=0, strict=True)]


class Executorch(BaseStep):
    """Write the network as an ExecuTorch program for XNNPACK: one photo a call, in float or in INT8.

    It starts from the network in torch, not from an ONNX file, and runs on `backend: executorch` alone.
    """

    PACKAGES: ClassVar = ("torch", "torchao", "executorch")
    FAMILY: ClassVar = "tidying"
    READS: ClassVar = frozenset({"calibration"})
    NATIVE: ClassVar = frozenset({"pte"})
    FROM_TORCH: ClassVar = True
    LAST: ClassVar = True

    use: Literal["executorch"]
    quantize: Literal["none", "static"] = Field(
        "none",
        description="`none`: the weights stay in float. `static`: INT8 weights and activations by torchao's "
        "PT2E quantisation, whose ranges are found on calibration photos.",
    )
    images: Count = Field(200, description="Calibration photos used at most, taken evenly from the classes.")
    per_channel: bool = Field(
        True, description="One scale for each output channel of the weights; `false`: one for all."
    )

    exclude_op_types: tuple[str, ...] = Field(
        (),
        description="Operators that stay in float, by the names of XNNPACK's quantiser: `conv`, `linear`, "
        "`add`, `mul`, `cat`, `adaptive_avg_pool2d` and so on.",
    )
    exclude_roles: tuple[Role, ...] = Field(
        (),
        description="Nodes that stay in float by their part in the network: `first`, `last`, `depthwise`, "
        "`squeeze_excite`, `hardswish` (swish too; as one operator it is never quantised). A part that the "
        "network does not have is fine. On x86 "
        "XNNPACK's depthwise convolutions are slower in INT8 than in float.",
    )

    def environment(self, runtime: RuntimeSettings) -> VirtualEnvironment | None:
        """That of the runtime: programs go with the version that wrote them."""
        return runtime.environment()

    @property
    def keeps_logits(self) -> bool:
        return self.quantize == "none"

    def ignored(self) -> dict[str, str]:
        return dict.fromkeys(self.changed(), "quantize: none") if self.quantize == "none" else {}

    def calibration_photos(self) -> int | None:
        return self.images if self.quantize == "static" else None
