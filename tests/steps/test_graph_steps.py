"""Steps that rewrite the graph and keep the answers: batch size, optimisation, folded preprocessing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

torch = pytest.importorskip("torch", reason="the networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="steps transform ONNX files")
pytest.importorskip("onnxruntime", reason="results are run in onnxruntime")

from tests.builders import error_of  # noqa: E402
from tests.steps.graphs import logits, operators  # noqa: E402
from workbench.backends import OrtRuntime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.table import BACKENDS  # noqa: E402
from workbench.model.export.export import export_onnx  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.export.torch_exporters import write_onnx  # noqa: E402
from workbench.model.graph.onnx_file import artifact_info, describe  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps import Photos, Step, apply  # noqa: E402
from workbench.steps.optimize import Optimize  # noqa: E402
from workbench.system.machine import collect  # noqa: E402

pytestmark = pytest.mark.integration

CLASSES, SIDE = 7, 16
CONTRACT = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.4, 0.6), std=(0.25, 0.2, 0.3))
PHOTOS = Photos(CONTRACT)
STEP: TypeAdapter[Step] = TypeAdapter(Step)
LEVELS: tuple[Literal["basic", "extended", "all"], ...] = ("basic", "extended", "all")


def step(use: str, **fields: Any) -> Step:
    return STEP.validate_python({"use": use, **fields})


class Net(torch.nn.Module):  # type: ignore[name-defined, misc]
    """Padding, depthwise, hard-swish; `flatten` is how the batch size gets into the graph."""

    def __init__(self, flatten: Callable[[Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1, stride=2),
            torch.nn.Hardswish(),
            torch.nn.Conv2d(16, 16, 3, padding=1, groups=16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 1),
            torch.nn.AdaptiveAvgPool2d(2),
        )
        self.flatten = flatten
        self.head = torch.nn.Linear(128, CLASSES)
        with torch.no_grad():
            self.head.weight *= 50

    def forward(self, images: Any) -> Any:
        return self.head(self.flatten(self.features(images)))


def flat(features: Any) -> Any:
    return torch.flatten(features, 1)


def mixed(features: Any) -> Any:
    """Subtracts what the photos of one call have in common: no photo's answer is its own."""
    return torch.flatten(features - features.mean(dim=0, keepdim=True) * 0.5, 1)


def stored_shape(features: Any) -> Any:
    return features.reshape(int(features.shape[0]), -1)


