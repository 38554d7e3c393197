"""Every runtime that takes ONNX files to the GPU of this machine: answers, audit, engine and server."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import onnx_model
from workbench.system.nvidia_check import missing_link

onnx = pytest.importorskip("onnx", reason="the network is an ONNX file")
pytest.importorskip("onnxruntime", reason="its answers on the CPU are the reference")

from onnx import helper  # noqa: E402

from workbench.backends import OrtRuntime, Runtime, Session, TensorrtRuntime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.table import BACKENDS  # noqa: E402
from workbench.model.graph.onnx_file import artifact_info  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.preprocess import normalize, preprocess  # noqa: E402
from workbench.steps import Photos, apply  # noqa: E402
from workbench.steps.fp16.settings import Fp16  # noqa: E402

MISSING = missing_link("GPU")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

CLASSES, SIDE, MANY = 6, 32, 7
IMAGES = np.random.default_rng(0).standard_normal((MANY, 3, SIDE, SIDE), np.float32)
# Of the largest logit. TF32 keeps 10 bits behind the point: it would be off by more than EXACT.
EXACT, HALF = 2e-5, 1e-2
RUNTIMES = {
    "cuda": OrtRuntime(device="cuda", provider="cuda"),
    "cuda, recorded": OrtRuntime(device="cuda", provider="cuda", cuda_graph=True),
    "tensorrt": TensorrtRuntime(device="cuda", max_batch=8),
    "tensorrt, recorded": TensorrtRuntime(device="cuda", max_batch=8, cuda_graph=True),
}


@pytest.fixture(autouse=True)
def _engines_of_this_test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Skips where it cannot run, with the reason that a user is given."""
    wanted = RUNTIMES[request.param]
    if (reason := BACKENDS[wanted.backend].unavailable(wanted)) is not None:
        pytest.skip(reason)
    return wanted


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Convolutions wide enough for tensor cores: in TF32 their sums would show it."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("fp32") / "model.onnx"

    def weights(*shape: int) -> NDArray[np.float64]:
        return rng.normal(0, int(np.prod(shape[1:])) ** -0.5, shape)

    stored = {"w0": weights(32, 3, 3, 3), "w1": weights(64, 32, 3, 3), "w2": weights(CLASSES, 64)}
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], name="first", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "w2"], ["logits"], name="last", transB=1),
    ]
    images, logits = ("image", ["n", 3, SIDE, SIDE]), ("logits", ["n", CLASSES])
    onnx.save(onnx_model(nodes, stored, images, logits, opset=18), path)
    return Artifact(path.parent, artifact_info(path))


