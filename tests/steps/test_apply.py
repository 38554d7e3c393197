"""The steps, each on a real network and in a real runtime: what changes, what must not, what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

torch = pytest.importorskip("torch", reason="the network is exported from torch")
onnx = pytest.importorskip("onnx", reason="steps transform ONNX files")
pytest.importorskip("onnxruntime", reason="steps are onnxruntime's")

from tests.builders import error_of, exported, mobile_network, smooth_photos  # noqa: E402
from tests.steps.graphs import drift, operators  # noqa: E402
from workbench.model.graph.onnx_file import describe  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps import Photos, Step  # noqa: E402
from workbench.steps import apply as apply_step  # noqa: E402
from workbench.steps.verify import check  # noqa: E402
from workbench.workspace.sample.student import create_model  # noqa: E402

pytestmark = pytest.mark.integration

CLASSES = 12
PHOTOS = 36
CONTRACT = Preprocess(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

STEP: TypeAdapter[Step] = TypeAdapter(Step)


def apply(
    step: Step, source: Path, target: Path, photos: Images | None, samples: NDArray[Any] | None = None
) -> None:
    apply_step(step, source, target, Photos(CONTRACT, photos, None, samples))


def step(use: str, **fields: Any) -> Step:
    """A step as a recipe gives it; calibration on few photos unless said otherwise."""
    if use == "static_int8":
        fields = {"calibration": {"images": 12}, **fields}
    return STEP.validate_python({"use": use, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def photos(folder: Path) -> Images:
    return smooth_photos(folder, PHOTOS, CONTRACT)


@pytest.fixture(scope="module")
def samples(photos: Images) -> NDArray[np.float32]:
    return normalize(photos.pixels()[:4], CONTRACT)


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """The sample's network, untrained: batch norm, depthwise, hard-swish, squeeze-and-excitation."""
    torch.manual_seed(0)
    model = create_model(CLASSES)
    with torch.no_grad():
        model.classifier[1].weight *= 30  # untrained logits are too alike to compare
    return exported(model, folder / "model.onnx", 32)


@pytest.fixture(scope="module")
def static(folder: Path, source: Path, photos: Images, samples: NDArray[np.float32]) -> Path:
    apply(step("static_int8"), source, folder / "static.onnx", photos, samples)
    return folder / "static.onnx"


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim"])
def test_simplify_keeps_the_logits_and_the_free_batch(
    tmp_path: Path, source: Path, samples: NDArray[np.float32], tool: str
) -> None:
    pytest.importorskip(tool)
    apply(step("simplify", tool=tool), source, tmp_path / "m.onnx", None, samples)
    assert drift(source, tmp_path / "m.onnx", samples) < 1e-5
    assert describe(tmp_path / "m.onnx") == describe(source)
    assert sum(operators(tmp_path / "m.onnx").values()) <= sum(operators(source).values())


def test_static_int8_is_close_to_float_in_less_than_half_the_size(
    source: Path, static: Path, samples: NDArray[np.float32]
) -> None:
    facts = describe(static)
    assert (facts.precision, facts.opset, facts.dynamic_batch) == ("int8", 17, True)
    assert drift(source, static, samples) < 0.25
    assert static.stat().st_size < 0.5 * source.stat().st_size


def test_per_channel_gives_every_output_channel_its_scale(
    tmp_path: Path, source: Path, static: Path, photos: Images
) -> None:
    apply(step("static_int8", per_channel=False), source, tmp_path / "m.onnx", photos)
    assert scales(static) > 1
    assert scales(tmp_path / "m.onnx") == 1


