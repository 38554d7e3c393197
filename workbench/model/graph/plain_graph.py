"""A graph that means the same in the one form that quantisers, converters and our own steps expect."""

from typing import TYPE_CHECKING

from workbench.backends.mac_count import inputs_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


def plain(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Change the model in place, and return it.

    Stored values of Constant nodes become initializers, which are no inputs (files of the first years list
    them there); optional inputs that are left empty at the end of a node go; the stored bias of a Gemm, which
    may be a scalar, (1,), (1, N) or (N,), becomes (N,).
    """
    import onnx

    graph, kept = model.graph, list[onnx.NodeProto]()
    inputs = inputs_of(graph)
    returned = {output.name for output in graph.output}
    for node in graph.node:
        while len(node.input) and not node.input[-1]:
            del node.input[-1]
        value = constant_of(node)
        if value is None or node.output[0] in returned:
            kept.append(node)
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
    if len(kept) < len(graph.node) or len(inputs) < len(graph.input):
        model.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input
    for part, now in ((graph.node, kept), (graph.input, inputs)):
        del part[:]
        part.extend(now)
    _spread_biases(model)
    return model


def constant_of(node: "onnx.NodeProto") -> "NDArray[np.generic] | None":
    """The numbers that a Constant node gives; None of another node, of text and of sparse tensors."""
    import numpy as np
    import onnx

    integers, floats = ("value_int", "value_ints"), ("value_float", "value_floats")
    for attribute in node.attribute if node.op_type == "Constant" else ():
        if attribute.name == "value":
            return np.asarray(onnx.numpy_helper.to_array(attribute.t))
        if attribute.name in integers + floats:
            kind = np.int64 if attribute.name in integers else np.float32
            return np.array(onnx.helper.get_attribute_value(attribute), kind)
    return None


def _spread_biases(model: "onnx.ModelProto") -> None:
    """Give each Gemm with stored weights a bias of its channels, its own where another node reads the old."""
    import numpy as np
    import onnx

    graph = model.graph
    stored = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[1] not in stored:
            continue
        old = stored.get(node.input[2])
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        channels = stored[node.input[1]].dims[0 if transposed else 1]
        if old is None or list(old.dims) == [channels] or [*old.dims][:-1] not in ([], [1]):
            continue
        name = f"{old.name}_of_{node.output[0]}"
        values = np.broadcast_to(onnx.numpy_helper.to_array(old).reshape(-1), (channels,))
        stored[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        graph.initializer.append(stored[name])
        node.input[2] = name
