"""Networks and photos that cannot be used as they are: a clear sentence with a remedy, never a traceback."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

torch = pytest.importorskip("torch", reason="some networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="networks are written as ONNX")
pytest.importorskip("onnxruntime", reason="networks run in its sessions")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.builders import checked, error_of  # noqa: E402
from tests.e2e.plain import PREPROCESS, fitted, network, write_workspace  # noqa: E402
from tests.e2e.tiny import CLASS_NAMES, MEAN, STD, Bench, draw_photos  # noqa: E402
from workbench.cli import main  # noqa: E402
from workbench.errors import Unsuited  # noqa: E402
from workbench.measure.records import BASELINE  # noqa: E402
from workbench.model.export.comparison import torch_logits  # noqa: E402
from workbench.model.export.export import export_onnx  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.graph.facts import facts_of  # noqa: E402
from workbench.model.graph.onnx_file import describe  # noqa: E402
from workbench.model.source.model_source import ModelSource, inspect, load_model  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.results.records import TrialResult  # noqa: E402
from workbench.run.build import Job, _check_size  # noqa: E402
from workbench.steps import Photos, apply  # noqa: E402
from workbench.steps.fold import FoldPreprocess  # noqa: E402
from workbench.steps.int8.settings import StaticInt8  # noqa: E402
from workbench.steps.int8.static import static_int8  # noqa: E402

pytestmark = pytest.mark.integration

nn = torch.nn
SHAPE = (1, 3, 16, 16)
SAMPLES = np.random.default_rng(0).normal(0.3, 1, (3, 3, 16, 16)).astype(np.float32)
TORCHSCRIPT = Export(exporter="torchscript", opset=17)
RECIPES = {
    "int8": "{name: int8, steps: [{use: static_int8, calibration: {images: 4}}]}",
    "per-tensor": "{name: per-tensor, steps: [{use: static_int8, per_channel: false}]}",
    "greedy": "{name: greedy, steps: [{use: static_int8, calibration: {images: 200}}]}",
    "fp16": "{name: fp16, steps: [{use: fp16}]}",
    "smaller": "{name: smaller, preprocess: {scale: 0.5}}",
}


@dataclass(frozen=True)
class Place:
    """Photos and a cache that all workspaces share."""

    root: Path

    def trials(self, folder: Path, model: Any, *names: str, **changed: Any) -> dict[str, TrialResult]:
        """Build and check the baseline and these recipes, without timing. Raises WorkbenchError."""
        write_workspace(folder, model, source=self.root, **changed)
        for name in names:
            (folder / f"{name}.yaml").write_text(RECIPES[name])
        return checked(folder / "krishi.yaml", [folder / f"{name}.yaml" for name in names])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("bad") / "photos"
    draw_photos(root / "data" / "calibration", 3, seed=1)
    draw_photos(root / "data" / "validation", 3, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRISHI_CACHE", str(root.parent / "cache"))
        yield Place(root)


@pytest.fixture(scope="module")
def good(place: Place) -> Any:
    return fitted(network(), place.root / "data" / "calibration")


def saved(model: Any, folder: Path) -> Path:
    onnx.save(model, path := folder / "model.onnx")
    return path


def refused(work: Callable[[], object]) -> str:
    """The message and the hint of the error that `work` raises."""
    error = error_of(work)
    return f"{error.message} | {error.hint}"


# Photos to calibrate on


def calibrated(folder: Path, pixels: NDArray[np.uint8], contract: Preprocess, **fields: Any) -> Path:
    np.save(folder / "pixels.npy", pixels)
    images = Images(folder / "pixels.npy", (0,) * len(pixels), contract, "digest")
    given = {"use": "static_int8", "calibration": {"images": len(pixels)}, **fields}
    source, target = saved(network(height=16, across=16), folder), folder / "int8.onnx"
    static_int8(StaticInt8.model_validate(given), source, target, images)
    return target


CONTRACT = Preprocess(resize=16, crop=16, mean=MEAN, std=STD)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
@pytest.mark.parametrize("value", [0, 128])
def test_photos_of_one_colour_still_give_a_file_that_answers(tmp_path: Path, method: str, value: int) -> None:
    pixels = np.full((3, 16, 16, 3), value, np.uint8)
    target = calibrated(tmp_path, pixels, CONTRACT, calibration={"method": method, "images": 3})
    session = describe(target)
    assert (session.precision, session.classes) == ("int8", 4)


@pytest.fixture(scope="module")
def of_one_photo(place: Place, good: Any) -> dict[str, TrialResult]:
    """A network of any size, with one photo to calibrate on."""
    alone = place.root / "alone"
    alone.mkdir()
    Image.new("RGB", (64, 64), (60, 150, 50)).save(alone / "photo.jpg")
    return place.trials(place.root / "workspace", good, "greedy", "smaller", calibration=alone)


def test_one_photo_is_enough_whatever_number_is_asked_for(
    place: Place, of_one_photo: dict[str, TrialResult], tmp_path: Path
) -> None:
    found = of_one_photo["greedy"]
    assert (found.status, found.calibration_images) == ("ok", 1)
    (results,) = (place.root / "workspace" / "results").glob("*/run.json")
    assert "data.calibration: 1 photo: INT8 ranges of fewer than 16 are rough" in results.read_text()
    one = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    assert describe(calibrated(tmp_path, one, CONTRACT)).precision == "int8"


def test_a_division_so_small_that_photos_would_not_be_numbers_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"std\.0"):
        Preprocess(resize=16, crop=16, mean=MEAN, std=(1e-300, 1.0, 1.0))


# Networks from torch


class Branching(nn.Module):  # type: ignore[name-defined,misc]
    """Dynamic control flow: another answer for dark photos."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Any) -> Any:
        x = x.mean((2, 3))
        if x.sum() > 0:
            return self.head(x)
        return -self.head(x) + 1


