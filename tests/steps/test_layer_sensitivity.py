"""What each layer of an INT8 graph costs and buys, on a network small enough to know the answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="the network is written as ONNX")
onnxruntime = pytest.importorskip("onnxruntime", reason="layers are profiled in its sessions")

from onnx import numpy_helper  # noqa: E402

from tests.builders import smooth_photos  # noqa: E402
from tests.e2e.plain import network  # noqa: E402
from workbench.model.graph.node_names import prepare  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps.fold import fold_preprocess  # noqa: E402
from workbench.steps.int8.layer_sensitivity import LayerSensitivity, _switched, errors_of, layers, node_times  # noqa: E402
from workbench.steps.int8.settings import StaticInt8  # noqa: E402
from workbench.steps.int8.static import static_int8  # noqa: E402

pytestmark = pytest.mark.integration

CONTRACT = Preprocess(resize=16, crop=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
WEIGHTED = ["conv0", "conv1", "conv2", "head"]
SECONDS = 0.2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return smooth_photos(tmp_path_factory.mktemp("layers"), 8, CONTRACT)


@pytest.fixture(scope="module")
def samples(photos: Images) -> NDArray[np.float32]:
    return normalize(photos.pixels()[:], CONTRACT)


def ruined(model: Any, layer: str) -> Any:
    """In a channel that puts out nothing, a weight so large that, with one scale for all channels, the
    weights of the others round to zero."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == f"{layer}.weight":
            values[0] = 0
            values[0, 0, 0, 0] = 100 * np.abs(values).max()
        elif tensor.name == f"{layer}.bias":
            values[0] = -1e4
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def quantized(model: Any, folder: Path, photos: Images, **fields: Any) -> tuple[Path, Path]:
    """The prepared float graph and its static INT8 self."""
    source, floats, target = (folder / f"{name}.onnx" for name in ("source", "prepared", "int8"))
    onnx.save(model, source)
    step = StaticInt8.model_validate({"use": "static_int8", "calibration": {"images": 8}, **fields})
    static_int8(step, source, target, photos)
    prepare(source, floats)
    return floats, target


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, photos: Images) -> tuple[Path, Path]:
    return quantized(network(height=16, across=16), tmp_path_factory.mktemp("pair"), photos)


@pytest.fixture(scope="module")
def measured(pair: tuple[Path, Path], samples: NDArray[np.float32]) -> list[LayerSensitivity]:
    return layers(*pair, samples, SECONDS)


def test_there_is_one_layer_for_each_convolution_and_product_in_the_order_of_the_graph(
    measured: list[LayerSensitivity], pair: tuple[Path, Path]
) -> None:
    assert [layer.name for layer in measured] == WEIGHTED
    assert {layer.name for layer in measured} <= {node.name for node in onnx.load(pair[0]).graph.node}


def test_every_layer_costs_a_little_and_its_times_are_seen_in_both_graphs(
    measured: list[LayerSensitivity],
) -> None:
    assert all(0 <= layer.error < 0.1 for layer in measured)
    assert any(layer.error > 0 for layer in measured)
    for layer in measured:
        assert layer.float_ns is not None and layer.float_ns > 0
        assert layer.int8_ns is not None and layer.int8_ns > 0
        assert layer.gain_ns == layer.float_ns - layer.int8_ns


def test_a_time_that_the_profile_does_not_show_leaves_the_gain_unknown() -> None:
    assert LayerSensitivity("a", 0.1, None, 5.0).gain_ns is None
    assert LayerSensitivity("a", 0.1, 5.0, None).gain_ns is None
    assert LayerSensitivity("a", 0.1, 8.0, 5.0).gain_ns == 3.0


@pytest.mark.parametrize("layer", ["conv0", "conv2"])
def test_a_ruined_layer_has_the_largest_error(
    layer: str, tmp_path: Path, photos: Images, samples: NDArray[np.float32]
) -> None:
    model = ruined(network(height=16, across=16), layer)
    found = layers(*quantized(model, tmp_path, photos, per_channel=False), samples, SECONDS)
    assert max(found, key=lambda one: one.error).name == layer
    others = [one.error for one in found if one.name != layer]
    assert all(one.error > 3 * max(others) for one in found if one.name == layer)


def test_a_layer_left_in_float_is_not_among_them(
    tmp_path: Path, photos: Images, samples: NDArray[np.float32]
) -> None:
    model = network(height=16, across=16)
    found = layers(*quantized(model, tmp_path, photos, exclude_nodes=["conv1"]), samples, SECONDS)
    assert [layer.name for layer in found] == ["conv0", "conv2", "head"]


def test_a_graph_against_itself_has_no_layer_in_int8(
    pair: tuple[Path, Path], samples: NDArray[np.float32]
) -> None:
    floats, _ = pair
    assert layers(floats, floats, samples, SECONDS) == []


def test_switching_nothing_on_changes_no_answer(
    pair: tuple[Path, Path], samples: NDArray[np.float32]
) -> None:
    source = onnx.load(pair[0])
    model, by_layer = _switched(source, onnx.load(pair[1]))
    assert sorted(by_layer) == sorted(WEIGHTED)
    made = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def logits(switches: dict[str, Any]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = made.run(None, {"image": samples, **switches})[0]
        return answer

    plain = onnxruntime.InferenceSession(str(pair[0]), providers=["CPUExecutionProvider"])
    off = {f"quantise {name}": np.asarray(False) for name in by_layer}
    np.testing.assert_allclose(logits(off), plain.run(None, {"image": samples})[0], rtol=1e-5, atol=1e-5)
    on = {**off, "quantise conv1": np.asarray(True)}
    assert np.abs(logits(on) - logits(off)).max() > 1e-5


def test_the_error_is_of_the_probabilities(pair: tuple[Path, Path], samples: NDArray[np.float32]) -> None:
    """What is added to the logits of all classes alike changes none of them."""
    source, int8 = onnx.load(pair[0]), onnx.load(pair[1])
    for model in (source, int8):
        for tensor in model.graph.initializer:
            if tensor.name == "head.bias":
                values = numpy_helper.to_array(tensor) + 1
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    assert errors_of(source, int8, samples, SECONDS) == pytest.approx(
        errors_of(onnx.load(pair[0]), onnx.load(pair[1]), samples, SECONDS), abs=1e-6
    )


@pytest.mark.parametrize("size", [1, 3])
def test_the_fixed_batch_of_a_file_is_respected(
    size: int, tmp_path: Path, photos: Images, samples: NDArray[np.float32]
) -> None:
    model = network(height=16, across=16)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    found = layers(*quantized(model, tmp_path, photos), samples, SECONDS)
    assert [layer.name for layer in found] == WEIGHTED


def test_a_graph_that_takes_pixels_has_layers_too(tmp_path: Path, photos: Images) -> None:
    plain, pixels = tmp_path / "plain.onnx", tmp_path / "pixels.onnx"
    onnx.save(network(height=16, across=16), plain)
    fold_preprocess(plain, pixels, CONTRACT)
    raw = replace(photos, raw=True)
    found = layers(*quantized(onnx.load(pixels), tmp_path, raw), photos.pixels()[:], SECONDS)
    assert [layer.name for layer in found] == WEIGHTED


def test_a_profile_names_the_nodes_of_the_file(pair: tuple[Path, Path], samples: NDArray[np.float32]) -> None:
    times = node_times(pair[1], samples[:1])
    assert {"conv0", "conv1", "conv2"} <= set(times)
    assert all(time >= 0 for time in times.values())
