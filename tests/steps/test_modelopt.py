"""INT8 by NVIDIA ModelOpt: for real where it is installed; what is said elsewhere, always."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="steps transform ONNX files")
pytest.importorskip("onnxruntime", reason="logits are held against onnxruntime's")

from workbench import steps  # noqa: E402
from workbench.errors import Unsuited, WorkbenchError  # noqa: E402
from workbench.model.graph.onnx_file import describe, logits_of  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps import STEPS, check_sequence, modelopt  # noqa: E402
from workbench.steps.fold import FoldPreprocess  # noqa: E402
from workbench.steps.fp16 import autocast  # noqa: E402
from workbench.steps.modelopt import ModeloptInt8  # noqa: E402

pytestmark = pytest.mark.integration

CONTRACT = Preprocess(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
FLOAT, FLOAT16, INT8 = (onnx.TensorProto.DataType.Value(name) for name in ("FLOAT", "FLOAT16", "INT8"))
nn = torch.nn

installed = pytest.mark.skipif(autocast.missing() is not None, reason=str(autocast.missing()))
# Its parts, and the packages they bring, warn of each other's changes.
foreign = pytest.mark.filterwarnings("default")


def step(**fields: Any) -> ModeloptInt8:
    return ModeloptInt8.model_validate({"use": "modelopt_int8", "images": 8, **fields})


class Network(nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 1, 1)
        self.two, self.depthwise = nn.Conv2d(32, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        return self.head(self.depthwise(x).relu().mean((2, 3)))


def exported(path: Path, opset: int = 19) -> Path:
    names = {"input_names": ["images"], "output_names": ["logits"]}
    free = {"images": {0: "n"}, "logits": {0: "n"}}
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(
            Network().eval(), (torch.zeros(1, 3, 32, 32),), str(path), dynamo=False, opset_version=opset,
            dynamic_axes=free, **names,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modelopt")


@pytest.fixture(scope="module")
def photos(folder: Path) -> Images:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.save(folder / "pixels.npy", coarse.repeat(4, axis=1).repeat(4, axis=2))
    return Images(folder / "pixels.npy", tuple(range(12)), CONTRACT, "digest")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return exported(folder / "m.onnx")


@pytest.fixture
def made(tmp_path: Path, source: Path, photos: Images) -> Callable[..., Path]:
    def make(**fields: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        samples = normalize(photos.pixels()[:4], CONTRACT)
        steps.apply(step(**fields), source, path, steps.Photos(CONTRACT, calibration=photos, samples=samples))
        return path

    return make


def logits(path: Path, photos: Images) -> NDArray[np.float32]:
    return logits_of(path, describe(path), normalize(photos.pixels()[:], CONTRACT))


def quantized(path: Path) -> list[str]:
    """Names of the nodes whose weights are quantised."""
    graph = onnx.load(path).graph
    maker = {name: node.op_type for node in graph.node for name in node.output}
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return [node.name for node in weighted if maker.get(node.input[1]) == "DequantizeLinear"]


@installed
@foreign
@pytest.mark.parametrize("method", ["entropy", "max"])
@pytest.mark.parametrize(("dtype", "kind"), [("fp16", FLOAT16), ("fp32", FLOAT)])
def test_the_result_answers_like_the_float_network(
    source: Path, photos: Images, made: Callable[..., Path], method: str, dtype: str, kind: int
) -> None:
    result = made(method=method, high_precision_dtype=dtype)
    facts = describe(result)
    assert (facts.precision, facts.opset, facts.dynamic_batch) == ("int8", 19, True)
    before, after = logits(source, photos), logits(result, photos)
    assert np.sqrt(np.square(after - before).mean()) < 0.15 * before.std()
    assert quantized(result) == ["/stem/Conv", "/one/Conv", "/two/Conv", "/depthwise/Conv"]
    stored = {tensor.data_type for tensor in onnx.load(result).graph.initializer}
    assert stored - {onnx.TensorProto.INT64} == {kind, INT8}


@installed
@foreign
def test_its_chatter_is_not_for_stdout(made: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    made()
    assert capfd.readouterr().out == ""


@installed
@foreign
def test_nodes_named_and_types_stay_in_float(made: Callable[..., Path]) -> None:
    assert quantized(made(exclude_nodes=["/one/*"])) == ["/stem/Conv", "/two/Conv", "/depthwise/Conv"]
    with pytest.raises(WorkbenchError, match="ModelOpt left every node in float"):
        made(exclude_op_types=["Conv"])


@installed
@foreign
def test_the_same_photos_give_the_same_bytes(made: Callable[..., Path]) -> None:
    assert made().read_bytes() == made().read_bytes()


@installed
@foreign
def test_an_older_opset_and_too_few_photos_are_refused(tmp_path: Path, photos: Images, made: Any) -> None:
    source = exported(tmp_path / "old.onnx", opset=17)
    with pytest.raises(WorkbenchError, match="needs opset 19, the model has 17") as old:
        modelopt.modelopt_onnx(step(), source, tmp_path / "q.onnx", photos)
    assert old.value.hint is not None
    assert "raise `export.opset` to 19" in old.value.hint
    with pytest.raises(WorkbenchError, match="13 photos asked for"):
        made(images=13)
    with pytest.raises(WorkbenchError, match="no node is named `/on/Conv`"):
        made(exclude_nodes=["/on/Conv"])


@installed
@foreign
def test_it_gives_tensorrt_the_same_layers_as_our_own_placement(
    tmp_path: Path, source: Path, photos: Images, made: Callable[..., Path]
) -> None:
    from workbench.steps.int8.settings import StaticInt8
    from workbench.steps.int8.static import static_int8

    ours = StaticInt8.model_validate(
        {
            "use": "static_int8",
            "placement": "tensorrt",
            "exclude_roles": ["last"],
            "calibration": {"images": 8},
        }
    )
    static_int8(ours, source, tmp_path / "ours.onnx", photos)
    theirs = made(method="max", high_precision_dtype="fp32")

    def activations(path: Path) -> dict[str, float]:
        """Scale of every tensor of activations that has a pair."""
        graph = onnx.load(path).graph
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        pairs = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in stored]
        return {n.input[0]: float(stored[n.input[1]]) for n in pairs}

    assert activations(tmp_path / "ours.onnx") == pytest.approx(activations(theirs), rel=1e-4)
    assert quantized(tmp_path / "ours.onnx") == quantized(theirs)


def test_without_modelopt_the_variant_is_skipped_with_what_to_install(
    tmp_path: Path, source: Path, photos: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelopt, "missing", lambda: "`modelopt` is not installed")
    with pytest.raises(Unsuited, match="modelopt_int8: `modelopt` is not installed") as skipped:
        steps.apply(step(), source, tmp_path / "q.onnx", steps.Photos(CONTRACT, calibration=photos))
    assert skipped.value.hint == "pip install 'krishi-bench[modelopt]'"
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    "order", [("modelopt_int8", "fp16"), ("fp16", "modelopt_int8"), ("static_int8", "modelopt_int8")]
)
def test_it_is_one_of_the_steps_that_change_the_precision(order: tuple[str, str]) -> None:
    with pytest.raises(WorkbenchError, match="which leaves no float network to work on"):
        check_sequence([STEPS[use].model_validate({"use": use}) for use in order])


def test_it_needs_photos_and_the_network_as_exported(tmp_path: Path, source: Path) -> None:
    with pytest.raises(WorkbenchError, match="modelopt_int8 needs photos to calibrate on"):
        steps.apply(step(), source, tmp_path / "q.onnx", steps.Photos(CONTRACT))
    with pytest.raises(WorkbenchError, match="comes after `fold_preprocess`"):
        check_sequence([FoldPreprocess(use="fold_preprocess"), step()])
    check_sequence([step(), FoldPreprocess(use="fold_preprocess")])
