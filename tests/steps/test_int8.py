"""Static INT8: what each option does to the file and to the answers, on networks small enough to know."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

torch = pytest.importorskip("torch", reason="the networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="steps transform ONNX files")
pytest.importorskip("onnxruntime", reason="steps are onnxruntime's")

from tests.builders import error_of, exported, smooth_photos  # noqa: E402
from tests.steps.graphs import logits  # noqa: E402
from tests.steps.graphs import rms_drift as drift  # noqa: E402
from workbench.model.graph.node_names import prepare  # noqa: E402
from workbench.model.graph.onnx_file import describe  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps.int8.bias import correct_biases  # noqa: E402
from workbench.steps.int8.equalize import equalize  # noqa: E402
from workbench.steps.int8.settings import StaticInt8  # noqa: E402
from workbench.steps.int8.static import static_int8  # noqa: E402

pytestmark = pytest.mark.integration

CONTRACT = Preprocess(resize=16, crop=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
nn = torch.nn


def step(**fields: Any) -> StaticInt8:
    return StaticInt8.model_validate({"use": "static_int8", "calibration": {"images": 8}, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8")


@pytest.fixture(scope="module")
def photos(folder: Path) -> Images:
    return smooth_photos(folder, 12, CONTRACT)


@pytest.fixture(scope="module")
def samples(photos: Images) -> NDArray[np.float32]:
    return normalize(photos.pixels()[:], CONTRACT)


class Block(nn.Module):  # type: ignore[name-defined,misc]
    """Depthwise between pointwise, a residual addition, and channels of very different size."""

    def __init__(self, act: Callable[[], Any] = nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.project, self.expand = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.head, self.act = nn.Linear(16, 5), act()
        with torch.no_grad():
            factors = 10.0 ** torch.linspace(-2, 1, 8)
            self.stem.weight *= factors[:, None, None, None]
            self.stem.bias *= factors
            self.depthwise.weight /= factors[:, None, None, None]
            self.head.weight *= 20

    def forward(self, x: Any) -> Any:
        x = self.act(self.depthwise(self.act(self.stem(x))))
        x = self.act(self.expand(x + self.project(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return exported(Block(), folder / "block.onnx", 16)


@pytest.fixture
def made(tmp_path: Path, source: Path, photos: Images) -> Callable[..., Path]:
    def make(**fields: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        static_int8(step(**fields), source, path, photos)
        return path

    return make


def tensors(path: Path) -> dict[str, NDArray[Any]]:
    graph = onnx.load(path).graph
    return {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}


def quantized_nodes(path: Path) -> list[str]:
    """Op types of the Conv and Gemm whose weights are stored in INT8, in graph order."""
    graph = onnx.load(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return [node.name for node in weighted if makers.get(node.input[1]) == "DequantizeLinear"]


def test_symmetric_activations_have_their_zero_in_the_middle(made: Callable[..., Path]) -> None:
    path = made(activation="int8")
    values = tensors(path)
    zeros = [values[n.input[2]] for n in onnx.load(path).graph.node if n.op_type == "QuantizeLinear"]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"activation": "int8"},
        {"reduce_range": True},
        {"per_channel": False, "equalize": True},
        {"bias_correction": True},
        {"calibration": {"images": 1}},
        {"bias_correction": True, "equalize": True},
        {"weight": "uint8"},
        {"op_types": ["Conv", "Gemm"]},
        {"exclude_roles": ["first", "last"]},
    ],
    ids=lambda fields: ",".join(fields) or "defaults",
)
def test_every_option_gives_a_network_close_to_the_float_one(
    made: Callable[..., Path], source: Path, samples: NDArray[np.float32], fields: dict[str, Any]
) -> None:
    result = made(**fields)
    assert describe(result).precision == "int8"
    assert drift(source, result, samples) < 0.25


def test_reduced_range_keeps_weights_within_7_bits(made: Callable[..., Path]) -> None:
    weights = [v for v in tensors(made(reduce_range=True)).values() if v.dtype == np.int8 and v.ndim > 1]
    assert weights
    assert max(abs(v.astype(int)).max() for v in weights) <= 64
    whole = [v for v in tensors(made()).values() if v.dtype == np.int8 and v.ndim > 1]
    assert max(abs(v.astype(int)).max() for v in whole) == 127


def test_roles_left_in_float(made: Callable[..., Path]) -> None:
    everything = quantized_nodes(made())
    assert quantized_nodes(made(exclude_roles=["first", "last"])) == everything[1:-1]
    kept = [name for name in everything if name != "/depthwise/Conv"]
    assert quantized_nodes(made(exclude_roles=["depthwise"])) == kept
    assert quantized_nodes(made(exclude_roles=["squeeze_excite", "hardswish"])) == everything  # it has none


def test_op_types_leave_the_rest_in_float(made: Callable[..., Path]) -> None:
    result = made(op_types=["Conv"])
    assert quantized_nodes(result) == quantized_nodes(made())[:-1]
    assert not any(node.op_type == "Relu" for node in onnx.load(result).graph.node)  # part of the ranges
    names = {node.name for node in onnx.load(result).graph.node if node.op_type == "QuantizeLinear"}
    assert not any("logits" in name for name in names)


def test_logits_are_not_rounded_to_256_levels(made: Callable[..., Path]) -> None:
    graph = onnx.load(made()).graph
    last = next(node for node in graph.node if graph.output[0].name in node.output)
    assert last.op_type == "Gemm"
    assert last.name in quantized_nodes(made())
    used = {name for node in graph.node for name in node.input}
    assert used >= {weight.name for weight in graph.initializer}


@pytest.mark.parametrize("act", [nn.ReLU, nn.Identity])
def test_equalising_keeps_the_float_function_and_evens_the_channels(
    tmp_path: Path, samples: NDArray[np.float32], act: Callable[[], Any]
) -> None:
    path = exported(Block(act), tmp_path / "m.onnx", 16)
    model = prepare(path, tmp_path / "prepared.onnx")
    # The residual addition reads the depthwise output, so only stem -> depthwise is a pair.
    assert equalize(model) == 1
    onnx.save(model, tmp_path / "equal.onnx")
    assert drift(path, tmp_path / "equal.onnx", samples) < 1e-5
    before, after = (
        spread(file, "/stem/Conv") for file in (tmp_path / "prepared.onnx", tmp_path / "equal.onnx")
    )
    assert after < before / 10


def spread(path: Path, name: str) -> float:
    """Largest over smallest channel of a convolution's weights."""
    node = next(node for node in onnx.load(path).graph.node if node.name == name)
    largest = np.abs(tensors(path)[node.input[1]]).max(axis=(1, 2, 3))
    return float(largest.max() / largest.min())


