"""NNCF's quantiser: INT8 that keeps the answers, in both formats, the same bytes every time."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

torch = pytest.importorskip("torch", reason="the network is exported from torch")
onnx = pytest.importorskip("onnx", reason="NNCF starts from ONNX files")
pytest.importorskip("onnxruntime", reason="logits are held against onnxruntime's")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

from tests.builders import coloured_photos, error_of, exported, mobile_network, train  # noqa: E402
from workbench.backends import OpenvinoRuntime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.openvino import backend  # noqa: E402
from workbench.backends.openvino.ir import ir_info  # noqa: E402
from workbench.model.graph.onnx_file import describe, logits_of  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps import Photos  # noqa: E402
from workbench.steps.fold import fold_preprocess  # noqa: E402
from workbench.steps.nncf.quantize import nncf_ir, nncf_onnx  # noqa: E402
from workbench.steps.nncf.settings import NncfInt8  # noqa: E402

pytestmark = pytest.mark.integration

CLASSES = 6
PHOTOS = 36
CONTRACT = Preprocess(resize=24, crop=24, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def step(**fields: Any) -> NncfInt8:
    return NncfInt8.model_validate({"use": "nncf_int8", "images": 12, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nncf")


@pytest.fixture(scope="module")
def photos(folder: Path) -> Images:
    return coloured_photos(folder, PHOTOS, CLASSES, CONTRACT, spread=25)


@pytest.fixture(scope="module")
def source(folder: Path, photos: Images) -> Path:
    return exported(train(mobile_network(CLASSES), photos, 0.02), folder / "model.onnx", 24)


@pytest.fixture(scope="module")
def expected(source: Path, photos: Images) -> NDArray[np.float32]:
    logits = logits_of(source, describe(source), normalize(photos.pixels(), CONTRACT))
    assert (logits.argmax(axis=1) == photos.labels).mean() > 0.9
    return logits


def quantised(
    source: Path, folder: Path, photos: Images, validation: Images | None = None, **fields: Any
) -> Artifact:
    folder.mkdir()
    nncf_ir(step(**fields), source, folder, Photos(CONTRACT, photos, validation))
    return Artifact(folder, ir_info(folder))


@pytest.fixture(scope="module")
def plain(source: Path, photos: Images, folder: Path) -> Artifact:
    return quantised(source, folder / "ir", photos)


def logits_in_openvino(artifact: Artifact, photos: Images) -> NDArray[np.float32]:
    with backend.session(artifact, OpenvinoRuntime(threads=1)) as session:
        return np.concatenate([session.infer(batch) for batch in photos.batches(1)])


def float_layers(artifact: Artifact) -> int:
    """Convolutions and products whose weights are not stored in 8 bits."""
    import openvino

    model = openvino.Core().read_model(artifact.path)
    layers = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")
    ]

    def stored(node: Any) -> str:
        while node.get_type_name() != "Constant":
            node = node.input_value(0).get_node()
        return str(node.get_element_type().get_type_name())

    return sum(stored(layer.input_value(1).get_node()) != "i8" for layer in layers)


def test_an_ir_in_int8_answers_like_the_float_network(
    plain: Artifact, photos: Images, expected: NDArray[np.float32]
) -> None:
    assert (plain.info.precision, plain.info.input_shape) == ("int8", (0, 3, 24, 24))
    assert float_layers(plain) == 0, "the depthwise convolution's weights too"
    logits = logits_in_openvino(plain, photos)
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    drift = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 1e-4 < drift < 0.2


def test_an_onnx_in_int8_answers_like_the_float_network(
    source: Path,
    photos: Images,
    expected: NDArray[np.float32],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nncf_onnx(step(), source, tmp_path / "q.onnx", Photos(CONTRACT, photos))
    facts = describe(tmp_path / "q.onnx")
    assert (facts.precision, facts.opset, facts.dynamic_batch) == ("int8", 17, True)
    logits = logits_of(tmp_path / "q.onnx", facts, normalize(photos.pixels(), CONTRACT))
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    assert capsys.readouterr().out == "", "stdout is for data"


def test_the_same_photos_give_the_same_bytes(
    source: Path, photos: Images, plain: Artifact, tmp_path: Path
) -> None:
    assert quantised(source, tmp_path / "again", photos).digest == plain.digest
    assert str(plain.folder.parent).encode() not in plain.path.read_bytes()
    for name in ("a.onnx", "b.onnx"):
        nncf_onnx(step(), source, tmp_path / name, Photos(CONTRACT, photos))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "performance"},
        {"fast_bias_correction": False, "overflow_fix": "enable"},
        {"channel_alignment": True, "range_estimator": "histogram", "model_type": "transformer"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_options_change_the_network_and_keep_the_answers(
    source: Path,
    photos: Images,
    plain: Artifact,
    expected: NDArray[np.float32],
    tmp_path: Path,
    fields: dict[str, Any],
) -> None:
    other = quantised(source, tmp_path / "ir", photos, **fields)
    assert other.info.companions != plain.info.companions
    logits = logits_in_openvino(other, photos)
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.85


@pytest.mark.parametrize(
    ("fields", "left"),
    [({"ignored_types": ["Gemm"]}, 1), ({"ignored_nodes": ["/0/Conv", "/4/*"]}, 2)],
    ids=["by type", "by name and pattern"],
)
def test_ignored_layers_stay_in_float(
    source: Path, photos: Images, tmp_path: Path, fields: dict[str, Any], left: int
) -> None:
    assert float_layers(quantised(source, tmp_path / "ir", photos, **fields)) == left
    nncf_onnx(step(**fields), source, tmp_path / "q.onnx", Photos(CONTRACT, photos))
    graph = onnx.load(tmp_path / "q.onnx").graph
    stored = {weight.name for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert sum(node.input[1] in stored for node in layers) == left


@pytest.fixture
def judge(source: Path, photos: Images, tmp_path: Path) -> Images:
    """Photos on the border between two classes, which rounding moves, labelled as the network answers."""
    first, last = photos.pixels()[0].astype(float), photos.pixels()[-1].astype(float)
    share = np.linspace(0, 1, 800).reshape(-1, 1, 1, 1)
    blends = np.rint(first * (1 - share) + last * share).astype(np.uint8)
    answers = logits_of(source, describe(source), normalize(blends, CONTRACT)).argmax(axis=1)
    border = int(np.flatnonzero(np.diff(answers))[0])
    near = slice(max(0, border - 24), border + 24)
    np.save(tmp_path / "near.npy", blends[near])
    return Images(tmp_path / "near.npy", tuple(int(answer) for answer in answers[near]), CONTRACT, "near")


def test_accuracy_control_gives_layers_back_until_the_accuracy_is_kept(
    source: Path, photos: Images, judge: Images, plain: Artifact, tmp_path: Path
) -> None:
    def wrong(artifact: Artifact) -> int:
        return int((logits_in_openvino(artifact, judge).argmax(axis=1) != judge.labels).sum())

    assert wrong(plain) > 0
    control = {"max_drop": (wrong(plain) - 0.5) / len(judge)}
    kept = quantised(source, tmp_path / "ir", photos, judge, accuracy_control=control)
    assert wrong(kept) < wrong(plain)
    assert 0 < float_layers(kept) < 4


def test_accuracy_control_works_on_onnx_too(
    source: Path, photos: Images, judge: Images, tmp_path: Path
) -> None:
    def wrong(**fields: Any) -> int:
        target = tmp_path / "q.onnx"
        nncf_onnx(step(**fields), source, target, Photos(CONTRACT, photos, judge))
        facts = describe(target)
        assert facts.precision == "int8"
        answers = logits_of(target, facts, normalize(judge.pixels()[:], CONTRACT)).argmax(axis=1)
        return int((answers != judge.labels).sum())

    before = wrong()
    assert before > 0
    assert wrong(accuracy_control={"max_drop": (before - 0.5) / len(judge)}) < before


def test_accuracy_control_never_sees_the_photos_that_certify(
    source: Path, photos: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    rows = Images.rows

    def watched(self: Images, chosen: Iterable[int], *size: int) -> Iterator[Any]:
        chosen = list(chosen)
        if not size:  # calibration asks for a size, and may look at every photo
            seen.extend(chosen)
        return rows(self, chosen, *size)

    monkeypatch.setattr(Images, "rows", watched)
    control = {"max_drop": 0.5, "minutes": 1}
    choosing = range(1, PHOTOS, 3)
    given = Photos(CONTRACT, photos, photos, choosing=choosing)
    nncf_onnx(step(accuracy_control=control), source, tmp_path / "q.onnx", given)
    assert set(seen) == set(choosing)


def test_what_does_not_fit_is_refused_with_the_field(source: Path, photos: Images, tmp_path: Path) -> None:
    def message(validation: Images | None = None, **fields: Any) -> str:
        target = tmp_path / "q.onnx"
        given = Photos(CONTRACT, photos, validation)
        found = error_of(lambda: nncf_onnx(step(**fields), source, target, given))
        assert not target.exists()
        return found.message

    assert message(images=PHOTOS + 1).startswith("nncf_int8.images: 37 photos asked for")
    assert message(ignored_nodes=["/9/Conv"]).startswith("nncf_int8.ignored_nodes: no node is named")
    assert message(ignored_types=["Convolution"]).startswith("nncf_int8.ignored_types: ONNX has no operator")
    assert message(accuracy_control={}).startswith("nncf_int8.accuracy_control needs labelled photos")
    too_many = message(photos, accuracy_control={"images": 99})
    assert too_many.startswith("nncf_int8.accuracy_control.images: 99 photos")
    assert "nothing is left to quantise" in message(ignored_types=["Conv", "Gemm"])
    with pytest.raises(ValidationError, match="max_drop"):
        step(accuracy_control={"max_drop": 1.5})


def test_a_network_that_takes_pixels_is_quantised_too(
    source: Path, photos: Images, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    fold_preprocess(source, tmp_path / "pixels.onnx", CONTRACT)
    raw = Images(photos.path, photos.labels, CONTRACT, "digest", raw=True)
    artifact = quantised(tmp_path / "pixels.onnx", tmp_path / "ir", raw)
    assert (artifact.info.precision, artifact.info.pixels) == ("int8", True)
    logits = logits_in_openvino(artifact, raw)
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
