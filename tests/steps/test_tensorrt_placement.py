"""INT8 placed for TensorRT: what it wants of the graph, which still answers like the float one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

torch = pytest.importorskip("torch", reason="the networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="steps transform ONNX files")
pytest.importorskip("onnxruntime", reason="steps are onnxruntime's")

from tests.builders import coloured_photos, error_of, exported, train  # noqa: E402
from tests.steps.graphs import logits  # noqa: E402
from tests.steps.graphs import rms_drift as drift  # noqa: E402
from workbench.model.graph.node_names import prepare  # noqa: E402
from workbench.model.graph.onnx_file import describe  # noqa: E402
from workbench.model.graph.roles import Wiring, wiring_of  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps import Photos, apply, check_sequence  # noqa: E402
from workbench.steps.fold import FoldPreprocess  # noqa: E402
from workbench.steps.int8.layer_sensitivity import layers  # noqa: E402
from workbench.steps.int8.settings import StaticInt8  # noqa: E402
from workbench.steps.int8.static import static_int8  # noqa: E402

pytestmark = pytest.mark.integration

CLASSES = 6
CONTRACT = Preprocess(resize=24, crop=24, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
nn = torch.nn


def step(**fields: Any) -> StaticInt8:
    given = {"use": "static_int8", "placement": "tensorrt", "calibration": {"images": 24}, **fields}
    return StaticInt8.model_validate(given)


class Residual(nn.Module):  # type: ignore[name-defined,misc]
    """What ResNets and MobileNets are made of: an identity skip, a projected one behind a pool, depthwise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.pool = nn.Conv2d(3, 12, 3, 2, 1), nn.MaxPool2d(2)
        self.one, self.two = nn.Conv2d(12, 12, 3, 1, 1), nn.Conv2d(12, 12, 3, 1, 1)
        self.down, self.back = nn.Conv2d(12, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.shrink, self.skip = nn.AvgPool2d(2), nn.Conv2d(12, 16, 1)
        self.depthwise, self.point = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 16, 1, bias=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Any) -> Any:
        x = self.pool(self.stem(x).relu())
        x = (x + self.two(self.one(x).relu())).relu()
        x = (self.back(self.down(x).relu()) + self.skip(self.shrink(x))).relu()
        x = x + self.point(self.depthwise(x).relu())
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):  # type: ignore[name-defined,misc]
    """Products of two activations between products with stored weights, and concatenation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.other = nn.Conv2d(3, 16, 8, 8), nn.Conv2d(3, 16, 8, 8)
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Any) -> Any:
        x = torch.cat([self.patch(x), self.other(x).relu()], 1).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).split(32, 2)
        return self.head((x + self.out((q @ k.transpose(1, 2) / 6).softmax(-1) @ v)).mean(1))


class SqueezeExcite(nn.Module):  # type: ignore[name-defined,misc]
    """A block of MobileNetV3: hard-swish around a depthwise convolution, a gate over its channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand, self.depthwise = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.project, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, CLASSES)
        self.act, self.gate = nn.Hardswish(), nn.Hardsigmoid()

    def forward(self, x: Any) -> Any:
        x = self.act(self.depthwise(self.act(self.expand(x))))
        x = x * self.gate(self.up(self.down(self.pool(x)).relu()))
        return self.head(self.project(x).mean((2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("placement")


@pytest.fixture(scope="module")
def photos(folder: Path) -> Images:
    return coloured_photos(folder, 72, CLASSES, CONTRACT, spread=30)


@pytest.fixture(scope="module")
def samples(photos: Images) -> NDArray[np.float32]:
    return normalize(photos.pixels()[:], CONTRACT)


@pytest.fixture(scope="module")
def trained(photos: Images) -> Any:
    return train(Residual(), photos, 0.01)


@pytest.fixture(scope="module")
def source(folder: Path, trained: Any) -> Path:
    return exported(trained, folder / "residual.onnx", 24)


@pytest.fixture
def made(tmp_path: Path, source: Path, photos: Images) -> Callable[..., Path]:
    def make(given: Path = source, **fields: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        static_int8(step(**fields), given, path, photos)
        onnx.checker.check_model(str(path), full_check=True)
        return path

    return make


def agreement(source: Path, result: Path, samples: NDArray[np.float32]) -> float:
    before, after = logits(source, samples), logits(result, samples)
    return float((before.argmax(1) == after.argmax(1)).mean())


def array(wiring: Wiring, name: str) -> NDArray[Any]:
    values: NDArray[Any] = onnx.numpy_helper.to_array(wiring.constants[name])
    return values


def wired(path: Path) -> tuple[dict[str, Any], Wiring]:
    """The nodes by name, and the wiring."""
    model = onnx.load(path)
    return {node.name: node for node in model.graph.node}, wiring_of(model)


def makers(node: Any, wiring: Wiring) -> list[str]:
    """What makes each input of a node."""
    return [wiring.maker[name].op_type if name in wiring.maker else "stored" for name in node.input]


def as_tensorrt_wants_it(path: Path, weighted: int) -> None:
    """The rules of explicit quantisation, checked on every node of a file."""
    nodes, wiring = wired(path)
    found = [n for n in nodes.values() if n.op_type in ("Conv", "Gemm", "MatMul") and wiring.constants]
    found = [n for n in found if makers(n, wiring)[1] == "DequantizeLinear"]
    assert len(found) == weighted
    for node in found:
        assert makers(node, wiring)[:2] == ["DequantizeLinear"] * 2
        assert all(name in wiring.constants for name in node.input[2:])  # the bias, in float
        levels, scale, zero = wiring.maker[node.input[1]].input
        axis = next(a.i for a in wiring.maker[node.input[1]].attribute if a.name == "axis")
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        assert axis == (0 if node.op_type == "Conv" or transposed else 1)
        assert array(wiring, levels).dtype == np.int8
        assert array(wiring, scale).shape == array(wiring, zero).shape == (array(wiring, levels).shape[axis],)
        assert np.abs(array(wiring, levels).astype(int)).max() == 127
        assert wiring.maker[wiring.maker[node.input[0]].input[0]].op_type == "QuantizeLinear"
    pairs = [n for n in nodes.values() if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        scale, zero = (array(wiring, name) for name in node.input[1:])
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        assert np.isfinite(scale).all()
    read = [n.input[0] for n in pairs if n.op_type == "QuantizeLinear"]
    assert len(read) == len(set(read))  # no tensor has two pairs
    for node in pairs:  # none on outputs
        readers = {reader.op_type for reader in wiring.readers[node.output[0]]}
        wanted = {"Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool"}
        assert readers <= (wanted if node.op_type == "DequantizeLinear" else {"DequantizeLinear"})
    floats = {n.data_type for n in wiring.constants.values()} - {onnx.TensorProto.INT64}
    assert onnx.TensorProto.INT32 not in floats


@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 13), ("torchscript", 17), ("dynamo", 20)])
def test_every_convolution_and_product_reads_int8_and_writes_float(
    tmp_path: Path,
    trained: Any,
    samples: NDArray[np.float32],
    made: Callable[..., Path],
    exporter: str,
    opset: int,
) -> None:
    source = exported(trained, tmp_path / "m.onnx", 24, exporter=exporter, opset=opset)
    result = made(source)
    as_tensorrt_wants_it(result, weighted=9)
    facts = describe(result)
    assert (facts.opset, facts.precision) == (opset, "int8")
    assert drift(source, result, samples) < 0.05


def test_the_answers_are_as_good_as_with_onnxruntimes_own_placement(
    source: Path, samples: NDArray[np.float32], made: Callable[..., Path]
) -> None:
    ours = made()
    theirs = made(placement="onnxruntime", activation="int8")
    assert drift(source, ours, samples) < 1.1 * drift(source, theirs, samples)
    assert agreement(source, ours, samples) >= agreement(source, theirs, samples) - 1 / 72
    assert agreement(source, ours, samples) > 0.97


def test_the_skip_of_an_addition_is_quantised_and_the_convolution_before_it_is_not(
    made: Callable[..., Path],
) -> None:
    nodes, wiring = wired(made())
    adds = [node for node in nodes.values() if node.op_type == "Add"]
    assert [sorted(makers(node, wiring)) for node in adds] == [["Conv", "DequantizeLinear"]] * 3
    direct = [wiring.maker[name].name for node in adds for name in node.input if "Conv" in name]
    assert {name.split("/")[1] for name in direct if name in nodes} >= {"two", "back", "point"}


def test_skip_and_convolution_share_one_pair(made: Callable[..., Path]) -> None:
    nodes, wiring = wired(made())
    first = next(node for node in nodes.values() if node.op_type == "Add")
    shared = next(name for name in first.input if wiring.maker[name].op_type == "DequantizeLinear")
    assert shared == nodes["/one/Conv"].input[0]
    assert Counter(node.op_type for node in wiring.readers[shared]) == {"Conv": 1, "Add": 1}


def test_a_projected_skip_is_rounded_behind_its_convolution(made: Callable[..., Path]) -> None:
    """Both branches come from a convolution: the longer one is fused, the shorter one is rounded."""
    nodes, wiring = wired(made())
    second = [node for node in nodes.values() if node.op_type == "Add"][1]
    rounded = next(name for name in second.input if wiring.maker[name].op_type == "DequantizeLinear")
    before = wiring.maker[wiring.maker[rounded].input[0]].input[0]
    assert wiring.maker[before].name == "/skip/Conv"


def test_only_an_average_pool_between_pairs_computes_in_int8(made: Callable[..., Path]) -> None:
    nodes, wiring = wired(made())
    assert makers(nodes["/shrink/AveragePool"], wiring) == ["DequantizeLinear"]
    assert makers(nodes["/pool/MaxPool"], wiring) == ["Relu"]
    assert all(makers(n, wiring) != ["DequantizeLinear"] for n in nodes.values() if n.op_type == "Relu")


def test_the_gate_of_a_squeeze_and_excitation_block_is_applied_in_int8(
    tmp_path: Path, samples: NDArray[np.float32], made: Callable[..., Path]
) -> None:
    source = exported(SqueezeExcite(), tmp_path / "m.onnx", 24)
    result = made(source)
    as_tensorrt_wants_it(result, weighted=6)
    nodes, wiring = wired(result)
    products = [makers(node, wiring) for node in nodes.values() if node.op_type == "Mul"]
    assert products.count(["DequantizeLinear"] * 2) == 1  # and no hard-swish
    assert len(products) > 1
    pool = nodes["/pool/GlobalAveragePool"]
    (gated,) = (n for n in nodes.values() if n.op_type == "Mul" and pool.input[0] in n.input)
    assert makers(gated, wiring) == ["DequantizeLinear"] * 2
    assert drift(source, result, samples) < 0.1
    plain = made(source, exclude_roles=["squeeze_excite"])
    as_tensorrt_wants_it(plain, weighted=4)
    assert ["DequantizeLinear"] * 2 not in [
        makers(n, wired(plain)[1]) for n in wired(plain)[0].values() if n.op_type == "Mul"
    ]


def test_additions_stay_in_float_where_the_recipe_says_so(
    source: Path, samples: NDArray[np.float32], made: Callable[..., Path]
) -> None:
    result = made(exclude_op_types=["Add"])
    nodes, wiring = wired(result)
    assert not [n for n in nodes.values() if n.op_type == "Add" and "DequantizeLinear" in makers(n, wiring)]
    as_tensorrt_wants_it(result, weighted=9)
    assert drift(source, result, samples) < 0.05


def test_attention_keeps_its_products_and_concatenation_in_float(
    tmp_path: Path, samples: NDArray[np.float32], made: Callable[..., Path]
) -> None:
    source = exported(Attention(), tmp_path / "m.onnx", 24)
    result = made(source)
    as_tensorrt_wants_it(result, weighted=5)
    nodes, wiring = wired(result)
    products = [n for n in nodes.values() if n.op_type == "MatMul"]
    assert sum("DequantizeLinear" not in makers(n, wiring) for n in products) == 2
    joined = next(n for n in nodes.values() if n.op_type == "Concat" and "Conv" in n.input[0])
    assert "DequantizeLinear" not in makers(joined, wiring)
    assert not any("DequantizeLinear" in makers(n, wiring) for n in nodes.values() if n.op_type == "Add")
    assert drift(source, result, samples) < 0.05


@pytest.mark.parametrize(
    "fields",
    [
        {"calibration": {"images": 24, "method": "entropy"}},
        {"calibration": {"images": 24, "method": "percentile"}},
        {"bias_correction": True},
        {"equalize": True, "bias_correction": True},
        {"op_types": ["Conv", "Gemm", "Add"]},
    ],
    ids=lambda fields: ",".join(f"{k}" for k in fields),
)
def test_the_other_options_go_on_working(
    source: Path, samples: NDArray[np.float32], made: Callable[..., Path], fields: dict[str, Any]
) -> None:
    result = made(**fields)
    as_tensorrt_wants_it(result, weighted=9)
    assert drift(source, result, samples) < 0.06


def test_bias_correction_takes_back_the_mean_shift(
    source: Path, samples: NDArray[np.float32], made: Callable[..., Path]
) -> None:
    """Ranges that clip hard shift what every layer gives on average."""
    harsh = {"calibration": {"images": 24, "method": "percentile", "percentile": 97}}
    before = logits(source, samples).mean(0)
    plain, corrected = (
        np.abs(logits(made(**harsh, bias_correction=choice), samples).mean(0) - before).mean()
        for choice in (False, True)
    )
    assert corrected < 0.7 * plain


def test_roles_are_left_in_float(source: Path, made: Callable[..., Path]) -> None:
    result = made(exclude_roles=["first", "last", "depthwise"])
    as_tensorrt_wants_it(result, weighted=6)
    nodes, wiring = wired(result)
    for name in ("/stem/Conv", "/depthwise/Conv", "/head/Gemm"):
        assert "DequantizeLinear" not in makers(nodes[name], wiring)
    described = error_of(lambda: made(op_types=["MaxPool"]))
    assert described.message == "static_int8: nothing is left to quantise"


def test_dead_channels_have_a_scale_above_zero(
    tmp_path: Path, samples: NDArray[np.float32], made: Callable[..., Path]
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(1600, 5)
    )
    with torch.no_grad():
        network[0].weight[1] *= 0
        network[0].weight[2] *= 1e-30
        network[2].weight *= 0
        network[0].bias[1:3] = torch.tensor([3.77, -2.0])
    source = exported(network, tmp_path / "m.onnx", 24)
    assert drift(source, made(source), samples) < 0.05


def test_layers_tell_their_errors(
    tmp_path: Path, source: Path, made: Callable[..., Path], photos: Images
) -> None:
    result, prepared = made(), tmp_path / "prepared.onnx"
    prepare(source, prepared)
    found = layers(prepared, result, normalize(photos.pixels()[:4], CONTRACT), 0.5)
    assert len(found) == 9
    assert all(0 <= layer.error < 0.1 for layer in found)


def test_pixels_can_be_folded_in_afterwards(
    tmp_path: Path, source: Path, photos: Images, samples: NDArray[np.float32]
) -> None:
    given = Photos(CONTRACT, calibration=photos, samples=samples)
    check_sequence([StaticInt8(use="static_int8"), FoldPreprocess(use="fold_preprocess")])
    apply(step(), source, tmp_path / "q.onnx", given)
    apply(FoldPreprocess(use="fold_preprocess"), tmp_path / "q.onnx", tmp_path / "f.onnx", given)
    assert describe(tmp_path / "f.onnx").pixels


def test_the_rest_in_fp16(tmp_path: Path, trained: Any, photos: Images, samples: NDArray[np.float32]) -> None:
    source = exported(trained, tmp_path / "m.onnx", 24, opset=19)
    given = Photos(CONTRACT, calibration=photos, samples=samples)
    apply(step(rest="fp16"), source, tmp_path / "q.onnx", given)
    as_tensorrt_wants_it(tmp_path / "q.onnx", weighted=9)
    nodes, wiring = wired(tmp_path / "q.onnx")
    stored = Counter(tensor.data_type for tensor in wiring.constants.values())
    assert onnx.TensorProto.FLOAT not in stored
    scales = [array(wiring, n.input[1]) for n in nodes.values() if n.op_type == "DequantizeLinear"]
    assert {scale.dtype for scale in scales} == {np.dtype(np.float16)}
    assert sum(n.op_type == "Cast" for n in nodes.values()) == 2  # at the ends alone
    typed = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "q.onnx"), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    convolved = [n.output[0] for n in nodes.values() if n.op_type == "Conv"]
    assert {kinds[name] for name in convolved} == {onnx.TensorProto.FLOAT16}
    assert drift(source, tmp_path / "q.onnx", samples) < 0.05
    assert (tmp_path / "q.onnx").stat().st_size < 0.7 * source.stat().st_size


def test_what_fp16_cannot_hold_stays_in_fp32(
    tmp_path: Path, photos: Images, samples: NDArray[np.float32]
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1296, 5)),
    )
    with torch.no_grad():
        network[0].weight *= 1e6
        network[2].weight *= 1e-6
    source = exported(network, tmp_path / "m.onnx", 24, opset=19)
    given = Photos(CONTRACT, calibration=photos, samples=samples)
    apply(step(rest="fp16"), source, tmp_path / "q.onnx", given)
    typed = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "q.onnx"), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    convolved = [kinds[n.output[0]] for n in typed.graph.node if n.op_type == "Conv"]
    assert convolved == [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16]
    assert drift(source, tmp_path / "q.onnx", samples) < 0.1