class Pair(nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, x: Any, mask: Any) -> Any:
        return x.mean((2, 3)) * mask


class Twice(nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, x: Any) -> Any:
        return x.mean((2, 3)), x


def headed(channels: int = 3, features: int = 4, classes: int = 4) -> Any:
    return nn.Sequential(
        nn.Conv2d(channels, features, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)
    )


def exported(model: Any, folder: Path, export: Export = TORCHSCRIPT) -> object:
    return export_onnx(model.eval(), export, folder / "model.onnx", SHAPE, SAMPLES)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_network_that_branches_on_its_input_is_refused_by_the_exporter_that_keeps_one_branch(
    tmp_path: Path,
) -> None:
    said = refused(lambda: exported(Branching(), tmp_path))
    assert "branches on the values of its input" in said
    assert "torch.where" in said
    assert not (tmp_path / "model.onnx").exists()


def test_a_network_that_branches_on_its_input_is_refused_by_the_newer_exporter(tmp_path: Path) -> None:
    export = Export(exporter="dynamo")
    assert "exporter `dynamo` failed at opset 18" in refused(lambda: exported(Branching(), tmp_path, export))
    assert not (tmp_path / "model.onnx").exists()


def test_a_branch_that_torch_where_takes_is_no_branch(tmp_path: Path) -> None:
    class Where(Branching):
        def forward(self, x: Any) -> Any:
            x = x.mean((2, 3))
            return torch.where(x.sum(1, keepdim=True) > 0, self.head(x), 1 - self.head(x))

    assert exported(Where(), tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Pair(), "missing 1 required positional argument: 'mask'"),
        (Twice(), "the network returns a tuple; expected one tensor of logits"),
        (headed(channels=1), "expected input[3, 3, 16, 16] to have 1 channels, but got 3"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 24, 4)), "shapes cannot be multiplied"),
    ],
    ids=["two inputs", "two outputs", "grayscale", "another size"],
)
def test_a_torch_network_of_another_shape_is_refused_with_the_reason(
    model: Any, message: str, tmp_path: Path
) -> None:
    assert message in refused(lambda: exported(model, tmp_path))


def test_a_thousand_classes_are_exported_like_four(tmp_path: Path) -> None:
    exported(headed(classes=1000), tmp_path)
    assert describe(tmp_path / "model.onnx").classes == 1000


def test_a_half_precision_state_dict_is_computed_in_float32(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef create():\n    return nn.Sequential("
        "nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))\n"
    )
    torch.save(headed().half().state_dict(), tmp_path / "half.pt")
    model = load_model(
        ModelSource(checkpoint=tmp_path / "half.pt", factory=f"{tmp_path / 'net.py'}:create"), 4
    )
    assert torch_logits(model, SAMPLES).dtype == np.float32
    assert exported(model, tmp_path)


# Networks that come as ONNX


def custom() -> Any:
    model = network()
    model.graph.node.append(helper.make_node("Magic", ["logits"], ["magic"], domain="com.acme"))
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    model.graph.output[0].name = "magic"
    return model


def with_another(where: str) -> Any:
    model = network()
    name = "features" if where == "output" else "mask"
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16])
    getattr(model.graph, where).append(value)
    return model


