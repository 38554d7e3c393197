"""What every backend promises by its names, held against what it does with a real network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="the network is an ONNX file")
pytest.importorskip("onnxruntime", reason="its logits are what others are held against")

from tests import edge  # noqa: E402
from workbench.backends import (  # noqa: E402
    RUNTIME,
    SETTINGS,
    Backend,
    TorchRuntime,
    backend_of,
    takes_onnx,
    takes_program,
)
from workbench.backends.artifact import Artifact, Format  # noqa: E402
from workbench.backends.audit import Audit  # noqa: E402
from workbench.backends.base import OPERATORS, Hint  # noqa: E402
from workbench.backends.table import BACKENDS  # noqa: E402
from workbench.model.graph.onnx_file import artifact_info, describe, logits_of  # noqa: E402

SIDE, CLASSES = 16, 5
PLACES = [(name, device) for name in sorted(SETTINGS) for device in SETTINGS[name].DEVICES]
PHOTOS: NDArray[np.float32] = np.random.default_rng(1).standard_normal((4, 3, SIDE, SIDE), np.float32)
every_backend = pytest.mark.parametrize("name", sorted(BACKENDS))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(0, 0.3, (8, 3, 3, 3)), "w2": rng.normal(0, 1, (8, CLASSES))}
    graph = onnx.parser.parse_graph(
        f"""network (float[n,3,{SIDE},{SIDE}] images) => (float[n,{CLASSES}] logits) {{
            a = Conv <pads = [1,1,1,1]> (images, w1)
            b = Relu (a)
            c = GlobalAveragePool (b)
            d = Flatten (c)
            logits = MatMul (d, w2)
        }}"""
    )
    for name, values in weights.items():
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    folder = tmp_path_factory.mktemp("conformance")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return Artifact(folder, artifact_info(folder / "model.onnx"))


def opened_by(runtime: Any, source: Artifact, folder: Path) -> tuple[Artifact, NDArray[np.float32]]:
    """What the backend opens, as a build makes it, and the logits it should give."""
    backend: Backend[Any] = BACKENDS[runtime.backend]
    if isinstance(runtime, TorchRuntime):
        torch = pytest.importorskip("torch", reason="the network is a torch program")
        from workbench.model.export.comparison import torch_logits
        from workbench.model.export.export import export_torch, torch_artifact_info

        torch.manual_seed(0)
        layers = [
            torch.nn.Conv2d(3, 8, 3),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        ]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(8, CLASSES)).eval()
        shape = (1, *PHOTOS.shape[1:])
        written = export_torch(model, folder / "model.pt2", shape, PHOTOS, runtime)  # type: ignore[arg-type]
        info = torch_artifact_info(folder / "model.pt2", written, shape)  # type: ignore[arg-type]
        return Artifact(folder, info), torch_logits(model, PHOTOS)
    if takes_program(runtime):
        if runtime.backend != "litert":
            pytest.skip("its programs are written where its exporter is installed: tests/steps/test_edge.py")
        return edge.artifact(folder), edge.logits()
    expected = logits_of(source.path, describe(source.path), PHOTOS)
    if backend.convert is not None:
        return Artifact(folder, backend.convert(source, folder)), expected
    if backend.prepare is not None:
        backend.prepare(source, runtime)
    return source, expected


def test_the_table_and_the_union_name_the_same_backends() -> None:
    assert list(SETTINGS) == list(BACKENDS)
    assert [backend.NAME for backend in BACKENDS.values()] == list(BACKENDS)


@every_backend
def test_every_backend_says_what_it_opens_and_takes(name: str) -> None:
    backend = BACKENDS[name]
    assert backend.FORMATS
    assert set(get_args(Format)) >= backend.FORMATS
    assert set(OPERATORS) >= backend.OPERATORS
    # An ONNX file is opened as it is, or converted; what takes none has no use for either.
    assert takes_onnx(RUNTIME.validate_python({"backend": name, "device": SETTINGS[name].DEVICES[0]})) == (
        "onnx" in backend.FORMATS or backend.convert is not None
    )


@every_backend
def test_every_setting_is_described_in_the_schema_and_has_a_default(name: str) -> None:
    described = SETTINGS[name].model_json_schema()
    assert SETTINGS[name].__doc__
    for field, said in described["properties"].items():
        assert field == "backend" or said["description"].endswith("."), field
    assert "required" not in described


@every_backend
def test_a_backend_found_by_its_settings_is_the_one_of_the_table(name: str) -> None:
    assert backend_of(SETTINGS[name].model_construct()) is BACKENDS[name]


@pytest.mark.parametrize(("name", "device"), PLACES)
def test_precisions_are_those_of_the_devices(name: str, device: Any) -> None:
    settings = SETTINGS[name]
    assert set(settings.PRECISIONS) <= set(settings.DEVICES)
    for precision in settings.PRECISIONS.get(device, ()):
        assert precision in get_args(Hint)
        made = RUNTIME.validate_python({"backend": name, "device": device, "precision": precision})
        assert RUNTIME.validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(("name", "device"), PLACES)
def test_every_backend_gives_the_logits_or_says_why_it_cannot(
    name: str, device: str, source: Artifact, tmp_path: Path
) -> None:
    runtime = RUNTIME.validate_python({"backend": name, "device": device, "threads": 1})
    backend = BACKENDS[name]
    if (reason := backend.unavailable(runtime)) is not None:
        assert reason.strip()
        pytest.skip(reason)
    artifact, expected = opened_by(runtime, source, tmp_path)
    assert artifact.info.format in backend.FORMATS
    with backend.session(artifact, runtime) as session:
        logits: Callable[[int], NDArray[np.float32]] = lambda count: session.infer(PHOTOS[:count])  # noqa: E731
        for count in (1, 3, 1):
            assert logits(count).shape == (count, CLASSES)
            assert logits(count).dtype == np.float32
            if backend.PACKAGES:  # the backend that stands on nothing computes nothing
                np.testing.assert_allclose(logits(count), expected[:count], rtol=1e-3, atol=1e-3)
        assert (session.device, session.threads) == (device, 1)
        assert session.provider
    audit = backend.audit(artifact, runtime, PHOTOS[:1])
    assert isinstance(audit, Audit)
    assert audit.verdict
