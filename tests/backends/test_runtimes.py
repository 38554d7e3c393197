"""Session options and compiled networks: what a recipe asks of a runtime is what the runtime does."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the network is a torch module")
onnx = pytest.importorskip("onnx", reason="the network is exported to ONNX")
ort = pytest.importorskip("onnxruntime", reason="options are read back from onnxruntime")

from tests.builders import error_of  # noqa: E402
from workbench.backends import RUNTIME, NullRuntime, OrtRuntime, TorchRuntime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.ort import backend  # noqa: E402
from workbench.backends.table import BACKENDS  # noqa: E402
from workbench.errors import Unsuited  # noqa: E402
from workbench.model.export.export import export_onnx, export_torch, torch_artifact_info  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.graph.onnx_file import artifact_info  # noqa: E402
from workbench.steps import Photos, apply  # noqa: E402
from workbench.steps.batch import FixedBatch  # noqa: E402
from workbench.steps.fold import FoldPreprocess  # noqa: E402
from workbench.system.machine import collect  # noqa: E402

pytestmark = pytest.mark.integration

CLASSES, SIDE = 6, 24
SHAPE = (1, 3, SIDE, SIDE)
IMAGES = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE), np.float32)
ELSEWHERE = "Some Other CPU @ 9.9GHz"


def network() -> Any:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, padding=1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, CLASSES),
    )
    with torch.no_grad():
        net[-1].weight *= 20
    return net.eval()


MACS = SIDE * SIDE * 9 * (3 * 8 + 8 * 16) + 16 * CLASSES


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = network()(torch.from_numpy(IMAGES)).numpy()
    return logits


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx(network(), Export(exporter="torchscript", opset=17), folder / "model.onnx", SHAPE, IMAGES)
    return Artifact(folder, artifact_info(folder / "model.onnx"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("program")
    written = export_torch(network(), folder / "model.pt2", SHAPE, IMAGES, TorchRuntime())
    return Artifact(folder, torch_artifact_info(folder / "model.pt2", written, SHAPE))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every InferenceSession that is opened, to be asked what it does."""
    sessions: list[Any] = []
    real = ort.InferenceSession

    def remember(*args: Any, **named: Any) -> Any:
        sessions.append(real(*args, **named))
        return sessions[-1]

    monkeypatch.setattr(ort, "InferenceSession", remember)
    yield sessions


def spins(options: Any) -> str:
    return str(options.get_session_config_entry("session.intra_op.allow_spinning"))


OPTIONS: list[tuple[dict[str, Any], Callable[[Any], object], object]] = [
    ({}, lambda o: o.graph_optimization_level.name, "ORT_ENABLE_ALL"),
    ({"graph_level": "disable"}, lambda o: o.graph_optimization_level.name, "ORT_DISABLE_ALL"),
    ({"graph_level": "basic"}, lambda o: o.graph_optimization_level.name, "ORT_ENABLE_BASIC"),
    ({}, spins, "0"),
    ({"profile": "latency"}, spins, "1"),
    ({"profile": "latency", "spinning": False}, spins, "0"),
    ({"spinning": True}, spins, "1"),
    ({"threads": 2}, lambda o: (o.intra_op_num_threads, o.inter_op_num_threads), (2, 1)),
]


