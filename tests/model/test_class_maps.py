"""A network with its head at each place: the maps are what they should be, whatever an exporter wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="networks are ONNX files")
pytest.importorskip("onnxruntime", reason="networks are run in onnxruntime")

from tests.builders import onnx_model, small_classifier  # noqa: E402
from workbench.backends.common import open_cpu  # noqa: E402
from workbench.backends.heat_map import split_maps  # noqa: E402
from workbench.errors import Unsuited  # noqa: E402
from workbench.model.graph.class_maps import STEP, with_class_maps  # noqa: E402

SIDE, CHANNELS, HIDDEN, CLASSES = 6, 5, 7, 4
RNG = np.random.default_rng(3)
PHOTOS = RNG.normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
KERNEL = RNG.normal(size=(CHANNELS, 3, 3, 3)).astype(np.float32)
WEIGHT = RNG.normal(size=(CLASSES, CHANNELS)).astype(np.float32)
BIAS = RNG.normal(size=CLASSES).astype(np.float32)
Floats = NDArray[np.float64]


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs.split(), [output], **attributes)


FEATURES = [node("Conv", "x kernel", "conv", pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", "conv", "f")]
WEIGHTS = {"kernel": KERNEL, "w": WEIGHT, "b": BIAS, "w4": WEIGHT[:, :, None, None]}


def network(head: Sequence[Any], *, opset: int = 17, batch: int | str = "n", **weights: Any) -> Any:
    """A convolution, ReLU (`f`) and a head that ends in `y`."""
    used = {name for one in head for name in one.input}
    known = {name: value for name, value in (WEIGHTS | weights).items() if name in used | {"kernel"}}
    shapes = ("x", [batch, 3, SIDE, SIDE]), ("y", [batch, CLASSES])
    return onnx_model([*FEATURES, *head], known, *shapes, opset=opset)


def values(model: Any, name: str, photos: Any = PHOTOS) -> Floats:
    """A tensor of the network, in double precision."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    if name not in [output.name for output in opened.graph.output]:
        opened.graph.output.append(onnx.ValueInfoProto(name=name))
    found: Floats = open_cpu(opened).run([name], {"x": photos})[0].astype(np.float64)
    return found


def maps_of(model: Any, photos: Any = PHOTOS) -> tuple[Any, Any, float]:
    """The answers and maps, and the step."""
    made = with_class_maps(model, photos)
    assert made.grid == (3, 3)
    (outputs,) = open_cpu(made.model).run(None, {"x": photos})
    answers, maps = split_maps(outputs, CLASSES, made.grid, made.step)
    return answers, maps, made.step


GEMM = node("Gemm", "flat w b", "y", transB=1)
HEADS = {
    "global average pool, flatten": [node("GlobalAveragePool", "f", "p"), node("Flatten", "p", "flat"), GEMM],
    "mean without its axes": [node("ReduceMean", "f", "flat", axes=[2, 3], keepdims=0), GEMM],
    "mean by negative axes": [node("ReduceMean", "f", "flat", axes=[-1, -2], keepdims=0), GEMM],
    "mean, squeeze": [node("ReduceMean", "f", "p", axes=[2, 3]), node("Squeeze", "p axes", "flat"), GEMM],
    "average pool over all": [
        node("AveragePool", "f", "p", kernel_shape=[3, 3]),
        node("Flatten", "p", "flat"),
        GEMM,
    ],
    "convolution": [
        node("GlobalAveragePool", "f", "p"),
        node("Conv", "p w4 b", "q"),
        node("Flatten", "q", "y"),
    ],
    "dropout, product and sum": [
        node("GlobalAveragePool", "f", "p"),
        node("Dropout", "p", "d"),
        node("Flatten", "d", "flat"),
        node("Transpose", "w", "wt", perm=[1, 0]),
        node("MatMul", "flat wt", "product"),
        node("Add", "product b", "y"),
    ],
    "channels last": [
        node("Transpose", "f", "last", perm=[0, 2, 3, 1]),
        node("ReduceMean", "last", "flat", axes=[1, 2], keepdims=0),
        GEMM,
    ],
    "sizes from the pooled tensor": [
        node("GlobalAveragePool", "f", "p"),
        node("Shape", "p", "shape"),
        node("Gather", "shape zero", "first"),
        node("Concat", "first rest", "wanted", axis=0),
        node("Reshape", "p wanted", "flat"),
        GEMM,
    ],
}
NUMBERS = {"axes": np.array([2, 3]), "zero": np.array([0]), "rest": np.array([-1])}


@pytest.mark.parametrize("head", HEADS)
def test_the_maps_are_the_weighted_sums_of_the_feature_map(head: str) -> None:
    model = network(HEADS[head], **NUMBERS)
    features, before = values(model, "f"), values(model, "y")
    answers, maps, step = maps_of(model)
    assert step == 1
    expected = np.einsum("ck,nkhw->nchw", WEIGHT.astype(np.float64), features) + BIAS[:, None, None]
    np.testing.assert_allclose(maps, expected, atol=1e-4)
    np.testing.assert_allclose(answers, before, atol=1e-6)
    np.testing.assert_allclose(maps.mean((2, 3)), before, atol=1e-4)


def test_axes_that_are_an_input_are_read_too() -> None:
    mean = node("ReduceMean", "f axes", "flat", keepdims=0)
    answers, maps, _ = maps_of(network([mean, GEMM], opset=18, **NUMBERS))
    np.testing.assert_allclose(maps.mean((2, 3)), answers, atol=1e-4)


