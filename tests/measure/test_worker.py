"""The process that holds one session: what it answers is the runtime's own, and it says what it costs."""

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from tests.builders import artifact_info, onnx_model, small_classifier
from workbench.backends import NullRuntime, OrtRuntime
from workbench.backends.artifact import Artifact
from workbench.measure.session_process import TIMED_IMAGES, OpenSession
from workbench.measure.throughput import photos_per_s
from workbench.measure.warm_up import MIN_CALLS
from workbench.measure.worker import Worker
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.system.child import ChildError
from workbench.system.nvidia_check import missing_link

pytestmark = pytest.mark.integration

CONTRACT = Preprocess(resize=20, crop=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
PHOTOS, CLASSES = 70, 5  # more than one chunk of an evaluation


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    path = tmp_path_factory.mktemp("pixels") / "photos.npy"
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS, 16, 16, 3), dtype=np.uint8)
    np.save(path, pixels)
    return Images(path, tuple(i % CLASSES for i in range(PHOTOS)), CONTRACT, "0" * 64)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Flatten and Gemm; 60 MB of weights more that it adds up, so that its memory can be seen."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "gemm"], ["scores"]),
        helper.make_node("ReduceMean", ["images"], ["shade"], keepdims=0),
        helper.make_node("Mul", ["shade", "ballast"], ["shaded"]),
        helper.make_node("ReduceMean", ["shaded"], ["mean"], keepdims=0),
        helper.make_node("Add", ["scores", "mean"], ["logits"]),
    ]
    weights = {"gemm": rng.normal(0, 0.05, (3 * 16 * 16, CLASSES)), "ballast": rng.normal(0, 1, 15_000_000)}
    model = onnx_model(nodes, weights, ("images", ["n", 3, 16, 16]), ("logits", ["n", CLASSES]))
    return stored(tmp_path_factory.mktemp("artifact"), model.SerializeToString())


def stored(folder: Path, data: bytes, sha256: str | None = None) -> Artifact:
    (folder / "model.onnx").write_bytes(data)
    info = artifact_info(
        data,
        format="onnx",
        file="model.onnx",
        opset=17,
        precision="fp32",
        input_shape=(0, 3, 16, 16),
        classes=CLASSES,
    )
    return Artifact(folder, info if sha256 is None else info.model_copy(update={"sha256": sha256}))


