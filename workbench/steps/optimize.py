"""onnxruntime's graph optimisations, done once and kept in the file."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from workbench.backends.base import Operators
from workbench.errors import WorkbenchError
from workbench.steps.base import BaseStep
from workbench.system.machine import collect


class Optimize(BaseStep):
    """onnxruntime's graph optimisations for the CPU, done once and kept in the file. They save time when a
    session opens, not when it runs: set `runtime.graph_level: disable` with them.
    """

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu")
    FAMILY: ClassVar = "tidying"
    READS: ClassVar = frozenset({"processor"})
    TAKES_PIXELS: ClassVar = True
    LAST: ClassVar = True

    use: Literal["optimize"]
    level: Literal["basic", "extended", "all"] = Field(
        "extended",
        description="`basic` folds constants and removes nodes without effect, and stays plain ONNX; "
        "`extended` fuses nodes into operators that onnxruntime alone has; `all` stores the weights in the "
        "blocks that this machine's processor takes, and the file is refused on any other.",
    )

    def operators(self) -> Operators:
        return "onnxruntime"

    def bound_to(self) -> str | None:
        return collect().processor if self.level == "all" else None


def optimize(step: Optimize, source: Path, target: Path) -> None:
    """Write the graph as onnxruntime optimises it for its CPU provider.

    Raises WorkbenchError where onnxruntime refuses the file, and for fp16: the CPU has few kernels for it, so
    that the file would be full of casts to fp32 on every device.
    """
    from workbench.backends.common import cpu_options, open_cpu
    from workbench.model.graph.onnx_file import load, precision_of

    if precision_of(load(source)) == "fp16":
        raise WorkbenchError(
            "onnxruntime optimises for the CPU here, and would put casts to fp32 around the fp16 nodes",
            hint="leave `optimize` out: fp16 graphs are optimised for their device when they are opened",
        )
    options = cpu_options(f"ORT_ENABLE_{step.level.upper()}")
    options.optimized_model_filepath = str(target)
    open_cpu(source, options, doing="optimise")