def test_equalising_through_grouped_convolutions_keeps_the_function(
    tmp_path: Path, samples: NDArray[np.float32]
) -> None:
    torch.manual_seed(0)
    grouped = [nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 6, 1, groups=2)]
    trunk = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), *grouped, nn.ReLU(), nn.Conv2d(6, 5, 3)]
    network = nn.Sequential(*trunk, nn.Flatten(), nn.Linear(500, 5))
    path = exported(network, tmp_path / "m.onnx", 16)
    model = prepare(path, tmp_path / "prepared.onnx")
    assert equalize(model) == 3
    onnx.save(model, tmp_path / "equal.onnx")
    assert drift(path, tmp_path / "equal.onnx", samples) < 1e-5


def test_nothing_is_equalised_around_relu6(tmp_path: Path) -> None:
    path = exported(Block(nn.ReLU6), tmp_path / "m.onnx", 16)
    assert equalize(prepare(path, tmp_path / "prepared.onnx")) == 0


def test_equalising_saves_a_network_that_per_tensor_weights_would_spoil(
    made: Callable[..., Path], source: Path, samples: NDArray[np.float32]
) -> None:
    plain, equal = made(per_channel=False), made(per_channel=False, equalize=True)
    assert drift(source, equal, samples) < 0.5 * drift(source, plain, samples)


def test_bias_correction_takes_back_the_mean_shift(tmp_path: Path, photos: Images) -> None:
    """Coarse weights shift a layer's outputs; after correction the means are those of the float layer."""
    torch.manual_seed(0)
    path = exported(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(1176, 5)), tmp_path / "m.onnx", 16
    )
    static_int8(step(per_channel=False), path, tmp_path / "q.onnx", photos)
    model = prepare(path, tmp_path / "prepared.onnx")
    quantized = onnx.load(tmp_path / "q.onnx")
    weights = next(w for w in quantized.graph.initializer if list(w.dims) == [6, 3, 3, 3])
    coarse = np.round(onnx.numpy_helper.to_array(weights) / 100.0).astype(np.int8) * 100
    weights.CopyFrom(onnx.numpy_helper.from_array(coarse, weights.name))
    bias = {node.name: node.input[2] for node in model.graph.node if node.op_type == "Conv"}
    (name,) = bias
    before = tensors(tmp_path / "prepared.onnx")
    assert correct_biases(model, quantized, photos, 12) == 2
    node = next(node for node in model.graph.node if node.name == name)
    after = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}[node.input[2]]
    # By hand: quantised photos through coarse weights, against the float layer.
    batch = normalize(photos.pixels()[:], CONTRACT)
    step_of_input = np.float32((batch.max() - batch.min()) / 255)
    read = np.round(batch / step_of_input) * step_of_input
    scale = tensors(tmp_path / "q.onnx")[f"{weights.name.removesuffix('_quantized')}_scale"]
    convolved = [
        nn.functional.conv2d(torch.tensor(x), torch.tensor(w).float())
        for x, w in ((read, coarse * scale), (batch, before[node.input[1]]))
    ]
    shift = (convolved[0] - convolved[1]).mean((0, 2, 3)).numpy()
    assert np.abs(shift).max() > 0.01
    assert before[bias[name]] - after == pytest.approx(shift, abs=1e-3)