def photos(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def exported(path: Path, flatten: Callable[[Any], Any] = flat, *, batch: int = 0) -> Path:
    """batch: 0 for a free one."""
    export = Export(exporter="torchscript", opset=17, dynamic_batch=batch == 0)
    samples = normalize(photos(batch or 2), CONTRACT)
    export_onnx(Net(flatten).eval(), export, path, (batch or 1, 3, SIDE, SIDE), samples)
    return path


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("free") / "model.onnx")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fixed to one photo, by a Reshape to the stored shape (1, 128) too."""
    path = exported(tmp_path_factory.mktemp("single") / "model.onnx", stored_shape, batch=1)
    assert operators(path)["Reshape"] == 1
    return path


@pytest.mark.parametrize("size", [1, 4])
def test_a_fixed_batch_is_in_every_shape_and_the_answers_stay(tmp_path: Path, free: Path, size: int) -> None:
    target = tmp_path / "m.onnx"
    apply(step("fixed_batch", size=size), free, target, PHOTOS)
    assert describe(target).input_shape == (size, 3, SIDE, SIDE)
    graph = onnx.load(target).graph
    shapes = [value.type.tensor_type.shape.dim[0].dim_value for value in (*graph.value_info, *graph.output)]
    assert set(shapes) == {size}
    images = normalize(photos(5), CONTRACT)
    np.testing.assert_allclose(logits(target, images), logits(free, images), atol=1e-4)


def test_a_batch_fixed_at_one_size_can_be_fixed_at_another(tmp_path: Path, single: Path) -> None:
    apply(step("fixed_batch", size=3), single, tmp_path / "m.onnx", PHOTOS)
    images = normalize(photos(3), CONTRACT)
    np.testing.assert_allclose(logits(tmp_path / "m.onnx", images), logits(single, images), atol=1e-4)


@pytest.mark.parametrize("allowzero", [False, True], ids=["torchscript", "dynamo"])
def test_a_batch_is_freed_although_a_reshape_states_it(tmp_path: Path, single: Path, allowzero: bool) -> None:
    source, target = tmp_path / "source.onnx", tmp_path / "m.onnx"
    model = onnx.load(single)
    (reshape,) = [node for node in model.graph.node if node.op_type == "Reshape"]
    del reshape.attribute[:]
    if allowzero:
        reshape.attribute.append(onnx.helper.make_attribute("allowzero", 1))
    onnx.save(model, source)
    apply(step("dynamic_batch"), source, target, PHOTOS)
    assert describe(target).dynamic_batch
    images = normalize(photos(5), CONTRACT)
    np.testing.assert_allclose(logits(target, images), logits(single, images), atol=1e-4)
    np.testing.assert_allclose(logits(target, images[:1]), logits(single, images[:1]), atol=1e-4)


def test_fixing_and_freeing_leads_back(tmp_path: Path, free: Path) -> None:
    apply(step("fixed_batch", size=2), free, tmp_path / "fixed.onnx", PHOTOS)
    apply(step("dynamic_batch"), tmp_path / "fixed.onnx", tmp_path / "again.onnx", PHOTOS)
    assert describe(tmp_path / "again.onnx") == describe(free)


@pytest.mark.parametrize(
    ("use", "fields", "batch"), [("dynamic_batch", {}, 0), ("fixed_batch", {"size": 1}, 1)]
)
def test_a_batch_that_is_so_already_is_left_alone(
    tmp_path: Path, use: str, fields: dict[str, int], batch: int
) -> None:
    source = exported(tmp_path / "source.onnx", batch=batch)
    apply(step(use, **fields), source, tmp_path / "m.onnx", PHOTOS)
    assert onnx.load(tmp_path / "m.onnx") == onnx.load(source)


def test_a_batch_that_would_change_the_answer_is_not_freed(tmp_path: Path) -> None:
    source, fixed = tmp_path / "source.onnx", Export(exporter="torchscript", opset=17, dynamic_batch=False)
    write_onnx(
        Net(mixed).eval(), fixed, source, normalize(photos(1), CONTRACT), hint=None
    )  # `export` refuses it
    error = error_of(lambda: apply(step("dynamic_batch"), source, tmp_path / "m.onnx", PHOTOS))
    assert "dynamic_batch: the graph is made for 1 at a time: with 3 photos at once" in error.message
    assert "export.dynamic_batch: true" in (error.hint or "")
    assert not (tmp_path / "m.onnx").exists()


def test_a_graph_that_stores_something_for_each_photo_is_refused(tmp_path: Path, single: Path) -> None:
    model = onnx.load(single)
    bias = np.random.default_rng(0).standard_normal((1, 1), np.float32)
    last = model.graph.node[-1]
    name, last.output[0] = last.output[0], "inner"
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "extra"))
    model.graph.node.append(onnx.helper.make_node("Concat", ["inner", "extra"], [name], "concat", axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES + 1
    onnx.save(model, tmp_path / "source.onnx")
    error = error_of(
        lambda: apply(step("dynamic_batch"), tmp_path / "source.onnx", tmp_path / "m.onnx", PHOTOS)
    )
    assert "made for 1 at a time" in error.message
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("level", LEVELS)
def test_the_offline_graph_computes_the_same_and_is_the_one_asked_for(
    tmp_path: Path, free: Path, level: str
) -> None:
    target = tmp_path / "m.onnx"
    apply(step("optimize", level=level), free, target, PHOTOS)
    assert describe(target) == describe(free)
    images = normalize(photos(3), CONTRACT)
    np.testing.assert_allclose(logits(target, images), logits(free, images), rtol=1e-4, atol=1e-4)
    domains = {node.domain for node in onnx.load(target).graph.node}
    assert (domains == {""}) == (level == "basic")
    if level == "extended":
        assert operators(target)["FusedConv"] > 0


def test_only_the_graph_with_blocked_weights_is_bound_to_the_processor() -> None:
    bound = {level: Optimize(use="optimize", level=level).bound_to() for level in LEVELS}
    assert bound == {"basic": None, "extended": None, "all": collect().processor}


def test_an_offline_graph_opens_without_further_rewriting(tmp_path: Path, free: Path) -> None:
    apply(step("optimize", level="all"), free, tmp_path / "model.onnx", PHOTOS)
    artifact = Artifact(tmp_path, artifact_info(tmp_path / "model.onnx"))
    images = normalize(photos(2), CONTRACT)
    with BACKENDS["onnxruntime"].session(artifact, OrtRuntime(graph_level="disable")) as session:
        np.testing.assert_allclose(session.infer(images), logits(free, images), rtol=1e-4, atol=1e-4)


def test_an_fp16_graph_is_not_optimised_for_a_cpu_that_would_cast_it(tmp_path: Path, free: Path) -> None:
    apply(step("fp16"), free, tmp_path / "half.onnx", PHOTOS)
    error = error_of(lambda: apply(step("optimize"), tmp_path / "half.onnx", tmp_path / "m.onnx", PHOTOS))
    assert "casts to fp32" in error.message


@pytest.mark.parametrize("rescale", [1 / 255, 1.0])
def test_a_folded_graph_takes_pixels_and_gives_the_logits_of_normalised_photos(
    tmp_path: Path, free: Path, rescale: float
) -> None:
    target, levels = tmp_path / "m.onnx", 255 * rescale
    contract = CONTRACT.model_copy(
        update={
            "rescale": rescale,
            "mean": tuple(levels * value for value in CONTRACT.mean),
            "std": tuple(levels * value for value in CONTRACT.std),
        }
    )
    apply(step("fold_preprocess"), free, target, Photos(contract))
    facts = describe(target)
    assert (facts.pixels, facts.input_shape) == (True, (0, 3, SIDE, SIDE))
    assert operators(target) - operators(free) == {"Cast": 1, "Transpose": 1, "Sub": 1}
    pixels = photos(4)
    expected = logits(free, normalize(pixels, CONTRACT))
    np.testing.assert_allclose(logits(target, pixels), expected, rtol=1e-4, atol=1e-4)
    declared = onnx.load(target).graph.input[0].type.tensor_type
    assert declared.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in declared.shape.dim] == [0, SIDE, SIDE, 3]


def test_where_the_first_weights_cannot_be_changed_the_scale_goes_in_front(
    tmp_path: Path, free: Path
) -> None:
    apply(step("fp16"), free, tmp_path / "half.onnx", PHOTOS)
    apply(step("fold_preprocess"), tmp_path / "half.onnx", tmp_path / "m.onnx", PHOTOS)
    assert operators(tmp_path / "m.onnx")["Mul"] == operators(tmp_path / "half.onnx")["Mul"] + 1
    pixels = photos(3)
    expected = logits(tmp_path / "half.onnx", normalize(pixels, CONTRACT))
    np.testing.assert_allclose(logits(tmp_path / "m.onnx", pixels), expected, rtol=1e-2, atol=1e-2)


def test_folding_twice_is_refused(tmp_path: Path, free: Path) -> None:
    apply(step("fold_preprocess"), free, tmp_path / "once.onnx", PHOTOS)
    error = error_of(
        lambda: apply(step("fold_preprocess"), tmp_path / "once.onnx", tmp_path / "m.onnx", PHOTOS)
    )
    assert "takes pixels already" in error.message


@pytest.mark.parametrize("after", [("optimize", {"level": "all"}), ("fixed_batch", {"size": 2})])
def test_what_may_follow_folding_keeps_the_pixels(
    tmp_path: Path, free: Path, after: tuple[str, dict[str, Any]]
) -> None:
    apply(step("fold_preprocess"), free, tmp_path / "folded.onnx", PHOTOS)
    use, fields = after
    apply(step(use, **fields), tmp_path / "folded.onnx", tmp_path / "m.onnx", PHOTOS)
    assert describe(tmp_path / "m.onnx").pixels
    pixels = photos(3)
    expected = logits(free, normalize(pixels, CONTRACT))
    np.testing.assert_allclose(logits(tmp_path / "m.onnx", pixels), expected, rtol=1e-4, atol=1e-4)