def scales(path: Path) -> int:
    """Scales of the first convolution's weights."""
    graph = onnx.load(path).graph
    shapes = {weight.name: weight.dims for weight in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    first = next(node for node in graph.node if node.op_type == "Conv")
    return int(np.prod(shapes[made_by[first.input[1]].input[1]]))


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_the_calibration_method_reaches_the_file(
    tmp_path: Path, source: Path, static: Path, photos: Images, method: str
) -> None:
    calibration = {"method": method, "images": 12, "percentile": 99}
    apply(step("static_int8", calibration=calibration), source, tmp_path / "m.onnx", photos)
    assert (tmp_path / "m.onnx").read_bytes() != static.read_bytes()


def test_quantising_twice_the_same_way_gives_the_same_bytes(
    tmp_path: Path, source: Path, static: Path, photos: Images
) -> None:
    apply(step("static_int8"), source, tmp_path / "again.onnx", photos)
    assert (tmp_path / "again.onnx").read_bytes() == static.read_bytes()


def test_excluded_nodes_stay_float(tmp_path: Path, source: Path, photos: Images) -> None:
    excluding = step("static_int8", exclude_nodes=["/features/features.2/*"])
    apply(excluding, source, tmp_path / "m.onnx", photos)
    left = in_float(tmp_path / "m.onnx", "Conv")
    assert left
    assert all(name.startswith("/features/features.2/") for name in left)


def in_float(path: Path, op_type: str) -> list[str]:
    """Names of the nodes of a type whose weights are not dequantised."""
    graph = onnx.load(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    nodes = [node for node in graph.node if node.op_type == op_type]
    return [node.name for node in nodes if makers.get(node.input[1]) != "DequantizeLinear"]


def test_excluded_operator_types_stay_float(tmp_path: Path, source: Path, photos: Images) -> None:
    excluding = step("static_int8", exclude_op_types=["Gemm", "Softmax"])
    apply(excluding, source, tmp_path / "m.onnx", photos)
    assert len(in_float(tmp_path / "m.onnx", "Gemm")) == 1
    assert in_float(tmp_path / "m.onnx", "Conv") == []


@pytest.mark.parametrize("use", ["static_int8", "fp16"])
def test_an_exclusion_that_fits_nothing_is_an_error_with_a_suggestion(
    tmp_path: Path, source: Path, photos: Images, use: str
) -> None:
    slip = step(use, exclude_nodes=["/classifier/classifier.1/Gem"])
    error = error_of(lambda: apply(slip, source, tmp_path / "m.onnx", photos))
    assert error.message == f"{use}.exclude_nodes: no node is named `/classifier/classifier.1/Gem`"
    assert "did you mean `/classifier/classifier.1/Gemm`" in (error.hint or "")
    slip = step(use, exclude_op_types=["Convv"])
    error = error_of(lambda: apply(slip, source, tmp_path / "m.onnx", photos))
    assert error.message == f"{use}.exclude_op_types: ONNX has no operator `Convv`"
    assert error.hint == "did you mean `Conv`?"


def test_a_number_of_calibration_photos_is_an_upper_bound(
    tmp_path: Path, source: Path, photos: Images
) -> None:
    for images in (PHOTOS, 200):
        asking = step("static_int8", calibration={"images": images})
        apply(asking, source, tmp_path / f"{images}.onnx", photos)
    assert (tmp_path / "200.onnx").read_bytes() == (tmp_path / f"{PHOTOS}.onnx").read_bytes()


def test_static_int8_without_photos_says_where_to_name_them(tmp_path: Path, source: Path) -> None:
    error = error_of(lambda: apply(step("static_int8"), source, tmp_path / "m.onnx", None))
    assert "data.calibration" in (error.hint or "")


def test_per_channel_qdq_needs_a_newer_opset(tmp_path: Path, photos: Images) -> None:
    old = exported(mobile_network(CLASSES), tmp_path / "old.onnx", 32, opset=12)
    error = error_of(lambda: apply(step("static_int8"), old, tmp_path / "m.onnx", photos))
    assert (
        error.message == "static_int8.per_channel: QDQ per channel needs opset 13 or later, the model has 12"
    )
    apply(step("static_int8", per_channel=False), old, tmp_path / "m.onnx", photos)
    assert describe(tmp_path / "m.onnx").opset == 12


def test_a_network_with_a_fixed_batch_can_be_calibrated(tmp_path: Path, photos: Images) -> None:
    fixed = exported(mobile_network(CLASSES), tmp_path / "fixed.onnx", 32, batch=5)
    apply(step("static_int8"), fixed, tmp_path / "m.onnx", photos)
    assert describe(tmp_path / "m.onnx").input_shape == (5, 3, 32, 32)


@pytest.mark.parametrize("weight", ["qint8", "quint8"])
def test_dynamic_int8_quantises_the_classifier_alone(
    tmp_path: Path, source: Path, samples: NDArray[np.float32], weight: str
) -> None:
    apply(step("dynamic_int8", weight=weight), source, tmp_path / "m.onnx", None, samples)
    found = operators(tmp_path / "m.onnx")
    assert found["MatMulInteger"] == 1
    assert found["ConvInteger"] == 0
    assert describe(tmp_path / "m.onnx").precision == "int8"
    assert drift(source, tmp_path / "m.onnx", samples) < 0.1


def test_dynamic_int8_of_gemm_finds_it_although_it_becomes_a_matmul(tmp_path: Path, source: Path) -> None:
    apply(step("dynamic_int8", op_types=["Gemm"]), source, tmp_path / "m.onnx", None)
    assert operators(tmp_path / "m.onnx")["MatMulInteger"] == 1


def test_dynamic_int8_with_nothing_to_quantise_says_so(tmp_path: Path, source: Path) -> None:
    missing = step("dynamic_int8", op_types=["LSTM"])
    error = error_of(lambda: apply(missing, source, tmp_path / "m.onnx", None))
    assert error.message.startswith("dynamic_int8.op_types: the graph has no LSTM with constant weights")
    unknown = step("dynamic_int8", op_types=["HardSwish"])
    error = error_of(lambda: apply(unknown, source, tmp_path / "m.onnx", None))
    assert error.message == "dynamic_int8.op_types: `HardSwish` cannot be quantised dynamically"


def test_fp16_halves_the_size_and_keeps_float32_at_both_ends(
    tmp_path: Path, source: Path, samples: NDArray[np.float32]
) -> None:
    apply(step("fp16"), source, tmp_path / "m.onnx", None, samples)
    facts = describe(tmp_path / "m.onnx")  # refuses other than float32 input and output
    assert facts.precision == "fp16"
    assert (tmp_path / "m.onnx").stat().st_size < 0.55 * source.stat().st_size
    assert 0 < drift(source, tmp_path / "m.onnx", samples) < 0.02


def test_fp16_with_everything_left_out_is_an_error(tmp_path: Path, source: Path) -> None:
    nothing = step("fp16", exclude_nodes=["*"])
    error = error_of(lambda: apply(nothing, source, tmp_path / "m.onnx", None))
    assert "no weight was converted" in error.message


@pytest.mark.parametrize("use", ["static_int8", "dynamic_int8", "fp16"])
def test_no_step_changes_the_precision_a_second_time(
    tmp_path: Path, static: Path, photos: Images, use: str
) -> None:
    error = error_of(lambda: apply(step(use), static, tmp_path / "m.onnx", photos))
    assert error.message.startswith(f"step `{use}`: its input is quantised already")


def test_int8_after_fp16_is_refused(tmp_path: Path, source: Path, photos: Images) -> None:
    apply(step("fp16"), source, tmp_path / "half.onnx", None)
    error = error_of(lambda: apply(step("static_int8"), tmp_path / "half.onnx", tmp_path / "m.onnx", photos))
    assert error.message.startswith("step `static_int8`: its input is fp16 already")


def test_simplify_after_int8_keeps_it_int8(
    tmp_path: Path, static: Path, samples: NDArray[np.float32]
) -> None:
    apply(step("simplify"), static, tmp_path / "m.onnx", None, samples)
    assert describe(tmp_path / "m.onnx").precision == "int8"


def test_a_simplification_that_changes_the_logits_is_refused(
    tmp_path: Path, source: Path, static: Path, samples: NDArray[np.float32]
) -> None:
    other = onnx.load(source)
    bias = next(weight for weight in other.graph.initializer if weight.name == "classifier.1.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(other, tmp_path / "other.onnx")
    error = error_of(lambda: check(step("simplify"), source, tmp_path / "other.onnx", samples))
    assert re.match(r"step `simplify`: on photo \d of 4 a logit is off by 1 of", error.message)
    assert error.message.endswith("the first node that differs is `/classifier/classifier.1/Gemm` (Gemm)")
    assert not (tmp_path / "other.onnx").exists()