def test_the_rest_in_fp16_needs_an_opset_that_has_it(source: Path, made: Callable[..., Path]) -> None:
    error = error_of(lambda: made(rest="fp16"))
    assert error.message == "static_int8.rest: INT8 beside FP16 needs opset 19 or later, the model has 17"
    assert error.hint == "raise `export.opset` to 19 or more, or set `rest: fp32`"


def test_an_opset_without_scales_per_channel_is_refused(
    tmp_path: Path, trained: Any, made: Callable[..., Path]
) -> None:
    source = exported(trained, tmp_path / "m.onnx", 24, opset=11)
    error = error_of(lambda: made(source))
    assert "needs opset 13 or later, the model has 11" in error.message
    assert error.hint == "raise `export.opset` to 13 or more"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "uint8"}, "activation uint8 is nothing for TensorRT"),
        ({"weight": "uint8"}, "weight uint8 is nothing for TensorRT"),
        ({"per_channel": False}, "per_channel false is nothing for TensorRT"),
        ({"reduce_range": True}, "reduce_range true is nothing for TensorRT"),
        ({"placement": "onnxruntime", "rest": "fp16"}, "rest fp16 needs placement tensorrt"),
    ],
)
def test_settings_that_contradict_the_placement_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        step(**fields)


def test_the_placement_implies_its_settings() -> None:
    chosen = step()
    assert (chosen.activation, chosen.symmetric_activations, chosen.per_channel) == ("int8", True, True)
    assert StaticInt8.model_validate(chosen.model_dump(mode="json")) == chosen
    assert StaticInt8.model_validate({"use": "static_int8"}).activation == "uint8"
