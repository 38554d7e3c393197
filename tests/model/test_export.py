"""torch to ONNX with the real exporters: the file is as requested, or there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="exporting needs torch")
onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
pytest.importorskip("onnxruntime", reason="exports are compared in onnxruntime")

from tests.builders import error_of, mobile_network  # noqa: E402
from workbench.backends.artifact import Artifact, Format  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.model.export.comparison import torch_logits  # noqa: E402
from workbench.model.export.export import adopt_onnx, export_onnx, export_torch, torch_artifact_info  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.graph.onnx_file import artifact_info, describe, load, logits_of  # noqa: E402
from workbench.model.source.model_source import ModelSource, inspect  # noqa: E402
from workbench.workspace.sample.student import create_model  # noqa: E402

SHAPE = (1, 3, 32, 32)
CLASSES = 12
Samples = NDArray[np.float32]

# Making TorchScript files is deprecated; people have them all the same.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")]


def student() -> Any:
    """The sample's network, untrained and narrow: depthwise, hard-swish, squeeze-and-excitation and all."""
    torch.manual_seed(0)
    model = create_model(CLASSES, width=0.25).eval()
    with torch.no_grad():
        model.classifier[1].weight *= 30  # untrained logits are too alike to compare
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    """A smaller one, for what does not depend on the layers."""
    return mobile_network(CLASSES).eval()


