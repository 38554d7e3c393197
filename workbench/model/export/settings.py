"""The `export` section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from workbench.errors import WorkbenchError
from workbench.system.records import Record

Exporter = Literal["dynamo", "torchscript"]

# What each writes and keeps, tried one by one with torch 2.13: below 18, dynamo writes 18 without an error.
OPSETS: dict[Exporter, tuple[int, int]] = {"dynamo": (18, 25), "torchscript": (7, 23)}


class Export(Record):
    """How torch becomes ONNX: the `export` section of a recipe.

    dynamic_batch: the batch size stays free; otherwise it is fixed.
    """

    exporter: Exporter = "dynamo"
    opset: Annotated[int, Field(ge=7, le=25, strict=True)] = 18
    dynamic_batch: bool = True


def check_opset(export: Export) -> None:
    """Raise WorkbenchError where the exporter is known not to write this opset: nobody waits for that."""
    lowest, highest = OPSETS[export.exporter]
    if not lowest <= export.opset <= highest:
        raise WorkbenchError(
            f"export.opset: exporter `{export.exporter}` cannot write opset {export.opset}: "
            f"it writes {lowest} to {highest}",
            hint=other_exporter(export),
        )


def other_exporter(export: Export) -> str:
    other: Exporter = "torchscript" if export.exporter == "dynamo" else "dynamo"
    lowest, highest = OPSETS[other]
    if lowest <= export.opset <= highest:
        return f"set `export.exporter: {other}`, which writes opsets {lowest} to {highest}"
    return f"choose another `export.opset`; exporter `{other}` writes {lowest} to {highest}"
