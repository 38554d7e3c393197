"""A torch.export program to ExecuTorch's `.pte`, in float or quantised by torchao's PT2E, for XNNPACK."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import ArtifactInfo
from workbench.backends.audit import Delegation, Product, audit_of
from workbench.errors import WorkbenchError, summary
from workbench.steps.base import CONVERTER_ERRORS, calibration_of
from workbench.steps.executorch.exclusions import CONVOLUTIONS, filter_of, operator
from workbench.steps.executorch.settings import Executorch
from workbench.system.files import sha256_file

if TYPE_CHECKING:
    import torch

    from workbench.steps.base import Photos

FILE = "model.pte"
XNNPACK = "XNNPACK"
# aten's operators that multiply, as the exported graph and the lowered one name them.
PRODUCTS = ("linear", "mm", "addmm", "bmm", "matmul")
# Nodes that compute nothing: they take results apart, or change how many numbers a value is stored in.
BOOKKEEPING = ("getitem", "sym_size")


def write_pte(step: Executorch, source: Path, folder: Path, photos: "Photos") -> ArtifactInfo:
    """Write the program of one that this process chain exported, of one photo a call, into `folder`.

    Raises WorkbenchError where ExecuTorch cannot lower the network.
    """
    import torch

    with source.open("rb") as file:
        program = torch.export.load(file)
    (photo,) = program.example_inputs[0]
    with _converting():
        if step.quantize == "static":
            program = _quantized(step, program, photo, photos)
    products = list(_products(program))
    with _converting():
        data, lowered, photo_names = _lowered(program)
    path = folder / FILE
    path.write_bytes(data)
    (logits,) = (node.args[0] for node in program.graph.nodes if node.op == "output")
    return ArtifactInfo(
        format="pte",
        file=FILE,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        precision="int8" if step.quantize == "static" else "fp32",
        input_shape=(1, *(int(side) for side in photo.shape[1:])),
        classes=int(logits[0].meta["val"].shape[-1]),
        delegation=_delegation(lowered, photo_names, products),
        note=_verdict(step, products),
    )


@contextmanager
def _converting() -> Iterator[None]:
    """ExecuTorch's own words go to the log; what it raises becomes a WorkbenchError."""
    import torch

    from workbench.model.export.torch_exporters import chatter_on_stderr

    with chatter_on_stderr(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao and ExecuTorch warn of their own calls
        try:
            yield
        except CONVERTER_ERRORS as error:
            raise WorkbenchError(
                f"ExecuTorch cannot take the network: {summary(error)}",
                hint="onnxruntime runs more operators; the log of this trial has all its words",
            ) from error


def _quantized(
    step: Executorch, program: "torch.export.ExportedProgram", photo: "torch.Tensor", photos: "Photos"
) -> "torch.export.ExportedProgram":
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    images = calibration_of(photos, step.use)
    count = min(step.images, len(images))
    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=step.per_channel)
    )
    if step.exclude_op_types or step.exclude_roles:
        quantizer.set_filter_function(filter_of(step, quantizer))
    prepared = prepare_pt2e(program.module(), quantizer)
    for batch in images.spread(count, 1):
        prepared(torch.from_numpy(batch))
    return torch.export.export(convert_pt2e(prepared), (photo,))


def _lowered(program: "torch.export.ExportedProgram") -> tuple[bytes, Any, set[str]]:
    """The program's bytes, the graph with the parts that the delegate took, and the names of its inputs."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    lowered = edge.exported_program()
    inputs = {str(name) for name in lowered.graph_signature.user_inputs}
    return bytes(edge.to_executorch().buffer), lowered.graph_module, inputs


@dataclass(frozen=True, slots=True)
class _Multiplication:
    """A node that multiplies. macs: per photo. int8: its data come out of a dequantising node."""

    macs: int
    int8: bool


def _products(program: "torch.export.ExportedProgram") -> Iterator[_Multiplication]:
    for node in program.graph.nodes:
        if (macs := _macs(node)) is not None:
            yield _Multiplication(macs, "dequantize" in str(getattr(node.args[0], "target", "")))


def _macs(node: Any) -> int | None:
    """Multiply-accumulates of a node of a graph, for one photo; None where it multiplies nothing."""
    name = operator(node)
    if node.op != "call_function" or name not in CONVOLUTIONS + PRODUCTS:
        return None
    made = prod(node.meta["val"].shape)
    if name in CONVOLUTIONS:
        return int(made * prod(node.args[1].meta["val"].shape[1:]))
    data = node.args[1] if name == "addmm" else node.args[0]
    return int(made * data.meta["val"].shape[-1])


def _delegation(lowered: Any, photos: set[str], products: list[_Multiplication]) -> Delegation:
    """Read from the lowered graph: what it calls itself is outside, each call of the delegate a piece."""
    pieces = [name for name, _ in lowered.named_children() if name.startswith("lowered_module")]
    outside = [node for node in _from_photos(lowered, photos) if _computes(node)]
    taken = [
        node
        for name in pieces
        for node in getattr(lowered, name).original_module.graph.nodes
        if _computes(node)
    ]
    left = sum(_macs(node) or 0 for node in outside)
    macs = sum(product.macs for product in products)
    return Delegation(
        delegate=XNNPACK,
        partitions=len(pieces),
        nodes=len(taken) + len(outside),
        delegated=len(taken),
        macs=macs,
        delegated_macs=macs - left,
        outside=dict(Counter(map(operator, outside))),
    )


def _from_photos(lowered: Any, photos: set[str]) -> list[Any]:
    """The nodes that work on the photo; those that copy constants, or give memory, do not."""
    found: dict[Any, None] = {}
    for node in lowered.graph.nodes:
        if node.name in photos or any(given in found for given in node.all_input_nodes):
            found[node] = None
    return list(found)


def _computes(node: Any) -> bool:
    if node.op != "call_function":
        return False
    name = operator(node)
    return name not in BOOKKEEPING and not name.startswith("executorch_call_delegate")


def _verdict(step: Executorch, products: list[_Multiplication]) -> str:
    """In which precision it multiplies, by the graph that was lowered."""
    found = [Product("int8" if product.int8 else "fp32", product.macs) for product in products]
    asked: Any = "int8" if step.quantize == "static" else "fp32"
    audit = audit_of(found, asked=asked, providers={XNNPACK: len(found)}, casts=None, unfused_qdq=None)
    return audit.verdict
