"""Preprocessing inside the graph: it takes uint8 pixels, and the server skips the float conversion."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from workbench.errors import WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.steps.base import BaseStep

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

PIXELS = "pixels"


class FoldPreprocess(BaseStep):
    """The graph takes (N, H, W, 3) uint8 pixels and does transpose, cast and normalisation itself.

    The scale and the division by the standard deviation go into the first convolution's weights, which is
    exact up to rounding. The mean is subtracted before it: in its bias it would be wrong at the borders,
    where the convolution pads with zeros.
    """

    PACKAGES: ClassVar = ("onnx",)
    FAMILY: ClassVar = "tidying"
    READS: ClassVar = frozenset({"contract"})
    GIVES_PIXELS: ClassVar = True

    use: Literal["fold_preprocess"]


def fold_preprocess(source: Path, target: Path, contract: Preprocess) -> None:
    """Put the normalisation of `contract` in front of the graph, and its scale into the first convolution.

    Without a first convolution with constant float weights, as in a quantised graph, the scale is a
    multiplication in front. Raises WorkbenchError where the graph takes pixels already.
    """
    import numpy as np
    import onnx

    from workbench.model.graph.onnx_file import image_input, load
    from workbench.model.graph.plain_graph import plain

    model = plain(load(source))
    images, graph = image_input(model), model.graph
    if images.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        raise WorkbenchError("fold_preprocess: the graph takes pixels already")
    scale = 1 / (contract.white * np.asarray(contract.std))
    constants = {"fold_mean": contract.white * np.asarray(contract.mean)}
    chain: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", [], "pixels_float", {"to": onnx.TensorProto.FLOAT}),
        ("Transpose", [], "pixels_nchw", {"perm": [0, 3, 1, 2]}),
        ("Sub", ["fold_mean"], "pixels_centred", {}),
    ]
    if not _scale_first_convolution(model, images.name, scale):
        chain.append(("Mul", ["fold_scale"], "pixels_scaled", {}))
        constants["fold_scale"] = scale
    nodes, last = [], PIXELS
    for op, others, output, attributes in chain:
        nodes.append(onnx.helper.make_node(op, [last, *others], [output], f"fold_{op.lower()}", **attributes))
        last = output
    for node in graph.node:
        node.input[:] = [last if given == images.name else given for given in node.input]
    graph.initializer.extend(
        onnx.numpy_helper.from_array(value.reshape(1, 3, 1, 1).astype(np.float32), name)
        for name, value in constants.items()
    )
    for node in reversed(nodes):
        graph.node.insert(0, node)
    images.CopyFrom(_pixel_input(images))
    onnx.save(model, target)


def _pixel_input(images: "onnx.ValueInfoProto") -> "onnx.ValueInfoProto":
    """(N, H, W, 3) uint8, with the sizes that (N, 3, H, W) `images` has."""
    import onnx

    n, _, height, width = images.type.tensor_type.shape.dim
    pixels = onnx.helper.make_tensor_value_info(PIXELS, onnx.TensorProto.UINT8, [None, None, None, 3])
    for mine, theirs in zip(pixels.type.tensor_type.shape.dim, (n, height, width), strict=False):
        mine.CopyFrom(theirs)
    return pixels


def _scale_first_convolution(model: "onnx.ModelProto", name: str, scale: "NDArray[np.float64]") -> bool:
    """Multiply the weights of the convolution that alone reads `name`; False where they cannot be changed."""
    import numpy as np
    import onnx

    readers = [node for node in model.graph.node if name in node.input]
    if [node.op_type for node in readers] != ["Conv"] or readers[0].input[0] != name:
        return False
    (conv,) = readers
    weight = next((w for w in model.graph.initializer if w.name == conv.input[1]), None)
    shared = sum(conv.input[1] in node.input for node in model.graph.node) > 1
    if weight is None or shared or weight.data_type != onnx.TensorProto.FLOAT or weight.dims[1] != 3:
        return False
    scaled = onnx.numpy_helper.to_array(weight) * scale.reshape(1, 3, *[1] * (len(weight.dims) - 2))
    weight.CopyFrom(onnx.numpy_helper.from_array(scaled.astype(np.float32), weight.name))
    return True