def test_a_head_written_for_a_batch_of_one_takes_every_place() -> None:
    head = [node("GlobalAveragePool", "f", "p"), node("Reshape", "p size", "flat"), GEMM]
    model = network(head, batch=1, size=np.array([1, CHANNELS]))
    answers, maps, _ = maps_of(model, PHOTOS[:1])
    np.testing.assert_allclose(maps.mean((2, 3)), answers, atol=1e-4)


def test_a_softmax_at_the_end_is_left_out_of_the_maps() -> None:
    head = [*HEADS["global average pool, flatten"][:2], node("Gemm", "flat w b", "scores", transB=1)]
    model = network([*head, node("Softmax", "scores", "y", axis=1)])
    scores = values(model, "scores")
    answers, maps, _ = maps_of(model)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(maps.mean((2, 3)), scores, atol=1e-4)


def test_a_hidden_layer_gives_the_maps_of_grad_cam() -> None:
    first, second = RNG.normal(size=(HIDDEN, CHANNELS)), RNG.normal(size=(CLASSES, HIDDEN))
    head = [
        node("GlobalAveragePool", "f", "p"),
        node("Flatten", "p", "flat"),
        node("Gemm", "flat w1", "hidden", transB=1),
        node("HardSwish", "hidden", "bent"),
        node("Gemm", "bent w2 b", "y", transB=1),
    ]
    model = network(head, w1=first, w2=second)
    features, hidden, before = (values(model, name) for name in ("f", "hidden", "y"))
    answers, maps, step = maps_of(model)
    assert step == STEP
    # The gradient of hard-swish: 0 below -3, 1 above 3, (2 x + 3)/6 between.
    bent = np.where(np.abs(hidden) >= 3, hidden > 0, (2 * hidden + 3) / 6)
    gradient = np.einsum("cm,nm,mk->nck", second, bent, first)
    away = features - features.mean((2, 3), keepdims=True)
    expected = before[:, :, None, None] + np.einsum("nck,nkhw->nchw", gradient, away)
    np.testing.assert_allclose(answers, before, atol=1e-5)
    np.testing.assert_allclose(maps, expected, atol=0.1 * np.abs(expected).max())
    np.testing.assert_allclose(maps.mean((2, 3)), before, atol=0.05 * np.abs(before).max())


def quantised(name: str) -> list[Any]:
    """`name` rounded to 8 bits as `name_dq`."""
    return [
        node("QuantizeLinear", f"{name} {name}_scale zero_point", f"{name}_q"),
        node("DequantizeLinear", f"{name}_q {name}_scale zero_point", f"{name}_dq"),
    ]


def test_the_mean_that_was_rounded_to_8_bits_does_not_cut_the_peaks_off() -> None:
    """As onnxruntime's quantiser writes it: the range of the pooled values ends below the highest places."""
    head = [
        *quantised("f"),
        node("GlobalAveragePool", "f_dq", "p"),
        *quantised("p"),
        node("Flatten", "p_dq", "flat"),
        node("DequantizeLinear", "w_int w_scale w_zero", "w_dq"),
        node("Gemm", "flat w_dq b", "y", transB=1),
    ]
    plain = network(HEADS["global average pool, flatten"])
    weights = {
        "f_scale": np.array(values(plain, "f").max() / 255),
        "p_scale": np.array(values(plain, "p").max() / 255),
        "zero_point": np.array(0, np.uint8),
        "w_scale": np.array(np.abs(WEIGHT).max() / 127),
        "w_zero": np.array(0, np.int8),
        "w_int": np.rint(WEIGHT / (np.abs(WEIGHT).max() / 127)).astype(np.int8),
    }
    _, exact, _ = maps_of(plain)
    model = network(head, **weights)
    before = values(model, "y")
    answers, maps, step = maps_of(model)
    assert step == 1
    np.testing.assert_allclose(answers, before, atol=1e-5)
    np.testing.assert_allclose(maps, exact, atol=0.05 * np.abs(exact).max())


def test_the_network_that_is_served_is_not_changed_and_any_batch_goes(tmp_path: Path) -> None:
    artifact = small_classifier(tmp_path, 8, 3, 4)
    photos = RNG.normal(size=(5, 3, 8, 8)).astype(np.float32)
    made = with_class_maps(onnx.load(artifact.path), photos[:1])
    (outputs,) = open_cpu(made.model).run(None, {"x": photos})
    (plain,) = open_cpu(artifact.path).run(None, {"x": photos})
    answers, maps = split_maps(outputs, 3, made.grid, made.step)
    np.testing.assert_array_equal(answers, plain)
    assert maps.shape == (5, 3, 8, 8)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param([node("Flatten", "f", "flat"), node("Gemm", "flat wide b", "y")], id="no pool"),
        pytest.param(
            [
                node("GlobalAveragePool", "f", "p"),
                node("GlobalMaxPool", "f", "m"),
                node("Add", "p m", "both"),
                node("Flatten", "both", "flat"),
                GEMM,
            ],
            id="mean and maximum",
        ),
        pytest.param(
            [
                node("GlobalAveragePool", "f", "p"),
                node("Sigmoid", "p", "gate"),
                node("Mul", "f gate", "gated"),
                node("Flatten", "gated", "flat"),
                node("Gemm", "flat wide b", "y"),
            ],
            id="the pool of a gate",
        ),
    ],
)
def test_a_network_that_does_not_end_so_is_refused(head: list[Any]) -> None:
    wide = RNG.normal(size=(CHANNELS * 9, CLASSES))
    with pytest.raises(Unsuited, match="global average pool"):
        with_class_maps(network(head, wide=wide), PHOTOS)
