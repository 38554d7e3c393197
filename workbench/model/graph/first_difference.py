"""The first node of a converted graph that computes something else, found by bisecting its tensors."""

import time
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

from workbench.backends.mac_count import in_order
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import onnx


FLOAT = 1  # onnx.TensorProto.FLOAT
CUT = "cut_here"  # begins the names of what `cut` adds


def first_difference(
    model: "onnx.ModelProto",
    differs: Callable[[str], bool],
    *,
    shared: Collection[str] | None = None,
    seconds: float = 60.0,
) -> str | None:
    """The node whose output is the first to differ while what it reads does not; half a sentence.

    differs: whether this tensor has other values after the conversion; WorkbenchError where that cannot be
    told, and it counts as the same. shared: the tensors there are to compare, all by default. Each round
    halves what leads to a tensor that differs, then looks at what its node reads: another branch may have
    brought the difference. None where no tensor differs by itself (the fault needs several nodes at once,
    which the runtime fuses), or where the time was not even enough to begin.
    """
    deadline = time.monotonic() + seconds
    wrong = _remembered(differs, deadline)
    makers = {name: node for node in in_order(model.graph) for name in node.output if name}
    found, target = None, model.graph.output[0].name
    while True:
        suspects = [name for name in _leading_to(target, makers) if shared is None or name in shared]
        found = _bisected(suspects, wrong) or found
        if found is None:
            return None
        earlier = [name for name in _read(found, makers, suspects) if name != found and wrong(name)]
        if not earlier:
            break
        target = found = earlier[0]
    node = makers[found]
    where = f"`{node.name}` ({node.op_type})" if node.name else f"the {node.op_type} that gives `{found}`"
    return f"{where} or before it" if time.monotonic() >= deadline else where


def _remembered(differs: Callable[[str], bool], deadline: float) -> Callable[[str], bool]:
    """`differs`, asked once a tensor, and not after the deadline."""
    known: dict[str, bool] = {}

    def wrong(name: str) -> bool:
        if name not in known and time.monotonic() < deadline:
            try:
                known[name] = differs(name)
            except WorkbenchError:
                known[name] = False
        return known.get(name, False)

    return wrong


def _bisected(suspects: Sequence[str], wrong: Callable[[str], bool]) -> str | None:
    """One that is wrong where the one before is not; None where none was found."""
    low, high = -1, len(suspects)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wrong(suspects[middle]) else (middle, high)
    return suspects[high] if high < len(suspects) else None


def _leading_to(target: str, makers: "dict[str, onnx.NodeProto]") -> list[str]:
    """The computed tensors that `target` depends on, itself last, in the order of the graph."""
    needed, waiting = set[str](), [target]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in needed:
            needed.add(name)
            waiting.extend(_inputs(makers[name]))
    return [name for name in makers if name in needed]


def _read(name: str, makers: "dict[str, onnx.NodeProto]", suspects: Collection[str]) -> list[str]:
    """The nearest suspects that the node of `name` reads, through nodes whose own outputs are none."""
    found, seen, waiting = list[str](), set[str](), list(_inputs(makers[name]))
    while waiting:
        given = waiting.pop(0)
        if given in seen or given not in makers:
            continue
        seen.add(given)
        if given in suspects:
            found.append(given)
        else:
            waiting.extend(_inputs(makers[given]))
    return found


def _inputs(node: "onnx.NodeProto") -> list[str]:
    """The names that a node reads, those in branches and loops among them."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*node.input, *(name for body in bodies for inner in body.node for name in _inputs(inner))]


def cut(model: "onnx.ModelProto", tensor: str) -> "onnx.ModelProto":
    """The part of the model that computes `tensor`, as (first size, the others) float32."""
    import onnx

    makers = {name: node for node in model.graph.node for name in node.output}
    needed = set(_leading_to(tensor, makers))
    nodes = [node for node in model.graph.node if needed.intersection(node.output)]
    read = {name for node in nodes for name in _inputs(node)} | {tensor}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.functions.extend(model.functions)
    graph, flat, values = part.graph, f"{CUT}_flat", f"{CUT}_values"
    graph.name = model.graph.name or "part"
    graph.node.extend(deepcopy(nodes))
    graph.node.append(onnx.helper.make_node("Cast", [tensor], [values], f"{CUT}_cast", to=FLOAT))
    graph.node.append(onnx.helper.make_node("Flatten", [values], [flat], f"{CUT}_flatten", axis=1))
    graph.initializer.extend(weight for weight in model.graph.initializer if weight.name in read)
    stored = {weight.name for weight in model.graph.initializer}
    # The images stay an input even where nothing reads them, as behind a constant.
    graph.input.extend(value for value in model.graph.input if value.name in read or value.name not in stored)
    graph.output.append(onnx.helper.make_tensor_value_info(flat, FLOAT, [None, None]))
    return part
