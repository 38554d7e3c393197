"""OpenVINO: what is asked is what is computed, by several threads at once, from verified files."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the network is exported from torch")
onnx = pytest.importorskip("onnx", reason="IR is converted from ONNX")
pytest.importorskip("onnxruntime", reason="logits are held against onnxruntime's")
pytest.importorskip("openvino")

from tests.builders import exported, mobile_network  # noqa: E402
from workbench.backends import RUNTIME, OpenvinoRuntime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.base import Session  # noqa: E402
from workbench.backends.openvino import backend  # noqa: E402
from workbench.backends.openvino.ir import ir_info, read, save  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.model.graph.onnx_file import describe, logits_of  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps.fold import fold_preprocess  # noqa: E402
from workbench.steps.fp16.convert import fp16  # noqa: E402
from workbench.steps.fp16.settings import Fp16  # noqa: E402
from workbench.system.files import sha256_file  # noqa: E402
from workbench.system.machine import usable_cores  # noqa: E402

pytestmark = pytest.mark.integration

CLASSES = 7
CONTRACT = Preprocess(resize=32, crop=32, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(mobile_network(CLASSES), tmp_path_factory.mktemp("onnx") / "model.onnx", 32)


def convert_file(source: Path, folder: Path) -> None:
    save(read(source.read_bytes(), source.name), folder)


def converted(source: Path, folder: Path) -> Artifact:
    folder.mkdir(exist_ok=True)
    convert_file(source, folder)
    return Artifact(folder, ir_info(folder))


@pytest.fixture(scope="module")
def artifact(source: Path) -> Artifact:
    return converted(source, source.parent / "ir")


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def photos(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return normalize(pixels, CONTRACT)


@pytest.fixture(scope="module")
def expected(source: Path, photos: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits_of(source, describe(source), photos)


@contextmanager
def opened(artifact: Artifact, **fields: Any) -> Iterator[Session]:
    """A session as a recipe asks for it, on one thread unless said otherwise; skipped where it cannot be."""
    runtime = RUNTIME.validate_python({"backend": "openvino", "threads": 1, **fields})
    if (reason := backend.unavailable(runtime)) is not None:
        pytest.skip(reason)
    with backend.session(artifact, runtime) as session:
        yield session


def test_the_ir_is_read_back_from_its_files(artifact: Artifact) -> None:
    info = artifact.info
    assert (info.format, info.file, info.precision) == ("openvino", "model.xml", "fp32")
    assert (info.input_shape, info.classes, info.pixels) == ((0, 3, 32, 32), CLASSES, False)
    assert info.sha256 == sha256_file(artifact.path)
    (weights,) = info.companions
    assert weights.file == "model.bin"
    assert weights.sha256 == sha256_file(artifact.folder / "model.bin")
    parameters = sum(parameter.numel() for parameter in mobile_network(CLASSES).parameters())
    assert weights.size_bytes > 4 * parameters, "weights are stored in full precision"


def test_the_same_onnx_gives_the_same_bytes_that_name_no_place(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source)
    model.graph.node[0].metadata_props.add(key="trace", value=str(tmp_path))
    model.metadata_props.add(key="trace", value=str(tmp_path))
    onnx.save(model, tmp_path / "traced.onnx")
    first, second = (converted(tmp_path / "traced.onnx", tmp_path / name) for name in ("a", "b"))
    assert first.digest == second.digest
    assert str(tmp_path).encode() not in first.path.read_bytes()


def test_f32_gives_the_logits_of_onnxruntime(
    artifact: Artifact, photos: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    with opened(artifact) as session:
        assert (session.device, session.provider, session.threads) == ("cpu", "openvino CPU (f32)", 1)
        one_by_one = np.concatenate([session.infer(photos[i : i + 1]) for i in range(len(photos))])
        together = session.infer(photos)
    assert one_by_one.dtype == np.float32
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)
    np.testing.assert_allclose(together, expected, atol=1e-5)


@pytest.mark.parametrize("hint", ["bf16", "f16"])
def test_a_shorter_precision_is_really_computed(
    artifact: Artifact, photos: NDArray[np.float32], expected: NDArray[np.float32], hint: str
) -> None:
    with opened(artifact, precision=hint) as session:
        assert session.provider == f"openvino CPU ({hint})"
        logits = session.infer(photos)
    rounding = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 1e-5 < rounding < 0.05, "neither float32 nor nonsense"


def test_a_precision_this_processor_lacks_is_unavailable_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "_capabilities", lambda: frozenset({"FP32", "INT8"}))
    reason = backend.unavailable(OpenvinoRuntime(precision="bf16"))
    assert reason is not None
    assert "does not compute in bf16 (it does in f32)" in reason
    assert backend.unavailable(OpenvinoRuntime(precision="f32")) is None


def test_a_precision_that_openvino_swapped_is_an_error(artifact: Artifact) -> None:
    able = backend._capabilities()
    if "FP16" in able or "BF16" not in able:
        pytest.skip("it takes a processor with bf16 and without fp16")
    runtime = OpenvinoRuntime(precision="f16")
    with (
        pytest.raises(WorkbenchError, match="asked openvino for f16, it computes in bf16"),
        backend.session(artifact, runtime),
    ):
        pass


def test_the_audit_tells_the_precision_that_is_computed(
    artifact: Artifact, photos: NDArray[np.float32]
) -> None:
    runtime = OpenvinoRuntime(precision="bf16")
    found = backend.audit(artifact, OpenvinoRuntime(), photos[:1])
    assert (found.computes, found.fp32_share) == ("fp32", 1.0)
    if backend.unavailable(runtime) is None:
        assert (backend.audit(artifact, runtime, photos[:1]).half_share or 0) > 0.5


def test_more_threads_than_processors_are_an_error(artifact: Artifact) -> None:
    with (
        pytest.raises(WorkbenchError, match="INFERENCE_NUM_THREADS"),
        opened(artifact, threads=usable_cores() + 1),
    ):
        pass


def test_threads_and_streams_are_the_ones_asked_for(artifact: Artifact) -> None:
    cores = usable_cores()
    with opened(artifact, threads=cores) as session:
        assert session.threads == cores
    with opened(artifact, streams=cores) as session:
        assert session.threads == 1


def test_four_threads_at_once_get_the_answers_of_one(artifact: Artifact, photos: NDArray[np.float32]) -> None:
    with opened(artifact) as session, ThreadPoolExecutor(4) as pool:
        alone = [session.infer(photos[i : i + 1]) for i in range(len(photos))]
        rows = [i % len(photos) for i in range(200)]
        answers = list(pool.map(lambda i: session.infer(photos[i : i + 1]), rows))
    for row, answer in zip(rows, answers, strict=True):
        np.testing.assert_array_equal(answer, alone[row])


def test_a_batch_of_the_wrong_size_is_a_sentence(artifact: Artifact) -> None:
    with opened(artifact) as session, pytest.raises(WorkbenchError, match="cannot run a batch of shape"):
        session.infer(np.zeros((1, 3, 16, 16), np.float32))


def test_a_fixed_batch_is_filled_up_as_in_onnxruntime(
    tmp_path: Path, photos: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    source = exported(mobile_network(CLASSES), tmp_path / "four.onnx", 32, batch=4)
    artifact = converted(source, tmp_path / "ir")
    assert artifact.info.input_shape == (4, 3, 32, 32)
    with opened(artifact, batch=4) as session:
        np.testing.assert_allclose(session.infer(photos[:4]), expected[:4], atol=1e-5)
        np.testing.assert_allclose(session.infer(photos[:1]), expected[:1], atol=1e-5)
        with pytest.raises(WorkbenchError, match="takes 4 photos at a time, not 5"):
            session.infer(photos[:5])


def test_what_is_no_ir_is_refused_for_it_may_read_other_files(artifact: Artifact, source: Path) -> None:
    named = {"file": source.name, "sha256": sha256_file(source)}
    disguised = Artifact(source.parent, artifact.info.model_copy(update={**named, "companions": ()}))
    with pytest.raises(WorkbenchError, match="it is no XML"), opened(disguised):
        pass


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_changed_file_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    artifact = converted(source, tmp_path / "ir")
    path = artifact.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WorkbenchError, match="is not the file that was recorded"), opened(artifact):
        pass


def test_a_network_that_takes_pixels_converts_and_runs(
    source: Path, tmp_path: Path, pixels: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    fold_preprocess(source, tmp_path / "pixels.onnx", CONTRACT)
    artifact = converted(tmp_path / "pixels.onnx", tmp_path / "ir")
    assert (artifact.info.pixels, artifact.info.input_shape) == (True, (0, 3, 32, 32))
    assert artifact.info.precision == "fp32"
    with opened(artifact, batch=3) as session:
        np.testing.assert_allclose(session.infer(pixels[:3]), expected[:3], atol=1e-4)
        np.testing.assert_allclose(session.infer(pixels[:1]), expected[:1], atol=1e-4)


def test_an_fp16_file_is_told_apart(source: Path, tmp_path: Path) -> None:
    fp16(Fp16(use="fp16"), source, tmp_path / "half.onnx")
    assert converted(tmp_path / "half.onnx", tmp_path / "ir").info.precision == "fp16"


def test_two_outputs_are_refused(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        two (float[1,3,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z) { y = Relu(x) z = Neg(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "two.onnx")
    convert_file(tmp_path / "two.onnx", tmp_path)
    with pytest.raises(WorkbenchError, match="1 input and 2 outputs"):
        ir_info(tmp_path)


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        own (float[1,3,4,4] x) => (float[1,3] y) { y = my.Wobble(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "own.onnx")
    with pytest.raises(WorkbenchError, match=r"cannot read own\.onnx: No conversion rule .*my\.Wobble"):
        convert_file(tmp_path / "own.onnx", tmp_path)


def test_the_cache_of_compiled_networks_is_private_and_off_unless_asked_for(
    artifact: Artifact, photos: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path))
    with opened(artifact) as session:
        plain = session.infer(photos[:1])
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(backend.CACHE_SWITCH, "1")
    for _ in range(2):
        with opened(artifact) as session:
            np.testing.assert_array_equal(session.infer(photos[:1]), plain)
    (blob,) = (path for path in (tmp_path / "openvino").iterdir() if path.suffix == ".blob")
    blob.unlink()
    (tmp_path / "openvino").chmod(0o777)  # anybody could put a blob of theirs there
    with opened(artifact) as session:
        session.infer(photos[:1])
    assert not list((tmp_path / "openvino").glob("*.blob"))


def test_importing_openvino_reports_to_nobody(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "from workbench.backends.openvino.backend import without_telemetry as hush; hush();"
        "import openvino, sys;"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    home, root = {"HOME": str(tmp_path)}, Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=home, cwd=root) == "[]\n"
    assert not list(tmp_path.iterdir()), "no consent file, no client id"