def halved(*, inside: bool) -> Any:
    """Every weight in float16; inside: between casts, so that photos and logits stay float32."""
    model = network()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    if not inside:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        return model
    graph = model.graph
    first, last = graph.node[0], graph.node[-1]
    first.input[0], last.output[0] = "half image", "half logits"
    graph.node.insert(
        0, helper.make_node("Cast", ["image"], ["half image"], to=TensorProto.FLOAT16, name="down")
    )
    graph.node.append(helper.make_node("Cast", ["half logits"], ["logits"], to=TensorProto.FLOAT, name="up"))
    return model


@pytest.mark.parametrize(
    ("model", "message", "remedy"),
    [
        (custom(), "no operator `Magic` of the domain `com.acme`", "export it again with ONNX's own"),
        (
            with_another("input"),
            "has 2 inputs and 1 output (image, mask; logits)",
            "onnx.utils.extract_model",
        ),
        (
            with_another("output"),
            "has 1 input and 2 outputs (image; logits, features)",
            "onnx.utils.extract_model",
        ),
        (network(classes=1), "has 1 class: a classifier tells at least 2 apart", "two logits 0 and z"),
        (
            network(channels=1),
            "takes an input of shape ['batch', 1, 'height', 'width']",
            "(N, 3, height, width)",
        ),
        (halved(inside=False), "`image` is tensor(float16)", "export the network in float32"),
    ],
    ids=["custom", "two inputs", "two outputs", "one class", "grayscale", "float16"],
)
def test_an_onnx_file_that_cannot_be_used_is_refused_with_a_remedy(
    model: Any, message: str, remedy: str, tmp_path: Path
) -> None:
    said = refused(lambda: inspect(ModelSource(checkpoint=saved(model, tmp_path))))
    assert message in said.partition(" | ")[0]
    assert remedy in said.partition(" | ")[2]


def test_an_onnx_file_for_photos_that_are_not_square_says_their_shape(tmp_path: Path) -> None:
    found = inspect(ModelSource(checkpoint=saved(network(height=64, across=96), tmp_path)))
    assert found.preprocess.crop == (64, 96)


def test_a_thousand_classes_in_an_onnx_file_are_fine(tmp_path: Path) -> None:
    names = tmp_path / "labels.json"
    names.write_text(json.dumps([f"class {number}" for number in range(1000)]))
    info = inspect(ModelSource(checkpoint=saved(network(classes=1000), tmp_path), class_names=names))
    assert info.class_names is not None and len(info.class_names) == 1000


