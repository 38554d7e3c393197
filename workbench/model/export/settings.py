"""The `export` section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from workbench.errors import WorkbenchError
from workbench.system.records import Record

Exporter = Literal["auto", "dynamo", "torchscript"]

# The opsets that each writes, in the order of `auto`; tried with torch 2.13: below 18, dynamo writes 18 and
# says nothing.
OPSETS: dict[Exporter, tuple[int, int]] = {"dynamo": (18, 25), "torchscript": (7, 23)}


class Export(Record):
    """How torch becomes ONNX: the `export` section of a recipe."""

    exporter: Exporter = Field(
        "auto",
        description="`dynamo` is torch's current exporter; it folds batch norms and writes opsets 18 to 25. "
        "`torchscript` is its deprecated predecessor and writes opsets 7 to 23. `auto` takes `dynamo`, and "
        "`torchscript` where that fails or does not write the opset; the trial records why.",
    )
    opset: Annotated[int, Field(ge=7, le=25, strict=True)] = Field(
        18,
        description="Version of the ONNX operator set. It is read back from the file; an opset that the "
        "exporter does not write is an error that names the one that does.",
    )
    dynamic_batch: bool = Field(True, description="The batch size stays free; `false` fixes it at 1.")
    reparameterize: bool = Field(
        True,
        description="Branches that can be merged for inference (RepVGG, MobileOne, FastViT: networks with "
        "methods such as `reparameterize`, `switch_to_deploy` or `fuse`) are merged before the export, where "
        "the logits stay the same within rounding; the trial records it.",
    )


def choices(export: Export, *, scripted: bool) -> list[Export]:
    """The exports by one exporter that may be tried, in order. Raises WorkbenchError where none is left.

    scripted: the network is a TorchScript module, which dynamo cannot read.
    """
    if export.exporter != "auto":
        check_opset(export)
        names: list[Exporter] = [export.exporter]
    else:
        names = [name for name, (low, high) in OPSETS.items() if low <= export.opset <= high]
    if scripted and "torchscript" not in names:
        low, high = OPSETS["torchscript"]
        opset = "" if low <= export.opset <= high else f" and an `export.opset` of {low} to {high}"
        raise WorkbenchError(
            "export.exporter: `dynamo` cannot read a TorchScript module",
            hint=f"set `export.exporter: torchscript`{opset}",
        )
    return [export.model_copy(update={"exporter": name}) for name in (["torchscript"] if scripted else names)]


def writes_opset(export: Export) -> bool:
    """Whether the exporter writes the opset; together they write all."""
    lowest, highest = OPSETS.get(export.exporter, (export.opset, export.opset))
    return lowest <= export.opset <= highest


def check_opset(export: Export) -> None:
    """Raise WorkbenchError, before any export, where the exporter does not write this opset."""
    if not writes_opset(export):
        lowest, highest = OPSETS[export.exporter]
        raise WorkbenchError(
            f"export.opset: exporter `{export.exporter}` cannot write opset {export.opset}: "
            f"it writes {lowest} to {highest}",
            hint=other_exporter(export),
        )


def other_exporter(export: Export) -> str:
    """What to set where the exporter of `export` fails, or does not write its opset."""
    other: Exporter = "torchscript" if export.exporter == "dynamo" else "dynamo"
    lowest, highest = OPSETS[other]
    if lowest <= export.opset <= highest:
        return f"set `export.exporter: {other}`, which writes opsets {lowest} to {highest}, or `auto`"
    return f"set `export.exporter: {other}` and an `export.opset` of {lowest} to {highest}, or leave both out"


def failure(export: Export) -> str:
    """The beginning of the message where the exporter raises."""
    return f"exporter `{export.exporter}` failed at opset {export.opset}: "