@pytest.fixture(scope="module")
def samples() -> Samples:
    return np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def dynamo(model: Any, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export with the newer exporter, which takes seconds."""
    path: Path = tmp_path_factory.mktemp("dynamo") / "model.onnx"
    report = export_onnx(model, Export(), path, SHAPE, samples)
    assert (report.exporter, report.opset, report.classes) == ("dynamo", 18, CLASSES)
    assert report.max_rel < 1e-5
    return path


def older(opset: int = 13, **fields: Any) -> Export:
    return Export(exporter="torchscript", opset=opset, **fields)


def test_the_newer_exporter_writes_one_file_with_a_free_batch(dynamo: Path) -> None:
    assert [path.name for path in dynamo.parent.iterdir()] == ["model.onnx"]
    info = artifact_info(dynamo)
    assert (info.format, info.opset, info.precision) == ("onnx", 18, "fp32")
    assert (info.input_shape, info.classes) == ((0, 3, 32, 32), CLASSES)
    assert info.size_bytes == dynamo.stat().st_size
    facts = describe(dynamo)
    assert (facts.input_name, facts.output_name) == ("images", "logits")


def test_the_file_does_not_say_where_it_was_made(dynamo: Path) -> None:
    assert b"stack_trace" not in dynamo.read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in dynamo.read_bytes()


@pytest.mark.parametrize(("opset", "whole"), [(11, False), (13, True), (17, False), (20, False)])
def test_the_older_exporter_honours_the_opset(
    model: Any, samples: Samples, tmp_path: Path, opset: int, whole: bool
) -> None:
    report = export_onnx(student() if whole else model, older(opset), tmp_path / "m.onnx", SHAPE, samples)
    assert report.opset == opset
    assert describe(tmp_path / "m.onnx").opset == opset


def test_an_opset_the_exporter_cannot_write_is_refused_at_once(
    model: Any, samples: Samples, tmp_path: Path
) -> None:
    target = tmp_path / "m.onnx"
    newer = Export(exporter="dynamo", opset=13)
    error = error_of(lambda: export_onnx(model, newer, target, SHAPE, samples))
    assert error.message == "export.opset: exporter `dynamo` cannot write opset 13: it writes 18 to 25"
    assert error.hint == "set `export.exporter: torchscript`, which writes opsets 7 to 23, or `auto`"
    assert not target.exists()


def test_an_opset_that_came_out_otherwise_is_an_error_and_leaves_no_file(
    model: Any, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.model.export.settings.OPSETS", {"dynamo": (7, 25), "torchscript": (7, 23)})
    target = tmp_path / "m.onnx"
    newer = Export(exporter="dynamo", opset=13)
    error = error_of(lambda: export_onnx(model, newer, target, SHAPE, samples))
    assert error.message == "export.opset: asked for opset 13, exporter `dynamo` wrote 18"
    assert "torchscript" in (error.hint or "")
    assert not target.exists()


def test_a_fixed_batch_is_fixed(model: Any, samples: Samples, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    export_onnx(model, older(dynamic_batch=False), target, (2, 3, 32, 32), samples)
    facts = describe(target)
    assert facts.input_shape == (2, 3, 32, 32)
    assert logits_of(target, facts, samples).shape == (5, CLASSES)


class Branching(torch.nn.Module):  # type: ignore[misc]
    """Its forward looks at the values of the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mobile_network(CLASSES)

    def forward(self, x: Any) -> Any:
        return self.inner(x) if x.mean() > 0 else -self.inner(x)


class Traced(Branching):
    """Computes something else while it is traced."""

    def forward(self, x: Any) -> Any:
        return -self.inner(x) if torch.jit.is_tracing() else self.inner(x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_file_that_computes_something_else_is_an_error_and_leaves_no_file(
    samples: Samples, tmp_path: Path
) -> None:
    target = tmp_path / "m.onnx"
    error = error_of(lambda: export_onnx(Traced(), older(), target, SHAPE, samples))
    assert "does not compute what torch does" in error.message
    assert not target.exists()


class Unsupported(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return torch.special.bessel_j0(x.mean((2, 3)))


def test_the_error_about_an_operator_that_onnx_lacks_is_one_line_and_not_on_stdout(
    samples: Samples, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = error_of(lambda: export_onnx(Unsupported(), older(), tmp_path / "m.onnx", SHAPE, samples))
    assert error.message.startswith("exporter `torchscript` failed at opset 13: UnsupportedOperatorError: ")
    assert "special_bessel_j0" in error.message
    assert "\n" not in error.message
    assert capfd.readouterr().out == ""


class Two(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x.mean((2, 3)), x


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Two(), "returns a tuple; expected one tensor of logits"),
        (torch.nn.Identity(), r"returns \(5, 3, 32, 32\); expected one tensor of logits, \(5, classes\)"),
        (torch.nn.Linear(7, 2), r"cannot run on a batch of shape \(5, 3, 32, 32\)"),
    ],
)
def test_a_network_that_is_no_classifier_is_refused(
    samples: Samples, tmp_path: Path, network: Any, message: str
) -> None:
    with pytest.raises(WorkbenchError, match=message):
        export_onnx(network, older(), tmp_path / "m.onnx", SHAPE, samples)


def test_weights_that_are_not_numbers_are_noticed(samples: Samples) -> None:
    broken = student()
    with torch.no_grad():
        broken.classifier[1].bias[0] = float("nan")
    assert "not finite" in error_of(lambda: torch_logits(broken, samples)).message


@pytest.mark.parametrize("scripted", [False, True])
def test_a_network_is_written_for_the_torch_backend(
    model: Any, samples: Samples, tmp_path: Path, scripted: bool
) -> None:
    from workbench.backends import TorchRuntime
    from workbench.backends.table import BACKENDS

    network = torch.jit.trace(model, torch.from_numpy(samples)) if scripted else model
    wanted: Format = "torchscript" if scripted else "torch-export"
    target = tmp_path / "model.pt2"
    assert export_torch(network, target, SHAPE, samples, TorchRuntime()) == wanted
    info = torch_artifact_info(target, wanted, SHAPE)
    assert (info.input_shape, info.classes, info.opset) == ((0, 3, 32, 32), CLASSES, None)
    with BACKENDS["torch"].session(Artifact(tmp_path, info), TorchRuntime()) as session:
        np.testing.assert_allclose(session.infer(samples), torch_logits(model, samples), atol=1e-4)


def test_a_torchscript_module_goes_through_the_older_exporter(
    model: Any, samples: Samples, tmp_path: Path
) -> None:
    scripted = torch.jit.trace(model, torch.from_numpy(samples))
    assert export_onnx(scripted, older(), tmp_path / "m.onnx", SHAPE, samples).opset == 13
    newer = Export(exporter="dynamo")
    error = error_of(lambda: export_onnx(scripted, newer, tmp_path / "n.onnx", SHAPE, samples))
    assert error.hint == "set `export.exporter: torchscript`"


def test_an_onnx_file_is_taken_as_it_is(dynamo: Path, tmp_path: Path) -> None:
    adopt_onnx(dynamo, None, tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == dynamo.read_bytes()
    assert adopt_onnx(dynamo, Export(), tmp_path / "copy.onnx").opset == 18


def test_an_onnx_source_says_its_classes_and_its_crop(dynamo: Path, tmp_path: Path) -> None:
    info = inspect(ModelSource(checkpoint=dynamo))
    assert (info.kind, info.num_classes, info.preprocess.crop) == ("onnx", CLASSES, 32)
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    short = ModelSource(checkpoint=dynamo, class_names=tmp_path / "names.txt")
    assert "has 2 names, but model.onnx has 12 classes" in error_of(lambda: inspect(short)).message


class Attentive(torch.nn.Module):  # type: ignore[misc]
    """A transformer layer over four patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 16, 16)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_attention_goes_through_the_older_exporter(samples: Samples, tmp_path: Path) -> None:
    network = Attentive().eval()
    assert export_onnx(network, older(17), tmp_path / "m.onnx", SHAPE, samples).classes == 8


def test_an_onnx_file_of_another_opset_than_asked_for_is_refused(dynamo: Path, tmp_path: Path) -> None:
    error = error_of(lambda: adopt_onnx(dynamo, older(13), tmp_path / "copy.onnx"))
    assert error.message == "export.opset: the recipe asks for opset 13, model.onnx has 18"
    assert not (tmp_path / "copy.onnx").exists()


def saved(path: Path, dims: list[Any], *, kind: int | None = None, outputs: int = 1) -> Path:
    """A small ONNX file that averages its input over height and width."""
    helper, kind, names = onnx.helper, kind or onnx.TensorProto.FLOAT, [f"y{i}" for i in range(outputs)]
    nodes = [helper.make_node("ReduceMean", ["x"], [name], axes=[2, 3], keepdims=0) for name in names]
    logits = [helper.make_tensor_value_info(name, kind, None) for name in names]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", kind, dims)], logits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_foreign_file_with_free_sizes_and_undeclared_classes_is_read(tmp_path: Path) -> None:
    facts = describe(saved(tmp_path / "f.onnx", ["batch", 3, "height", "width"]))
    assert (facts.input_shape, facts.classes, facts.opset) == ((0, 3, 0, 0), 3, 13)
    assert facts.dynamic_batch


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        ([1, 32, 32, 3], {}, "channels come last: NHWC"),
        (["n", 1, "h", "w"], {}, r"takes an input of shape \['n', 1, 'h', 'w'\]"),
        ([1, 3, 32, 32], {"kind": 10}, r"`x` is tensor\(float16\)"),
        ([1, 3, 32, 32], {"outputs": 2}, "has 1 input and 2 outputs"),
    ],
)
def test_an_onnx_file_that_is_no_image_classifier_is_refused(
    tmp_path: Path, dims: list[Any], options: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path / "f.onnx", dims, **options)
    with pytest.raises(WorkbenchError, match=message):
        adopt_onnx(path, None, tmp_path / "copy.onnx")


def test_weights_in_a_second_file_come_into_the_copy(dynamo: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(dynamo), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    assert "in other files (external data)" in error_of(lambda: load(tmp_path / "m.onnx")).message
    adopt_onnx(tmp_path / "m.onnx", None, tmp_path / "copy.onnx")
    assert describe(tmp_path / "copy.onnx") == describe(dynamo)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"not": "a model"}', "file but a text file"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>", "file but a web page"),
        (b"", "file but an empty file"),
        (b"\x08\x01garbage", "file, or it is damaged"),
    ],
)
def test_another_file_is_refused_as_no_onnx(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    error = error_of(lambda: describe(tmp_path / "m.onnx"))
    assert error.message == f"{tmp_path / 'm.onnx'} is not an ONNX {what}"
    assert error.hint == "export it, copy it or download it again"


def test_an_opset_before_those_of_onnxruntime_is_refused_with_a_way_to_a_later_one(tmp_path: Path) -> None:
    model = onnx.load(saved(tmp_path / "f.onnx", ["batch", 3, "height", "width"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["y0", "y0"], ["y1"]))
    model.graph.output[0].name = "y1"
    model.opset_import[0].version = 6
    onnx.save(model, tmp_path / "f.onnx")
    error = error_of(lambda: describe(tmp_path / "f.onnx"))
    assert error.message == f"{tmp_path / 'f.onnx'} is of opset 6: onnxruntime runs opset 7 and later"
    assert "onnx.version_converter.convert_version(onnx.load(" in (error.hint or "")
