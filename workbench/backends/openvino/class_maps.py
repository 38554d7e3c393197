"""The head of an OpenVINO network applied at each place of its last feature map, as for ONNX files
(`workbench.model.graph.class_maps`, which says what it is)."""

from pathlib import Path
from typing import Any

from workbench.backends.openvino import reason, without_telemetry
from workbench.backends.openvino.ir import save
from workbench.errors import Unsuited

POOLS = ("ReduceMean", "AvgPool", "AdaptiveAvgPool")
BENDING = frozenset(
    {"Relu", "PRelu", "Elu", "Clamp", "HSigmoid", "HSwish", "Sigmoid", "Swish", "Tanh", "Gelu", "Erf", "Mish"}
    | {"SoftPlus", "Power", "Sqrt", "Exp", "MVN", "ReduceMean"}
)
AFTER_SCORES = ("Result", "Convert", "FakeQuantize")


def write_class_maps(
    graph: bytes, weights: bytes, folder: Path, step: float
) -> tuple[tuple[int, int], float]:
    """Write the network with its class maps into `folder`, as `backends.openvino.ir.save` does.

    step: for heads that bend. Returns the grid, and the step that was taken: 1 for linear heads. Raises
    Unsuited where it does not end in a global average pool and a head that takes the mean alone.
    """
    without_telemetry()
    import openvino

    core = openvino.Core()
    # Read twice: the head of the second is put behind the body of the first.
    model, other = core.read_model(graph, weights), core.read_model(graph, weights)
    try:
        grid, taken, joined = _joined(model, other, step)
    except RuntimeError as error:
        raise Unsuited(f"openvino cannot join its head to its last feature map: {reason(error)}") from error
    save(joined, folder)
    return grid, taken


def _joined(model: Any, other: Any, step: float) -> tuple[tuple[int, int], float, Any]:
    import openvino
    from openvino import opset13 as ops

    result = other.get_results()[0]
    scores = _before_softmax(result.input_value(0))
    pool, head = _head_of(other, scores)
    (own,) = [node for node in model.get_ops() if node.get_friendly_name() == pool.get_friendly_name()]
    feature = own.input_value(0)
    sizes = [size.get_length() if size.is_static else 0 for size in feature.get_partial_shape()]
    if len(sizes) != 4 or not all(sizes[1:]):
        raise Unsuited("the size of its last feature map is not known before it runs")
    _, channels, height, width = sizes
    taken = step if any(node.get_type_name() in BENDING for node in head) else 1.0
    if taken != 1:
        mean = ops.reduce_mean(feature, ops.constant([2, 3], dtype="int64"), keep_dims=True)
        away = ops.subtract(feature, mean)
        feature = ops.add(mean, ops.multiply(away, ops.constant(step, dtype=_type(feature)))).output(0)
    spread = ops.transpose(feature, ops.constant([0, 2, 3, 1], dtype="int64"))
    spatial = len(pool.output(0).get_partial_shape()) == 4
    rows = ops.reshape(spread, ops.constant([-1, channels, *([1, 1] * spatial)], dtype="int64"), False)
    _lead(pool.output(0), rows.output(0))
    for node in head:
        # The mean was rounded with a range of its own, which single places leave.
        if node.get_type_name() == "FakeQuantize":
            _lead(node.output(0), node.input_value(0))
    classes = scores.get_partial_shape()[1].get_length()
    scores = _before_softmax(result.input_value(0))
    places = ops.reshape(scores, ops.constant([-1, height * width, classes], dtype="int64"), False)
    turned = ops.transpose(places, ops.constant([0, 2, 1], dtype="int64"))
    maps = ops.reshape(turned, ops.constant([-1, classes * height * width], dtype="int64"), False)
    answer = model.get_results()[0].input_value(0)
    joined = ops.concat([answer, ops.convert(maps, "f32").output(0)], 1)
    return (height, width), taken, openvino.Model([ops.result(joined)], model.get_parameters(), "class maps")


def _type(value: Any) -> str:
    return str(value.get_element_type().to_dtype())


def _lead(old: Any, new: Any) -> None:
    """Let all that reads `old` read `new`."""
    for target in old.get_target_inputs():
        target.replace_source_output(new)


def _before_softmax(value: Any) -> Any:
    found = value
    while (node := found.get_node()).get_type_name() in (*AFTER_SCORES, "Softmax"):
        if node.get_type_name() == "Softmax":
            return node.input_value(0)
        found = node.input_value(0)
    return value


def _head_of(model: Any, scores: Any) -> tuple[Any, list[Any]]:
    """The global average pool, and the nodes behind it that lead to the scores."""
    for pool in reversed([node for node in model.get_ordered_ops() if node.get_type_name() in POOLS]):
        inside = _between(pool, scores)
        if inside is not None and _averages_all(pool):
            behind = _behind(pool)
            return pool, [node for node in inside if node.get_friendly_name() in behind]
    raise Unsuited("it does not end in a global average pool over height and width, and a head")


def _between(pool: Any, scores: Any) -> list[Any] | None:
    """The nodes that the scores are made of, back to the pool; None where they take anything around it."""
    seen, waiting, found = {pool.get_friendly_name()}, [scores.get_node()], []
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        if node.get_type_name() == "Parameter":
            return None
        seen.add(node.get_friendly_name())
        found.append(node)
        waiting += [value.get_node() for value in node.input_values()]
    return found


def _behind(pool: Any) -> set[str]:
    """The names of the nodes that depend on the pool."""
    found, waiting = set[str](), [pool]
    while waiting:
        for target in [target for output in waiting.pop().outputs() for target in output.get_target_inputs()]:
            node = target.get_node()
            if node.get_friendly_name() not in found:
                found.add(node.get_friendly_name())
                waiting.append(node)
    return found


def _averages_all(pool: Any) -> bool:
    """Whether it averages height and width; of a window that is smaller, the mean of the maps tells later."""
    if pool.get_type_name() != "ReduceMean":
        return True
    axes = pool.input_value(1).get_node()
    known = axes.get_type_name() == "Constant"
    return known and sorted(int(axis) % 4 for axis in axes.get_data().reshape(-1)) == [2, 3]