def test_opset_9_is_measured_as_it_is_and_int8_says_what_it_lacks(
    place: Place, good: Any, tmp_path: Path
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    model.opset_import[0].version = 9
    found = place.trials(tmp_path, model, "int8")
    assert (found[BASELINE].status, found[BASELINE].opset) == ("ok", 9)
    assert found["int8"].status == "failed"
    assert "INT8 needs opset 10 or later, the model has 9" in (found["int8"].reason or "")


def test_a_file_that_is_quantised_already_is_measured_and_not_quantised_twice(
    place: Place, good: Any, tmp_path: Path
) -> None:
    source, quantized = saved(good, tmp_path), tmp_path / "int8.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    images = Images(tmp_path / "pixels.npy", (0,) * 4, Preprocess(**PREPROCESS), "digest")
    static_int8(
        StaticInt8.model_validate({"use": "static_int8", "calibration": {"images": 4}}),
        source,
        quantized,
        images,
    )
    found = place.trials(tmp_path / "workspace", quantized, "per-tensor", "fp16")
    assert (found[BASELINE].status, found[BASELINE].precision) == ("ok", "int8")
    for name, step in (("per-tensor", "static_int8"), ("fp16", "fp16")):
        assert found[name].status == "failed"
        assert f"step `{step}`: its input is quantised already" in (found[name].reason or "")


def test_a_file_that_takes_pixels_is_measured_on_pixels(
    place: Place, good: Any, of_one_photo: dict[str, TrialResult], tmp_path: Path
) -> None:
    """As TensorFlow's and our own `fold_preprocess` write them: (N, H, W, 3) uint8, normalised inside."""
    contract = Preprocess(**PREPROCESS)
    probe = np.zeros((1, 3, *contract.size), np.float32)
    step = FoldPreprocess(use="fold_preprocess")
    apply(step, saved(good, tmp_path), tmp_path / "pixels.onnx", Photos(contract, samples=probe))
    found = place.trials(tmp_path / "workspace", tmp_path / "pixels.onnx", "per-tensor")
    assert [found[name].status for name in (BASELINE, "per-tensor")] == ["ok", "ok"]
    of_floats, of_pixels = of_one_photo[BASELINE].accuracy, found[BASELINE].accuracy
    assert of_floats is not None and of_pixels is not None
    assert of_pixels.class_correct == of_floats.class_correct
    facts = facts_of(onnx.load(tmp_path / "pixels.onnx"))
    assert facts.input_shape[0] == 3


def test_a_network_of_one_size_skips_the_other_sizes_with_the_reason(place: Place, tmp_path: Path) -> None:
    side = PREPROCESS["crop"]
    fixed = fitted(network(height=side, across=side), place.root / "data" / "calibration")
    found = place.trials(tmp_path, fixed, "smaller")["smaller"]
    assert found.status == "skipped"
    assert f"an ONNX file for {side} pixels, not {side // 2}" in (found.reason or "")


def test_a_network_of_any_size_is_evaluated_at_the_other_size(of_one_photo: dict[str, TrialResult]) -> None:
    found = of_one_photo["smaller"]
    assert (found.status, found.preprocess and found.preprocess.crop) == ("ok", PREPROCESS["crop"] // 2)


def test_a_torch_network_that_flattens_its_map_takes_one_size_only(tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 16 * 16, 4)).eval()
    contract = Preprocess(resize=8, crop=8, mean=MEAN, std=(0.25,) * 3)
    np.save(tmp_path / "pixels.npy", np.zeros((1, 8, 8, 3), np.uint8))
    photos = Images(tmp_path / "pixels.npy", (0,), contract, "digest")
    job = Job(ModelSource(factory="m:f"), "", 4, contract, photos, None, tmp_path, own_size=(16, 16))
    with pytest.raises(Unsuited, match="the network takes 16 px only, not 8"):
        _check_size(job, lambda photo: torch_logits(flat, photo), raw=False)


def test_a_file_with_float16_weights_is_measured_and_not_quantised(place: Place, tmp_path: Path) -> None:
    found = place.trials(tmp_path, halved(inside=True), "int8")
    assert (found[BASELINE].status, found[BASELINE].precision) == ("ok", "fp16")
    assert found["int8"].status == "failed"
    assert "its input is fp16 already" in (found["int8"].reason or "")


def test_weights_that_are_not_numbers_end_the_run_before_anything_is_measured(
    place: Place, tmp_path: Path
) -> None:
    model = network()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), np.nan), tensor.name))
    said = refused(lambda: place.trials(tmp_path, model))
    assert "12 of 12 photos gave NaN or infinite logits" in said


def test_a_file_in_training_mode_is_called_so_by_inspect_advise_and_run(
    place: Place, good: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    last = model.graph.node[-1]
    last.output[0] = "dense"
    model.graph.node.append(helper.make_node("Dropout", ["dense", "p", "train"], ["logits"], name="drop"))
    for name, value in (("p", np.float32(0.5)), ("train", np.array(True))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    hint = error_of(lambda: place.trials(tmp_path, model)).hint
    assert hint == "it was exported in training mode (`drop`): export it again after `model.eval()`"
    told = "the file was exported in training mode (drop), where answers depend on chance"
    for command in (
        ["inspect", str(saved(model, tmp_path))],
        ["advise", "fp32", "--workspace", str(tmp_path)],
    ):
        assert main(command) == 0
        assert told in " ".join(capsys.readouterr().out.split())


# The same through the command line


def test_the_command_says_it_in_one_sentence_and_ends_with_2(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_workspace(tmp_path, with_another("output"), source=place.root)
    for command in ("run", "tune", "advise"):
        assert main([command, "--workspace", str(tmp_path), "--quiet"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ") and "\nhint: cut it down" in said.err
        assert "Traceback" not in said.err
    assert not list((tmp_path / "results").glob("*")), "nothing is left behind"


def test_the_wrong_number_of_class_names_is_told(place: Place, good: Any, tmp_path: Path) -> None:
    root = write_workspace(tmp_path, good, source=place.root, names=(*CLASS_NAMES, "Fifth"))
    done = Bench(root, place.root.parent / "cache").run("advise", code=2)
    assert "has 5 names, but model.onnx has 4 classes" in done.stderr