@pytest.fixture(scope="module")
def worker(artifact: Artifact, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    log = tmp_path_factory.mktemp("logs") / "worker.txt"
    with Worker(artifact, OrtRuntime(threads=2), images, log=log) as worker:
        worker.ready()
        yield worker


def expected_logits(artifact: Artifact, images: Images) -> NDArray[np.float32]:
    """By nothing but onnxruntime and numpy, one photo at a time."""
    session = onnxruntime.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    pixels = np.load(images.path).astype(np.float64) / 255
    batch = ((pixels - CONTRACT.mean) / CONTRACT.std).transpose(0, 3, 1, 2).astype(np.float32)
    return np.concatenate([session.run(None, {"images": batch[i : i + 1]})[0] for i in range(len(batch))])


def test_the_logits_are_those_of_the_runtime_alone(
    worker: Worker, artifact: Artifact, images: Images
) -> None:
    seen: list[tuple[int, int]] = []
    logits = worker.evaluate(lambda done, total: seen.append((done, total)))
    assert logits.shape == (PHOTOS, CLASSES)
    np.testing.assert_allclose(logits, expected_logits(artifact, images), rtol=1e-4, atol=1e-4)
    assert seen == [(64, PHOTOS), (PHOTOS, PHOTOS)]


def test_the_same_photos_give_the_same_bits(worker: Worker) -> None:
    runs = [worker.evaluate(lambda *_: None) for _ in range(2)]
    assert np.array_equal(*runs)


def test_it_says_what_the_session_is_and_not_what_was_asked_for(worker: Worker) -> None:
    opened = worker.describe()
    assert (opened.device, opened.provider, opened.threads) == ("cpu", "CPUExecutionProvider", 2)
    assert 0 < opened.load_s < 30


def test_a_burst_is_as_many_times_as_asked_for(worker: Worker) -> None:
    times = worker.burst(2 * TIMED_IMAGES + 1)
    assert len(times) == 2 * TIMED_IMAGES + 1
    assert all(isinstance(time_ns, int) and 1_000 < time_ns < 10**10 for time_ns in times)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processors cannot be chosen here")
def test_all_threads_of_a_worker_stay_on_the_processors_it_was_given(images: Images, tmp_path: Path) -> None:
    last = max(os.sched_getaffinity(0))
    artifact = small_classifier(tmp_path, 16, CLASSES, 8)
    with Worker(artifact, OrtRuntime(), images, log=tmp_path / "log.txt", cpus=[last]) as worker:
        worker.ready()
        worker.burst(3)
        threads = [int(thread.name) for thread in Path(f"/proc/{worker.pid}/task").iterdir()]
        assert {cpu for thread in threads for cpu in os.sched_getaffinity(thread)} == {last}


def test_a_warm_up_calls_the_session(worker: Worker) -> None:
    warm = worker.warm_up()
    # On a machine that is busy otherwise it ends after a second.
    assert warm.calls >= MIN_CALLS or not warm.settled


def test_batches_are_timed_by_the_worker_and_what_a_cpu_has_not_is_none(worker: Worker) -> None:
    assert worker.describe().engine is None
    assert worker.ask(OpenSession.device_time, 1) is None
    speed = worker.ask(OpenSession.gpu_throughput, 2)
    assert speed is not None
    assert (speed.batch, speed.on_device) == (2, None)
    assert speed.with_copies > 1


def test_memory_is_what_the_model_takes_above_an_empty_worker(
    worker: Worker, artifact: Artifact, images: Images, tmp_path: Path
) -> None:
    nothing = artifact.info.model_copy(update={"format": "null", "file": ""})
    empty = Worker(Artifact(tmp_path, nothing), NullRuntime(), images, log=tmp_path / "log.txt")
    with empty:
        empty.ready()
        empty.burst(20)
        floor = empty.memory().peak_bytes
    taken = worker.memory().peak_bytes - floor
    assert 10e6 < floor < 500e6
    assert artifact.info.size_bytes < taken < 10 * artifact.info.size_bytes


def test_the_memory_of_the_parent_is_not_counted(images: Images, artifact: Artifact, tmp_path: Path) -> None:
    ballast = np.ones(50_000_000)  # 400 MB, here
    nothing = artifact.info.model_copy(update={"format": "null", "file": ""})
    empty = Worker(Artifact(tmp_path, nothing), NullRuntime(), images, log=tmp_path / "log.txt")
    with empty:
        empty.ready()
        assert empty.memory().peak_bytes < ballast.nbytes


def test_a_file_that_is_not_the_one_recorded_is_not_opened(images: Images, tmp_path: Path) -> None:
    changed = stored(tmp_path, b"another model", sha256="0" * 64)
    log = tmp_path / "log.txt"
    with (
        pytest.raises(ChildError, match="is not the file that was recorded"),
        Worker(changed, OrtRuntime(), images, log=log) as worker,
    ):
        worker.ready()


def test_a_file_that_is_no_model_is_told_as_such(images: Images, tmp_path: Path) -> None:
    with (
        pytest.raises(ChildError, match=r"onnxruntime cannot open model\.onnx"),
        Worker(stored(tmp_path, b"no model"), OrtRuntime(), images, log=tmp_path / "log.txt") as worker,
    ):
        worker.ready()


def test_a_runtime_that_is_not_here_is_told_as_such(
    images: Images, artifact: Artifact, tmp_path: Path
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with (
        # The driver is asked first: without one, what is installed does not matter.
        pytest.raises(ChildError, match=re.escape(missing_link("GPU") or "has no CUDAExecutionProvider")),
        Worker(artifact, OrtRuntime(device="cuda"), images, log=tmp_path / "log.txt") as worker,
    ):
        worker.ready()


def test_what_a_thread_prepares_in_its_first_call_is_no_part_of_the_throughput() -> None:
    seen = threading.local()

    def infer(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.005 if hasattr(seen, "before") else 0.5)  # a graph is recorded, for one
        seen.before = True
        return batch

    assert 150 < photos_per_s(infer, np.zeros((2, 1), np.float32), threads=1, seconds=0.2) <= 400
    started = time.perf_counter()
    assert photos_per_s(infer, np.zeros((2, 1), np.float32), threads=3, seconds=0.2) > 300
    assert time.perf_counter() - started < 5.0
