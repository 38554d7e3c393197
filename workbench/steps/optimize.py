"""onnxruntime's graph optimisations, done once and kept in the file."""

from pathlib import Path
from typing import ClassVar, Literal

from workbench.backends.base import Operators
from workbench.errors import WorkbenchError
from workbench.steps.base import BaseStep
from workbench.system.machine import collect

LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}


class Optimize(BaseStep):
    """The graph as onnxruntime would rewrite it at every start, for the CPU.

    level: `basic` folds constants and removes what does nothing, and stays plain ONNX; `extended` fuses nodes
    into operators that onnxruntime alone has; `all` stores the weights in the blocks that this machine's
    processor takes, and is bound to it.
    It saves time when a session opens, not when it runs: set `runtime.graph_level: disable` with it.
    """

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu")
    FAMILY: ClassVar = "tidying"
    READS: ClassVar = frozenset({"processor"})
    TAKES_PIXELS: ClassVar = True
    LAST: ClassVar = True

    use: Literal["optimize"]
    level: Literal["basic", "extended", "all"] = "extended"

    def operators(self) -> Operators:
        return "onnxruntime"

    def bound_to(self) -> str | None:
        return collect().processor if self.level == "all" else None


def optimize(step: Optimize, source: Path, target: Path) -> None:
    """Open `source` with the CPU provider at this level and have onnxruntime write what it made of it.

    Raises WorkbenchError where onnxruntime refuses the file, and for fp16: the CPU has few kernels for it, so
    that the file would be full of casts to fp32, on whatever device it ran later.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    from workbench.model.graph.onnx_file import load, precision_of

    if precision_of(load(source)) == "fp16":
        raise WorkbenchError(
            "onnxruntime optimises for the CPU here, and would put casts to fp32 around the fp16 nodes",
            hint="leave `optimize` out: fp16 graphs are optimised for their device when they are opened",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[step.level])
    options.optimized_model_filepath = str(target)
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except (
        native.Fail,
        native.InvalidGraph,
        native.InvalidArgument,
        native.NotImplemented,
        native.RuntimeException,
    ) as error:
        raise WorkbenchError(f"onnxruntime cannot optimise {source.name}: {error}") from error