@pytest.fixture(scope="module")
def fp16(fp32: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("fp16") / "model.onnx"
    contract = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    apply(Fp16(use="fp16"), fp32.path, path, Photos(contract, samples=IMAGES))
    return Artifact(path.parent, artifact_info(path))


@pytest.fixture(scope="module")
def expected(fp32: Artifact) -> NDArray[np.float32]:
    with BACKENDS["onnxruntime"].session(fp32, OrtRuntime()) as session:
        logits: NDArray[np.float32] = session.infer(IMAGES)
    return logits


def largest_error(session: Session, expected: NDArray[np.float32]) -> float:
    """Of the logits of all batch sizes up to MANY, in the order a server may meet them, over the largest."""
    worst = 0.0
    for size in (1, MANY, 3, 1, 2):
        difference = np.abs(session.infer(IMAGES[:size]) - expected[:size]).max()
        worst = max(worst, float(difference) / float(np.abs(expected).max()))
    return worst


def test_fp32_answers_as_the_cpu_does_and_without_tf32(
    runtime: Runtime, fp32: Artifact, expected: NDArray[np.float32]
) -> None:
    with BACKENDS[runtime.backend].session(fp32, runtime) as session:
        assert session.device == "cuda"
        assert largest_error(session, expected) < EXACT


def test_fp16_answers_as_the_cpu_does_within_its_rounding(
    runtime: Runtime, fp16: Artifact, expected: NDArray[np.float32]
) -> None:
    with BACKENDS[runtime.backend].session(fp16, runtime) as session:
        assert 0 < largest_error(session, expected) < HALF


def test_calls_without_copies_are_timed_one_by_one(runtime: Runtime, fp32: Artifact) -> None:
    with BACKENDS[runtime.backend].session(fp32, runtime) as session:
        assert session.on_device is not None and session.on_device.how
        taken = session.on_device.time(IMAGES[:1], 20)
        assert len(taken) == 20
        assert all(0 < one < 1e9 for one in taken)


def test_the_audit_says_that_the_gpu_took_the_network(runtime: Runtime, fp16: Artifact) -> None:
    audit = BACKENDS[runtime.backend].audit(fp16, runtime, IMAGES[:1])
    asked = "CUDAExecutionProvider" if runtime.provider == "cuda" else "tensorrt"
    assert any(asked.lower() in name.lower() and nodes > 0 for name, nodes in audit.providers.items()), audit
    assert audit.verdict


@pytest.fixture
def engine_folder(tmp_path: Path, runtime: Runtime) -> Path:
    if isinstance(runtime, OrtRuntime):
        pytest.skip("the CUDA provider builds no engine")
    return tmp_path / "cache" / "engines"


def opened(artifact: Artifact, runtime: Runtime, expected: NDArray[np.float32]) -> float | None:
    """Seconds that the engine took to build; None where the one that was kept was opened."""
    with BACKENDS[runtime.backend].session(artifact, runtime) as session:
        assert largest_error(session, expected) < EXACT
        assert session.engine is not None
        assert session.engine.size_bytes > 0 and session.engine.bound_to
        return session.engine.build_s


def test_an_engine_is_kept_and_built_again_once_it_is_gone_or_damaged(
    engine_folder: Path, runtime: Runtime, fp32: Artifact, expected: NDArray[np.float32]
) -> None:
    assert opened(fp32, runtime, expected) is not None
    assert opened(fp32, runtime, expected) is None
    files = [path for path in engine_folder.rglob("*") if path.is_file() and "timing" not in path.parts]
    assert files
    assert all(path.parent.stat().st_mode & 0o077 == 0 for path in files), "others could leave engines there"
    for path in files:
        if path.suffix != ".json" and path.stat().st_size > 0:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert opened(fp32, runtime, expected) is not None
    shutil.rmtree(engine_folder)
    assert opened(fp32, runtime, expected) is not None


@pytest.fixture
def registry(tmp_path: Path, runtime: Runtime) -> Path:
    """A registry whose production bundle is to be served by this runtime."""
    pytest.importorskip("fastapi", reason="the server needs it")
    pytest.importorskip("httpx", reason="a client asks it")
    pytest.importorskip("uvicorn", reason="it listens for the server")
    from tests import serving
    from workbench.registry.store import Registry

    data, root = serving.tiny_onnx(), tmp_path / "registry"
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    logits = serving.onnx_session(data)(normalize(pixels, serving.CONTRACT))

    def build(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(data)
        np.savez(folder / "golden.npz", pixels=pixels, logits=logits)
        (folder / "MODEL_CARD.md").write_text("# leaf\n")

    store = Registry(root)
    store.publish(serving.draft(data, "1.0.0").model_copy(update={"runtime": runtime}), build)
    store.point("leaf", "production", "1.0.0", reason="test", expected=None)
    return root


def test_a_server_builds_what_it_needs_and_answers_as_the_cpu_does(registry: Path, runtime: Runtime) -> None:
    from tests import serving
    from workbench.registry.store import Registry

    process = serving.ServerProcess(registry, KRISHI_DRAIN_DELAY="0")
    try:
        serving.wait_for(lambda: process.client.get("/readyz").status_code == 200, 300.0)
        bundle = Registry(registry).resolve("leaf", "production")
        assert bundle.manifest.runtime == runtime
        with BACKENDS["onnxruntime"].session(bundle.artifact, OrtRuntime()) as session:
            for seed in range(4):
                photo = serving.encoded(serving.noise(seed), "PNG")
                logits = session.infer(preprocess(photo, serving.CONTRACT))[0].astype(np.float64)
                probabilities = np.exp(logits) / np.exp(logits).sum()
                answer = process.client.post("/predict", files={"file": ("a.png", photo)})
                assert answer.status_code == 200, answer.text
                assert answer.json()["class_id"] == logits.argmax()
                assert answer.json()["confidence"] == pytest.approx(probabilities.max(), rel=1e-3)
    finally:
        assert process.end() == 0, process.log
