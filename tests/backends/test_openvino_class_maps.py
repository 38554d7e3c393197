"""Class activation maps of an OpenVINO network are those of the ONNX file that it came from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the networks are ONNX files")
pytest.importorskip("onnxruntime", reason="maps are held against onnxruntime's")
pytest.importorskip("openvino")

from tests.builders import onnx_model, small_classifier  # noqa: E402
from workbench.backends.common import open_cpu  # noqa: E402
from workbench.backends.heat_map import split_maps  # noqa: E402
from workbench.backends.openvino.class_maps import write_class_maps  # noqa: E402
from workbench.backends.openvino.ir import GRAPH, WEIGHTS, read, save  # noqa: E402
from workbench.errors import Unsuited  # noqa: E402
from workbench.model.graph.class_maps import STEP, with_class_maps  # noqa: E402

pytestmark = pytest.mark.integration

CLASSES, SIDE = 3, 8
PHOTOS = np.random.default_rng(5).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)


def with_hidden_layer() -> Any:
    """As MobileNetV3 ends."""
    rng, node = np.random.default_rng(2), onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["f"]),
        node("GlobalAveragePool", ["f"], ["p"]),
        node("Flatten", ["p"], ["flat"]),
        node("Gemm", ["flat", "w1"], ["h"], transB=1),
        node("HardSwish", ["h"], ["s"]),
        node("Gemm", ["s", "w2"], ["y"], transB=1),
    ]
    weights = {
        "k": rng.normal(size=(4, 3, 3, 3)),
        "w1": rng.normal(size=(6, 4)),
        "w2": rng.normal(size=(CLASSES, 6)),
    }
    return onnx_model(nodes, weights, ("x", ["n", 3, SIDE, SIDE]), ("y", ["n", CLASSES]))


def openvino_maps(model: Any, folder: Path) -> tuple[Any, Any, float]:
    import openvino

    save(read(model.SerializeToString(), "model.onnx"), folder)
    (folder / "maps").mkdir()
    grid, step = write_class_maps(
        (folder / GRAPH).read_bytes(), (folder / WEIGHTS).read_bytes(), folder / "maps", STEP
    )
    compiled = openvino.Core().compile_model(
        folder / "maps" / GRAPH, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    outputs = compiled([PHOTOS])[0]
    return (*split_maps(outputs, CLASSES, grid, step), step)


@pytest.mark.parametrize(("hidden", "step"), [(False, 1.0), (True, STEP)])
def test_the_maps_are_those_of_the_onnx_file(tmp_path: Path, hidden: bool, step: float) -> None:
    model = with_hidden_layer() if hidden else onnx.load(small_classifier(tmp_path, SIDE, CLASSES, 4).path)
    answers, maps, taken = openvino_maps(model, tmp_path)
    (plain,) = open_cpu(model).run(None, {"x": PHOTOS})
    made = with_class_maps(model, PHOTOS)
    (outputs,) = open_cpu(made.model).run(None, {"x": PHOTOS})
    expected = split_maps(outputs, CLASSES, made.grid, made.step)[1]
    assert taken == made.step == step
    np.testing.assert_allclose(answers, plain, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(maps, expected, atol=1e-2 * np.abs(expected).max())


def test_a_network_without_a_pool_at_its_end_is_refused(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    weights = {"w": np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, CLASSES))}
    model = onnx_model(nodes, weights, ("x", ["n", 3, SIDE, SIDE]), ("y", ["n", CLASSES]))
    with pytest.raises(Unsuited, match="global average pool"):
        openvino_maps(model, tmp_path)
