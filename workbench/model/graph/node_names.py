"""Name the nodes of a graph, and select them by name or by type, as in `exclude_nodes` of a recipe."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.backends.common import translated_ort_errors
from workbench.errors import WorkbenchError, did_you_mean, some
from workbench.model.graph.onnx_file import load
from workbench.model.graph.plain_graph import plain

if TYPE_CHECKING:
    import onnx


def prepare(source: Path, target: Path) -> "onnx.ModelProto":
    """Run onnxruntime's pre-processing, which its quantiser expects: fold batch norms, fuse, infer shapes.

    Every node has a name afterwards. Names are kept, except where nodes are fused or taken apart: HardSwish
    becomes HardSigmoid and Mul. Raises WorkbenchError where onnxruntime cannot do it.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with translated_ort_errors("prepare the model for INT8"):
        # Symbolic shape inference is for transformers with several free sizes; ONNX's own finds every type in
        # image classifiers with a free batch.
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    model = named(target)
    onnx.save(model, target)
    return model


def named(source: Path) -> "onnx.ModelProto":
    """The model in plain form, with a name of its own for every node, by its output where it has none: unique
    and the same in every build."""
    model = plain(load(source))
    used, earlier = {node.name for node in model.graph.node}, set[str]()
    for node in model.graph.node:
        if not node.name or node.name in earlier:
            node.name = f"{node.op_type}_{node.output[0]}"
            while node.name in used:
                node.name += "_"
            used.add(node.name)
        earlier.add(node.name)
    return model


def matching(patterns: Iterable[str], model: "onnx.ModelProto", *, field: str) -> list[str]:
    """Names of the nodes that a name or a glob pattern fits, in graph order.

    Raises WorkbenchError naming the closest node where a pattern fits none.
    """
    names = [node.name for node in model.graph.node if node.name]
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not found:
            hint = did_you_mean(pattern.strip("*"), names) or f"the graph has {some(names)}"
            raise WorkbenchError(f"{field}: no node is named `{pattern}`", hint=hint)
        chosen |= found
    return [name for name in names if name in chosen]


def known_op_types(op_types: Iterable[str], model: "onnx.ModelProto", *, field: str) -> set[str]:
    """The op types as a set. Raises WorkbenchError for one that neither the graph nor ONNX has; one that only
    the graph lacks is fine, so that a recipe fits many networks."""
    import onnx

    chosen = set(op_types)
    present = {node.op_type for node in model.graph.node}
    for op_type in sorted(chosen - present):
        if not onnx.defs.has(op_type):
            hint = did_you_mean(op_type, present) or f"the graph has {some(sorted(present))}"
            raise WorkbenchError(f"{field}: ONNX has no operator `{op_type}`", hint=hint)
    return chosen
