"""The `litert` step as a recipe states it."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from workbench.backends.base import RuntimeSettings
from workbench.model.graph.roles import Role
from workbench.steps.base import BaseStep
from workbench.system.environments import VirtualEnvironment, locked, read_lock
from workbench.system.packages import missing_package

LOCK = Path(__file__).with_name("lock.txt")
Count = Annotated[int, Field(gt=0, strict=True)]


class Litert(BaseStep):
    """Write the network as a LiteRT file: channels last, one photo a call, in float or in INT8.

    It starts from the network in torch, not from an ONNX file, and runs on `backend: litert` alone.
    """

    PACKAGES: ClassVar = ("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert")
    FAMILY: ClassVar = "tidying"
    READS: ClassVar = frozenset({"calibration"})
    NATIVE: ClassVar = frozenset({"tflite"})
    FROM_TORCH: ClassVar = True
    LAST: ClassVar = True

    use: Literal["litert"]
    quantize: Literal["none", "static", "dynamic"] = Field(
        "none",
        description="`none`: the weights stay in float. `static`: INT8 weights, per channel, and "
        "activations, whose ranges are found on calibration photos. `dynamic`: INT8 weights; activations are "
        "quantised in every call, which takes longer than it saves on x86.",
    )
    images: Count = Field(200, description="Calibration photos used at most, taken evenly from the classes.")
    exclude_op_types: tuple[str, ...] = Field(
        (),
        description="LiteRT's operators that stay in float, such as `HARD_SWISH`, which XNNPACK does not run "
        "in INT8: each that stays in INT8 ends a piece of the network that it does run.",
    )
    exclude_nodes: tuple[str, ...] = Field(
        (), description="Nodes that stay in float: regular expressions on the names of their results."
    )
    exclude_roles: tuple[Role, ...] = Field(
        (),
        description="Nodes that stay in float by their part in the network: `first`, `last`, `depthwise`, "
        "`squeeze_excite`, `hardswish` (swish too). A part that the network does not have is fine.",
    )
    float_ends: bool = Field(
        True,
        description="Photos go in and logits come out in float, and the network quantises them itself; "
        "`false`: in INT8, for apps that have pixels at hand.",
    )

    def environment(self, runtime: RuntimeSettings) -> VirtualEnvironment | None:
        """litert-torch pins what is here in other versions; None where it is installed all the same."""
        del runtime  # a file is written in one version, and opened in any
        if missing_package("litert_torch") is None and missing_package("ai_edge_quantizer") is None:
            return None
        return locked("litert-torch", read_lock(LOCK), about_bytes=1_900_000_000)

    @property
    def keeps_logits(self) -> bool:
        return self.quantize == "none"

    def ignored(self) -> dict[str, str]:
        if self.quantize == "none":
            return dict.fromkeys(self.changed(), "quantize: none")
        return (
            {"images": "quantize: dynamic"}
            if self.quantize == "dynamic" and "images" in self.changed()
            else {}
        )

    def calibration_photos(self) -> int | None:
        return self.images if self.quantize == "static" else None
