"""The batch size of a graph: fixing it, so that the runtime can plan for it, and freeing it again."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from workbench.errors import WorkbenchError
from workbench.steps.base import BaseStep

if TYPE_CHECKING:
    import onnx

    from workbench.model.graph.onnx_file import OnnxFacts
    from workbench.photos.contract import Batch

SAME = 1e-4  # of the largest logit: what another batch size may change by rounding
PHOTOS = 3  # tried one by one and at once, where the size becomes free


class FixedBatch(BaseStep):
    """The graph takes exactly `size` photos: shapes are known ahead, and a smaller batch costs as much."""

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu")  # it tries the result
    FAMILY: ClassVar = "tidying"
    RESIZES: ClassVar = True
    TAKES_PIXELS: ClassVar = True

    use: Literal["fixed_batch"]
    size: PositiveInt = Field(1, description="Photos in one call; a smaller batch is filled up.")


class DynamicBatch(BaseStep):
    """The graph takes any number of photos; an error where that would change an answer."""

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu")  # it tries the result
    FAMILY: ClassVar = "tidying"
    RESIZES: ClassVar = True
    TAKES_PIXELS: ClassVar = True

    use: Literal["dynamic_batch"]


def fixed_batch(step: FixedBatch, source: Path, target: Path) -> None:
    """Write the graph for `step.size` photos. Raises WorkbenchError where its answer for a photo changes."""
    _resize("fixed_batch", source, target, step.size)


def dynamic_batch(source: Path, target: Path) -> None:
    """Write the graph with a free batch size. Raises WorkbenchError where an answer would depend on it."""
    _resize("dynamic_batch", source, target, 0)


def _resize(use: str, source: Path, target: Path, size: int) -> None:
    """size: 0 for free."""
    import onnx

    from workbench.model.graph.onnx_file import describe, load

    facts = describe(source)
    model = load(source)
    if facts.input_shape[0] != size:
        _rewrite(model, facts, size)
    onnx.save(model, target)
    if facts.input_shape[0] != size:
        _check(use, source, facts, target, size)


def _rewrite(model: "onnx.ModelProto", facts: "OnnxFacts", size: int) -> None:
    """Change the first size of input and output, and infer the shapes between anew."""
    import onnx

    graph, before = model.graph, facts.input_shape[0]
    if before:
        _loosen_reshapes(model, before)
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name in (facts.input_name, facts.output_name) and dims:
            dims[0].Clear()
            if size:
                dims[0].dim_value = size
            else:
                dims[0].dim_param = "batch"
    del graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model)
    graph.value_info.extend(inferred.graph.value_info)


def _loosen_reshapes(model: "onnx.ModelProto", before: int) -> None:
    """Let each Reshape to a stored shape take its batch size from its input, where that is what it states.

    0 in the shape means: as in the input. It says the same at the present size, whatever the tensor is.
    """
    import onnx

    from workbench.model.graph.roles import wiring_of

    inferred = onnx.shape_inference.infer_shapes(model).graph
    first = {
        value.name: value.type.tensor_type.shape.dim[0].dim_value
        for value in (*inferred.value_info, *inferred.input)
        if value.type.tensor_type.shape.dim
    }
    constants = wiring_of(model).constants
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Reshape":
            continue
        shape = constants.get(node.input[1])
        if shape is None or first.get(node.input[0]) != before:
            continue
        wanted = onnx.numpy_helper.to_array(shape).copy()
        if len(wanted) and wanted[0] == before and 0 not in wanted:
            wanted[0] = 0
            # dynamo sets `allowzero`, under which 0 would mean an empty tensor.
            kept = [a for a in node.attribute if a.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
            # A tensor of its own: others may read the old one, a Reshape of something else for example.
            name = f"{node.input[1]}_any_batch_{index}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(wanted, name))
            node.input[1] = name


def _check(use: str, source: Path, facts: "OnnxFacts", target: Path, size: int) -> None:
    """Run the result on photos, alone and together, and hold it against the source."""
    import numpy as np

    from workbench.model.graph.onnx_file import describe, logits_of

    photos = _noise(facts, size or PHOTOS)
    expected = logits_of(source, facts, photos)
    tolerance = SAME * max(1.0, float(np.abs(expected).max()))
    try:
        after = describe(target)
        for count in (len(photos),) if size else (1, len(photos)):
            got = logits_of(target, after, photos[:count])
            if got.shape != expected[:count].shape:
                raise WorkbenchError(f"{count} photos get logits of the shape {got.shape}")
            worst = float(np.abs(got - expected[:count]).max())
            if not worst <= tolerance:
                raise WorkbenchError(f"with {count} photos at once, a logit changes by {worst:.3g}")
    except WorkbenchError as error:
        target.unlink(missing_ok=True)
        was = facts.input_shape[0]
        made = (
            f"the graph is made for {was} at a time"
            if was
            else "the answer for a photo depends on the others"
        )
        raise WorkbenchError(
            f"{use}: {made}: {error.message}",
            hint="export with `export.dynamic_batch: true`, and put this step before `dynamic_int8`",
        ) from error


def _noise(facts: "OnnxFacts", count: int) -> "Batch":
    import numpy as np

    rng, (channels, height, width) = np.random.default_rng(0), facts.image_shape()
    if facts.pixels:
        return rng.integers(0, 256, (count, height, width, channels), np.uint8)
    return rng.standard_normal((count, channels, height, width), np.float32)
