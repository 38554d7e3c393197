"""Multiply-accumulates, against numbers worked out by hand and against what onnxruntime rewrites."""

from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx", reason="graphs are ONNX")

from workbench.backends.mac_count import macs_of, macs_of_call  # noqa: E402

FLOAT, UINT8, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT8
STEM = 16 * 16 * 8 * 3 * 3 * 3  # outputs of 3x3, stride 2, 3 channels to 8, of a 32 x 32 photo
DEPTHWISE = 16 * 16 * 8 * 3 * 3
CLASSIFIER = 8 * 5


def weight(name: str, *shape: int, kind: int = FLOAT) -> Any:
    size = 1
    for side in shape:
        size *= side
    return onnx.helper.make_tensor(name, kind, shape, [1] * size)


def network(batch: int | str, *, names: bool = True) -> Any:
    """3x3 convolution, depthwise convolution, pool, classifier."""
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2], name="stem" * names),
        node("Conv", ["a", "w1"], ["b"], pads=[1, 1, 1, 1], group=8, name="depthwise" * names),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("Gemm", ["d", "w2"], ["y"], transB=1, name="classifier" * names),
    ]
    stored = [weight("w0", 8, 3, 3, 3), weight("w1", 8, 1, 3, 3), weight("w2", 5, 8)]
    return model(nodes, stored, [batch, 3, 32, 32])


def model(nodes: list[Any], stored: list[Any], shape: list[int | str]) -> Any:
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", FLOAT, [shape[0], 5])],
        stored,
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_the_count_is_for_one_photo_whatever_the_batch(batch: int | str) -> None:
    assert macs_of(network(batch)) == {"stem": STEM, "depthwise": DEPTHWISE, "classifier": CLASSIFIER}


def test_a_node_without_a_name_is_called_by_its_place() -> None:
    assert list(macs_of(network("n", names=False))) == ["Conv_0", "Conv_1", "Gemm_4"]


def test_counting_leaves_the_graph_as_it_is() -> None:
    graph = network("n")
    before = graph.SerializeToString()
    macs_of(graph)
    assert graph.SerializeToString() == before


def test_nodes_may_stand_in_any_order() -> None:
    graph = network("n")
    backwards = list(graph.graph.node)[::-1]
    del graph.graph.node[:]
    graph.graph.node.extend(backwards)
    assert macs_of(graph) == {"classifier": CLASSIFIER, "depthwise": DEPTHWISE, "stem": STEM}


def test_a_node_behind_an_unknown_operator_is_not_counted() -> None:
    graph = network("n")
    graph.graph.node[1].op_type, graph.graph.node[1].domain = "Mystery", "example.com"
    assert macs_of(graph) == {}  # the file does not even import that domain
    graph.opset_import.append(onnx.helper.make_opsetid("example.com", 1))
    assert macs_of(graph) == {"stem": STEM}


def test_quantised_and_fused_graphs_count_as_the_float_one(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="it fuses and quantises")
    graph = network("n")
    fused = optimised(onnxruntime, graph, tmp_path / "fused.onnx", "ORT_ENABLE_EXTENDED")
    assert sum(macs_of(fused).values()) == STEM + DEPTHWISE + CLASSIFIER
    quantised = optimised(onnxruntime, with_qdq(graph), tmp_path / "int8.onnx", "ORT_ENABLE_EXTENDED")
    assert "QLinearConv" in {node.op_type for node in quantised.graph.node}
    assert sum(macs_of(quantised).values()) == STEM + DEPTHWISE + CLASSIFIER


def optimised(onnxruntime: Any, graph: Any, path: Path, level: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def with_qdq(graph: Any) -> Any:
    """Every data tensor through a quantise/dequantise pair, every weight stored in int8."""
    node, nodes = onnx.helper.make_node, list[Any]()
    stored = [onnx.helper.make_tensor("s", FLOAT, (), [0.1]), onnx.helper.make_tensor("z", UINT8, (), [7])]
    stored.append(onnx.helper.make_tensor("zw", INT8, (), [0]))
    for old in graph.graph.initializer:
        stored.append(weight(f"{old.name}_q", *old.dims, kind=INT8))
        nodes.append(node("DequantizeLinear", [f"{old.name}_q", "s", "zw"], [old.name]))
    for old in graph.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(old)
        for name in (old.input[0], *([] if old.op_type != "Gemm" else [old.output[0]])):
            nodes.append(
                node("QuantizeLinear", [f"{name}_f" if name == "y" else name, "s", "z"], [f"{name}_q"])
            )
            nodes.append(
                node("DequantizeLinear", [f"{name}_q", "s", "z"], [name if name == "y" else f"{name}_d"])
            )
        copy.input[0] = f"{old.input[0]}_d"
        if old.op_type == "Gemm":
            copy.output[0] = "y_f"
            nodes.insert(len(nodes) - 2, copy)
        else:
            nodes.append(copy)
    return model(nodes, stored, ["n", 3, 32, 32])


@pytest.mark.parametrize(
    ("op_type", "inputs", "output", "macs"),
    [
        ("Gemm", [(1, 8), (8, 5)], (1, 5), 40),
        ("Gemm", [(8, 1), (8, 5)], (1, 5), 40),  # transposed data
        ("MatMul", [(1, 4, 7, 6), (1, 4, 6, 7)], (1, 4, 7, 7), 4 * 7 * 7 * 6),
        ("QLinearConv", [(1, 8, 8, 4), (), (), (6, 4, 1, 1)], (1, 8, 8, 6), 8 * 8 * 6 * 4),  # channels last
        ("ConvTranspose", [(1, 4, 8, 8), (4, 6, 2, 2)], (1, 6, 16, 16), 4 * 8 * 8 * 6 * 2 * 2),
        ("Relu", [(1, 4)], (1, 4), None),
        ("Conv", [(1, 3, 8, 8), None], (1, 4, 8, 8), None),
    ],
)
def test_one_node_counts_its_products(
    op_type: str, inputs: list[Any], output: tuple[int, ...], macs: int | None
) -> None:
    assert macs_of_call(op_type, inputs, output) == macs
