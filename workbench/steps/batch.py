"""The batch size of a graph: fixing it, so that the runtime can plan for it, and freeing it."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from workbench.errors import WorkbenchError, plural
from workbench.steps.base import BaseStep

if TYPE_CHECKING:
    import onnx

    from workbench.model.graph.onnx_file import OnnxFacts

SAME = 1e-4  # of the largest logit: what another batch size may change by rounding
PHOTOS = 3  # run one by one and at once, where the size becomes free


class FixedBatch(BaseStep):
    """The graph takes exactly `size` photos: shapes are known ahead, and a smaller batch costs as much."""

    PACKAGES: ClassVar = ("onnx", "onnxruntime", "onnxruntime-gpu")  # it runs the result
    FAMILY: ClassVar = "tidying"
    RESIZES: ClassVar = True
    TAKES_PIXELS: ClassVar = True

    use: Literal["fixed_batch"]
    size: PositiveInt = Field(1, description="Photos in one call; a smaller batch is filled up.")


class DynamicBatch(BaseStep):
    """The graph takes any number of photos; an error where that would change an answer."""

    PACKAGES: ClassVar = FixedBatch.PACKAGES
    FAMILY: ClassVar = "tidying"
    RESIZES: ClassVar = True
    TAKES_PIXELS: ClassVar = True

    use: Literal["dynamic_batch"]


def resize(step: FixedBatch | DynamicBatch, source: Path, target: Path) -> None:
    """Write the graph for that batch size. Raises WorkbenchError where its answer for a photo changes."""
    import onnx

    from workbench.model.graph.onnx_file import describe, load
    from workbench.model.graph.plain_graph import plain

    size = step.size if isinstance(step, FixedBatch) else 0
    facts = describe(source)
    model = plain(load(source))
    if other := facts.input_shape[0] != size:
        _rewrite(model, facts, size)
    onnx.save(model, target)
    if other:
        _check(step.use, source, facts, target, size)


def _rewrite(model: "onnx.ModelProto", facts: "OnnxFacts", size: int) -> None:
    """Change the first size of input and output, and infer the shapes between them. size: 0 for free."""
    import onnx

    graph = model.graph
    if facts.input_shape[0]:
        _loosen_reshapes(model, facts.input_shape[0])
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
    """Let each Reshape to a stored shape that starts with the batch size take that from its input.

    0 in the shape means: as in the input, which is the same at the present size.
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
            for attribute in [a for a in node.attribute if a.name == "allowzero"]:
                node.attribute.remove(attribute)
            # A tensor of its own: others may read the old one, a Reshape of something else for example.
            name = f"{node.input[1]}_any_batch_{index}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(wanted, name))
            node.input[1] = name


def _check(use: str, source: Path, facts: "OnnxFacts", target: Path, size: int) -> None:
    """Run the result on photos, alone and together, and hold it against the source."""
    import numpy as np

    from workbench.model.graph.onnx_file import describe, logits_of, noise

    photos = noise(facts, size or PHOTOS)
    expected = logits_of(source, facts, photos)
    tolerance = SAME * max(1.0, float(np.abs(expected).max()))
    try:
        after = describe(target)
        for count in (len(photos),) if size else (1, len(photos)):
            got = logits_of(target, after, photos[:count])
            if got.shape != expected[:count].shape:
                raise WorkbenchError(f"{plural(count, 'photo')} get logits of the shape {got.shape}")
            worst = float(np.abs(got - expected[:count]).max())
            if not worst <= tolerance:
                raise WorkbenchError(f"with {plural(count, 'photo')} at once, a logit changes by {worst:.3g}")
    except WorkbenchError as error:
        target.unlink(missing_ok=True)
        reason = "the answer for a photo depends on the others"
        if facts.input_shape[0]:
            reason = f"the graph is made for {facts.input_shape[0]} at a time"
        raise WorkbenchError(
            f"{use}: {reason}: {error.message}",
            hint="export with `export.dynamic_batch: true`, and put this step before `dynamic_int8`",
        ) from error
