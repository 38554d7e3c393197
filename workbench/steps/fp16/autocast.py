"""NVIDIA ModelOpt's AutoCast, the FP16 converter that TensorRT's own tools use. It runs on the CPU."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError, summary
from workbench.model.graph.onnx_file import opset_of
from workbench.steps.fp16.casts import control_flow

if TYPE_CHECKING:
    import onnx


INSTALL = "pip install 'krishi-bench[modelopt]'"
NORM_PARTS = frozenset({"ReduceMean", "Pow"})
OLDEST = 13  # AutoCast raises older opsets to this one, and a step keeps the opset


@dataclass(frozen=True, slots=True)
class _Kept:
    """A rule of AutoCast's: the nodes that stay in FP32.

    known: names of the nodes as they were. norms: keep the layer norms that AutoCast has made of several.
    """

    nodes: frozenset[str]
    tensors: frozenset[str]
    known: frozenset[str]
    norms: bool

    def check(self, node: "onnx.NodeProto") -> bool:
        if self.norms and node.op_type == "LayerNormalization" and node.name not in self.known:
            return True
        return node.name in self.nodes or not self.tensors.isdisjoint((*node.input, *node.output))


def missing() -> str | None:
    """Why AutoCast is not here, or None. `modelopt` alone is installed without what it needs for ONNX."""
    for module in ("modelopt", "onnx_graphsurgeon", "torch"):
        if find_spec(module) is None:
            return f"`{module}` is not installed"
    return None


def unsuited(model: "onnx.ModelProto") -> str | None:
    """Why AutoCast is not for this network, or None."""
    if opset_of(model) < OLDEST:
        return f"AutoCast needs opset {OLDEST}, the model has {opset_of(model)}"
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        return f"AutoCast takes operators of `{foreign[0]}` for TensorRT plug-ins"
    if bodies := control_flow(model):
        return f"the network has `{bodies[0]}`"
    return None


def by_autocast(
    model: "onnx.ModelProto", kept: Collection[str], tensors: Collection[str]
) -> "onnx.ModelProto":
    """Converted with AutoCast, photos and logits in FP32.

    kept: nodes, and tensors: what no FP16 node may touch. AutoCast's own limits (activations above 512, on
    noise) are off: ranges were measured on photos. It makes one LayerNormalization of several nodes; where
    one of NORM_PARTS is kept, all of those are. Raises WorkbenchError where it fails, or changes the opset.
    """
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    before = opset_of(model)
    known = frozenset(node.name for node in model.graph.node)
    norms = any(node.op_type in NORM_PARTS for node in model.graph.node if node.name in kept)
    rule = _Kept(frozenset(kept), frozenset(tensors), known, norms)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        try:
            converted: onnx.ModelProto = convert_to_mixed_precision(
                str(path),
                low_precision_type="fp16",
                nodes_to_exclude=[f"{re.escape(name)}$" for name in sorted(kept)],
                data_max=float("inf"),
                init_max=float("inf"),
                keep_io_types=True,
                custom_rule=rule,
                opset=before,
            )
        except Exception as error:  # it raises whatever its parts raise, bare Exception among them
            raise WorkbenchError(
                f"fp16: ModelOpt's AutoCast fails here: {summary(error)}",
                hint="set `converter: onnxruntime`",
            ) from error
    if opset_of(converted) != before:
        raise WorkbenchError(
            f"fp16: ModelOpt's AutoCast raises the opset from {before} to {opset_of(converted)}",
            hint=f"export with opset {opset_of(converted)}, or set `converter: onnxruntime`",
        )
    return converted