def test_a_bias_is_added_where_there_is_none(tmp_path: Path, photos: Images) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(1176, 5, bias=False)
    )
    path = exported(network, tmp_path / "m.onnx", 16)
    static_int8(step(bias_correction=True), path, tmp_path / "q.onnx", photos)
    conv = next(node for node in onnx.load(tmp_path / "q.onnx").graph.node if node.op_type == "Conv")
    assert len(conv.input) == 3


@pytest.mark.parametrize("weight", ["int8", "uint8"])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20])
def test_dead_channels_with_large_biases_stay_right(
    tmp_path: Path, photos: Images, samples: NDArray[np.float32], weight: str, size: float
) -> None:
    """onnxruntime #11415: the scale of a channel without weights made its bias overflow int32."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(576, 5)
    )
    with torch.no_grad():
        network[0].weight[1:4] *= size
        network[0].bias[1:4] = torch.tensor([3.77, -2.0, 0.0])
    path = exported(network, tmp_path / "m.onnx", 16)
    static_int8(step(weight=weight), path, tmp_path / "q.onnx", photos)
    assert drift(path, tmp_path / "q.onnx", samples) < 0.05
    scales = [v for name, v in tensors(tmp_path / "q.onnx").items() if name.endswith("_scale")]
    assert min(float(v.min()) for v in scales) > 1e-12


def test_a_bias_that_its_scale_cannot_hold_gets_a_wider_one(
    tmp_path: Path, photos: Images, samples: NDArray[np.float32]
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 5))
    with torch.no_grad():
        network[0].weight *= 1e-7
        network[0].bias[:] = torch.tensor([1000.0, 2000.0, 0.0, 4000.0])
    path = exported(network, tmp_path / "m.onnx", 16)
    static_int8(step(weight="uint8"), path, tmp_path / "q.onnx", photos)
    before, after = logits(path, samples), logits(tmp_path / "q.onnx", samples)
    assert after == pytest.approx(before, rel=0.03, abs=float(np.abs(before).max()) * 0.03)


def test_photos_of_one_colour_give_usable_scales(tmp_path: Path, source: Path) -> None:
    black = Preprocess(resize=16, crop=16, mean=(0, 0, 0), std=(1, 1, 1))
    for value in (0, 128, 255):
        np.save(tmp_path / "pixels.npy", np.full((8, 16, 16, 3), value, np.uint8))
        plain = Images(tmp_path / "pixels.npy", tuple(range(8)), black, "digest")
        for method in ("minmax", "entropy", "percentile"):
            result = tmp_path / f"{value}-{method}.onnx"
            static_int8(step(calibration={"images": 8, "method": method}), source, result, plain)
            scales = [v for name, v in tensors(result).items() if name.endswith("_scale")]
            assert all(np.isfinite(v).all() and (v > 0).all() for v in scales)


def test_photos_that_preprocessing_makes_infinite_are_refused(
    tmp_path: Path, source: Path, photos: Images
) -> None:
    tiny = CONTRACT.model_copy(update={"std": (1e-42, 1e-42, 1e-42)})
    broken = Images(photos.path, photos.labels, tiny, "digest")
    with np.errstate(all="ignore"):
        error = error_of(lambda: static_int8(step(), source, tmp_path / "m.onnx", broken))
    assert "a calibration photo is not finite" in error.message
    assert "preprocess.std" in (error.hint or "")


def test_an_old_opset_is_refused_with_the_one_needed(tmp_path: Path, photos: Images) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 5))
    path = exported(network, tmp_path / "m.onnx", 16, opset=9)
    for old in (step(), step(per_channel=False)):
        error = error_of(partial(static_int8, old, path, tmp_path / "q.onnx", photos))
        assert error.message == "static_int8: INT8 needs opset 10 or later, the model has 9"


def test_a_network_without_products_is_refused(tmp_path: Path, photos: Images) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU())
    path = exported(network, tmp_path / "m.onnx", 16)
    error = error_of(lambda: static_int8(step(), path, tmp_path / "q.onnx", photos))
    assert error.message.startswith("static_int8: the graph has no Conv, Gemm or MatMul")


def test_a_name_that_fits_nothing_is_an_error_that_names_the_field(made: Callable[..., Path]) -> None:
    error = error_of(lambda: made(exclude_nodes=["/stem/Cov"]))
    assert error.message == "static_int8.exclude_nodes: no node is named `/stem/Cov`"
    assert (error.hint or "").startswith("did you mean `/stem/Conv`")


def test_leaving_everything_out_is_an_error(made: Callable[..., Path]) -> None:
    error = error_of(lambda: made(exclude_nodes=["*"]))
    assert error.message == "static_int8: nothing is left to quantise"
    error = error_of(lambda: made(op_types=["HardSwish"]))
    assert error.message == "static_int8.op_types: `HardSwish` cannot be quantised"


@pytest.mark.parametrize(
    "bad",
    [
        {"op_types": []},
        {"exclude_roles": ["middle"]},
        {"calibration": {"method": "distribution"}},
        {"format": "qoperator"},
        {"overrides": [{"nodes": ["a"], "method": "minmax"}]},
        {"activation": "int8", "weight": "uint8"},
    ],
)
def test_a_slip_in_the_recipe_is_found_before_anything_runs(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        step(**bad)
