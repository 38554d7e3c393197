"""Constant folding and redundant-node removal."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from workbench.steps.base import BaseStep


class Simplify(BaseStep):
    """Constants are folded and redundant nodes removed; the logits stay the same."""

    PACKAGES: ClassVar = ("onnx", "onnxslim", "onnxsim")
    FAMILY: ClassVar = "tidying"
    REPEATS: ClassVar = True

    use: Literal["simplify"]
    tool: Literal["onnxslim", "onnxsim"] = Field(
        "onnxslim", description="The library that does it: `onnxslim` or `onnxsim`."
    )


def simplify(step: Simplify, source: Path, target: Path) -> None:
    """Write the simplified model, which `check` compares with the source."""
    import onnx

    from workbench.model.graph.onnx_file import load
    from workbench.model.graph.plain_graph import plain

    model = plain(load(source))
    if step.tool == "onnxslim":
        import onnxslim

        simplified = onnxslim.slim(model)
    else:
        import onnxsim

        simplified, _ = onnxsim.simplify(model)
    onnx.save(simplified, target)
