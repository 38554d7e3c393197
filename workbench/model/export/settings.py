"""The `export` section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from workbench.errors import WorkbenchError
from workbench.system.records import Record

Exporter = Literal["dynamo", "torchscript"]

# The opsets that each writes, tried with torch 2.13: below 18, dynamo writes 18 without an error.
OPSETS: dict[Exporter, tuple[int, int]] = {"dynamo": (18, 25), "torchscript": (7, 23)}


class Export(Record):
    """How torch becomes ONNX: the `export` section of a recipe."""

    exporter: Exporter = Field(
        "dynamo",
        description="`dynamo` is torch's current exporter; it folds batch norms and writes opsets 18 to 25. "
        "`torchscript` is its deprecated predecessor and writes opsets 7 to 23.",
    )
    opset: Annotated[int, Field(ge=7, le=25, strict=True)] = Field(
        18,
        description="Version of the ONNX operator set. It is read back from the file; an opset that the "
        "exporter does not write is an error that names the one that does.",
    )
    dynamic_batch: bool = Field(True, description="The batch size stays free; `false` fixes it at 1.")


def check_opset(export: Export) -> None:
    """Raise WorkbenchError, before any export, where the exporter does not write this opset."""
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