@pytest.mark.parametrize(("fields", "read", "value"), OPTIONS)
def test_every_option_reaches_the_session_and_the_answers_stay(
    artifact: Artifact,
    expected: NDArray[np.float32],
    opened: list[Any],
    fields: dict[str, Any],
    read: Callable[[Any], object],
    value: object,
) -> None:
    with BACKENDS["onnxruntime"].session(artifact, RUNTIME.validate_python(fields)) as session:
        np.testing.assert_allclose(session.infer(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert read(opened[0].get_session_options()) == value


def test_a_provider_that_is_not_in_this_build_says_what_to_install() -> None:
    if "OpenVINOExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has the OpenVINO provider")
    reason = BACKENDS["onnxruntime"].unavailable(OrtRuntime(provider="openvino"))
    assert reason is not None
    assert "has no OpenVINOExecutionProvider" in reason
    assert "onnxruntime-openvino" in reason


def test_the_openvino_provider_is_told_its_threads_and_that_fp32_is_fp32() -> None:
    options = backend.provider_options(OrtRuntime(provider="openvino", threads=3))
    assert (options["num_of_threads"], options["precision"], options["device_type"]) == ("3", "FP32", "CPU")
    assert backend.provider_options(OrtRuntime()) == {}


def test_a_fixed_batch_answers_for_fewer_photos_and_refuses_more(
    tmp_path: Path, artifact: Artifact, expected: NDArray[np.float32], contract: Any
) -> None:
    apply(FixedBatch(use="fixed_batch", size=3), artifact.path, tmp_path / "model.onnx", Photos(contract))
    fixed = Artifact(tmp_path, artifact_info(tmp_path / "model.onnx"))
    with BACKENDS["onnxruntime"].session(fixed, OrtRuntime()) as session:
        for count in (1, 2, 3):
            np.testing.assert_allclose(session.infer(IMAGES[:count]), expected[:count], rtol=1e-4, atol=1e-4)
        error = error_of(lambda: session.infer(IMAGES))
    assert "takes 3 photos at a time, not 4" in error.message


@pytest.fixture(scope="module")
def contract() -> Any:
    from workbench.photos.contract import Preprocess

    return Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def test_a_graph_that_takes_pixels_is_given_pixels(tmp_path: Path, artifact: Artifact, contract: Any) -> None:
    from workbench.photos.preprocess import normalize

    apply(FoldPreprocess(use="fold_preprocess"), artifact.path, tmp_path / "model.onnx", Photos(contract))
    folded = Artifact(tmp_path, artifact_info(tmp_path / "model.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    with BACKENDS["onnxruntime"].session(artifact, OrtRuntime()) as session:
        wanted = session.infer(normalize(pixels, contract))
    with BACKENDS["onnxruntime"].session(folded, OrtRuntime()) as session:
        np.testing.assert_allclose(session.infer(pixels), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_what_was_made_for_another_processor_is_not_opened(
    artifact: Artifact, program: Artifact, name: str
) -> None:
    own = artifact if name == "onnxruntime" else program
    change: dict[str, object] = {"bound_to": ELSEWHERE}
    if name == "torch":
        change["format"] = "torch-aoti"
    foreign = Artifact(own.folder, own.info.model_copy(update=change))
    runtime = RUNTIME.validate_python({"backend": name})
    backend = BACKENDS[runtime.backend]
    for call in (
        lambda: backend.session(foreign, runtime).__enter__(),
        lambda: backend.audit(foreign, runtime, IMAGES[:1]),
    ):
        error = error_of(call)
        assert f"was made for the processor {ELSEWHERE}" in error.message
        assert collect().cpu in error.message
        assert "build it here" in (error.hint or "")


def test_an_artifact_bound_to_this_processor_opens(artifact: Artifact) -> None:
    bound = Artifact(artifact.folder, artifact.info.model_copy(update={"bound_to": collect().processor}))
    with BACKENDS["onnxruntime"].session(bound, OrtRuntime()) as session:
        assert session.infer(IMAGES).shape == (4, CLASSES)


def test_the_audit_of_onnxruntime_is_of_a_session_with_the_same_options(artifact: Artifact) -> None:
    found = BACKENDS["onnxruntime"].audit(artifact, OrtRuntime(graph_level="basic"), IMAGES[:1])
    assert (found.computes, found.macs) == ("fp32", MACS)


def test_eager_torch_says_in_what_it_multiplied(program: Artifact) -> None:
    found = BACKENDS["torch"].audit(program, TorchRuntime(), IMAGES[:2])
    assert (found.macs, found.fp32_share, found.casts) == (MACS, 1.0, 0)


def test_bf16_is_asked_of_eager_torch_and_is_what_it_multiplies_in(
    program: Artifact, expected: NDArray[np.float32]
) -> None:
    runtime = TorchRuntime(precision="bf16")
    if reason := BACKENDS["torch"].unavailable(runtime):
        pytest.skip(reason)
    with BACKENDS["torch"].session(program, runtime) as session:
        logits = session.infer(IMAGES)
    assert logits.dtype == np.float32
    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 0 < difference < 0.05
    found = BACKENDS["torch"].audit(program, runtime, IMAGES[:2])
    assert (found.computes, found.half_share) == ("bf16", 1.0)
    assert found.casts is not None
    assert found.casts > 0


def test_a_processor_without_bf16_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    reason = BACKENDS["torch"].unavailable(TorchRuntime(precision="bf16"))
    assert reason is not None
    assert "no bf16 instructions" in reason
    assert BACKENDS["torch"].unavailable(TorchRuntime(precision="f32")) is None


def test_torch_starts_no_thread_behind_those_it_is_given(program: Artifact) -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("this system does not list the threads of a process")
    counts: list[int] = []

    def count() -> None:
        counts.append(len(list(Path("/proc/self/task").iterdir())))

    def call() -> None:
        count()
        session.infer(IMAGES)
        count()

    with BACKENDS["torch"].session(program, TorchRuntime(threads=1)) as session:
        session.infer(IMAGES)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_a_network_is_compiled_once_and_opened_without_compiling(
    tmp_path: Path, expected: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test that compiles: some ten seconds."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler (g++) to compile the network with")
    runtime = TorchRuntime(compile=True, batch=2, threads=1)
    path = tmp_path / "model.pt2"
    written = export_torch(network(), path, SHAPE, IMAGES, runtime)
    info = torch_artifact_info(path, written, SHAPE)
    assert (info.format, info.input_shape, info.classes) == ("torch-aoti", (2, *SHAPE[1:]), CLASSES)
    assert (info.precision, info.bound_to) == ("fp32", collect().processor)
    compiled = Artifact(tmp_path, info)

    def no_compiler(*args: object, **named: object) -> None:
        raise AssertionError("a session compiles nothing")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", no_compiler)
    monkeypatch.setattr("subprocess.run", no_compiler)
    monkeypatch.setattr("subprocess.check_output", no_compiler)
    with BACKENDS["torch"].session(compiled, runtime) as session:
        assert (session.provider, session.threads) == ("inductor", 1)
        for count in (1, 2):
            np.testing.assert_allclose(session.infer(IMAGES[:count]), expected[:count], rtol=1e-4, atol=1e-4)
        small = np.zeros((2, 3, SIDE // 2, SIDE // 2), np.float32)
        assert "takes a batch of shape" in error_of(lambda: session.infer(small)).message
        assert "takes 2 photos at a time" in error_of(lambda: session.infer(IMAGES)).message
    found = BACKENDS["torch"].audit(compiled, runtime, IMAGES[:2])
    assert (found.computes, found.macs) == ("fp32", None)
    other = runtime.model_copy(update={"threads": 2})
    error = error_of(lambda: BACKENDS["torch"].session(compiled, other).__enter__())
    assert "was compiled for threads 1, not 2" in error.message


def test_without_a_compiler_the_variant_is_unsuited_to_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    runtime = TorchRuntime(compile=True)
    error = error_of(lambda: export_torch(network(), tmp_path / "model.pt2", SHAPE, IMAGES, runtime))
    assert isinstance(error, Unsuited)
    assert "C++ compiler" in error.message
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_module_cannot_be_compiled_ahead_of_time(tmp_path: Path) -> None:
    script = torch.jit.trace(network(), torch.from_numpy(IMAGES))
    runtime = TorchRuntime(compile=True)
    error = error_of(lambda: export_torch(script, tmp_path / "model.pt2", SHAPE, IMAGES, runtime))
    assert isinstance(error, Unsuited)


def test_the_null_backend_takes_photos_in_both_forms(artifact: Artifact) -> None:
    for pixels, batch in ((False, IMAGES), (True, np.zeros((2, SIDE, SIDE, 3), np.uint8))):
        info = artifact.info.model_copy(update={"format": "null", "pixels": pixels})
        null, runtime = Artifact(artifact.folder, info), NullRuntime()
        with BACKENDS["null"].session(null, runtime) as session:
            assert session.infer(batch).shape == (len(batch), CLASSES)
        assert BACKENDS["null"].audit(null, runtime, batch).macs == 0
