"""onnxruntime's CUDA provider: what can be proved of it without a GPU, and with one where there is one.

Buffers on a device are ordinary memory when the device is the CPU: all but the copies is the same code.
"""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="graphs are ONNX")
ort = pytest.importorskip("onnxruntime", reason="its sessions are opened")

from tests.builders import small_classifier  # noqa: E402
from workbench.backends import OrtRuntime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.ort import gpu  # noqa: E402
from workbench.backends.ort.audit import RECORD, assigned, refuse_idle, refuse_other  # noqa: E402
from workbench.backends.ort.gpu import KEPT, Bound, Buffers  # noqa: E402
from workbench.backends.table import BACKENDS  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.system.nvidia_check import CUDA_PROVIDER as CUDA  # noqa: E402
from workbench.system.nvidia_check import missing_link  # noqa: E402

SIDE, CLASSES = 16, 4
IMAGES: NDArray[np.float32] = np.random.default_rng(0).standard_normal((8, 3, SIDE, SIDE), np.float32)
CPU = "CPUExecutionProvider"
GRAPHS = OrtRuntime(device="cuda", cuda_graph=True, batch=3)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return small_classifier(tmp_path_factory.mktemp("onnx"), SIDE, CLASSES, 8)


def options() -> Any:
    made = ort.SessionOptions()
    made.intra_op_num_threads = 1
    made.log_severity_level = 3
    made.add_session_config_entry(RECORD, "1")
    return made


@pytest.fixture(scope="module")
def opened(artifact: Artifact) -> Any:
    return ort.InferenceSession(artifact.read(), options(), providers=[CPU])


@pytest.fixture(scope="module")
def expected(opened: Any) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = opened.run(None, {"x": IMAGES})[0]
    return logits


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Buffers]]:
    """All buffers that are made."""
    found: list[Buffers] = []
    real = Bound._new

    def remember(self: Bound, *shape: Any) -> Buffers:
        found.append(real(self, *shape))
        return found[-1]

    monkeypatch.setattr(Bound, "_new", remember)
    yield found


def in_threads(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_logits_through_bound_buffers_are_those_of_a_plain_call(
    opened: Any, expected: NDArray[np.float32]
) -> None:
    bound = Bound(opened, CLASSES, device="cpu")
    for count in (1, 3, 1, 8):
        np.testing.assert_allclose(bound.infer(IMAGES[:count]), expected[:count], rtol=1e-5, atol=1e-5)
    first = bound.infer(IMAGES[:1])
    bound.infer(IMAGES[1:2])
    np.testing.assert_allclose(first, expected[:1], rtol=1e-5, atol=1e-5)  # handed out, not lent


def test_a_batch_that_is_not_in_one_piece_is_copied_as_it_reads(
    opened: Any, expected: NDArray[np.float32]
) -> None:
    logits = Bound(opened, CLASSES, device="cpu").infer(IMAGES[::2])
    np.testing.assert_allclose(logits, expected[::2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("graphs", [False, True])
def test_threads_that_call_at_once_get_their_own_answers(
    opened: Any, expected: NDArray[np.float32], graphs: bool
) -> None:
    bound = Bound(opened, CLASSES, (1, 2), device="cpu", graphs=graphs)
    wrong: list[int] = []

    def work(index: int) -> None:
        answers = [bound.infer(IMAGES[index : index + 1]) for _ in range(50)]
        wrong.extend(index for logits in answers if not np.allclose(logits, expected[index], atol=1e-5))

    in_threads(4, work)
    assert wrong == []


def test_each_thread_has_buffers_of_its_own_and_keeps_few(opened: Any, made: list[Buffers]) -> None:
    bound = Bound(opened, CLASSES, device="cpu")
    for count in (*range(1, KEPT + 2), KEPT + 1):
        bound.infer(IMAGES[:count])
    assert len(made) == KEPT + 1
    assert len(bound._own.buffers) == KEPT
    in_threads(2, lambda _: bound.infer(IMAGES[:1]))
    assert len(made) == KEPT + 3


def test_a_captured_graph_keeps_its_addresses_and_is_told_apart_by_its_batch(
    opened: Any, expected: NDArray[np.float32], made: list[Buffers], artifact: Artifact
) -> None:
    bound = gpu.bound(opened, artifact, GRAPHS, device="cpu")
    for count in (3, 5, 3, 6, 3):
        np.testing.assert_allclose(bound.infer(IMAGES[:count]), expected[:count], rtol=1e-5, atol=1e-5)
    in_threads(2, lambda _: bound.infer(IMAGES[:3]))
    assert [buffers.photos.shape()[0] for buffers in made] == [3, 8]  # 5 and 6 photos are filled up to 8
    told = [buffers.options.get_run_config_entry("gpu_graph_id") for buffers in made if buffers.options]
    assert told == ["3", "8"]


def test_graphs_are_captured_for_two_threads_at_most_however_many_call(
    opened: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = gpu.bound(opened, artifact, GRAPHS, device="cpu")
    callers: list[threading.Thread] = []
    run = bound._run

    def remembered(buffers: Buffers) -> None:
        callers.append(threading.current_thread())
        run(buffers)

    monkeypatch.setattr(bound, "_run", remembered)
    bound.infer(IMAGES[:1])
    bound.time(IMAGES[:1], 1)
    assert set(callers) == {threading.current_thread()}  # no detour while nobody else calls
    in_threads(6, lambda _: bound.infer(IMAGES[:2]))
    bound.infer(IMAGES[:1])
    assert len(set(callers)) == 2
    assert callers[-1] is not threading.current_thread()
    with pytest.raises(WorkbenchError, match="cannot run a batch"):
        bound.infer(IMAGES[:1, :, :8])


def test_calls_without_copies_are_timed_one_by_one_after_one_that_is_not(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = Bound(opened, CLASSES, device="cpu")
    runs: list[Buffers] = []
    monkeypatch.setattr(bound, "_run", runs.append)
    assert len(bound.time(IMAGES[:2], 2)) == 2
    assert len(runs) == 3


def test_too_many_photos_are_refused_and_what_onnxruntime_says_is_passed_on(opened: Any) -> None:
    bound = Bound(opened, CLASSES, (1, 4), device="cpu")
    with pytest.raises(WorkbenchError, match="takes 4 photos at a time, not 5"):
        bound.infer(IMAGES[:5])
    with pytest.raises(WorkbenchError, match=r"cannot run a batch of shape \(1, 3, 8, 16\)"):
        bound.infer(IMAGES[:1, :, :8])
    assert bound.infer(IMAGES[:1]).shape == (1, CLASSES)


def test_memory_on_a_gpu_that_is_not_there_is_an_error_to_be_read(opened: Any) -> None:
    if CUDA in ort.get_available_providers() and missing_link("GPU") is None:
        pytest.skip("there is a GPU")
    with pytest.raises(WorkbenchError, match="cannot run a batch of shape"):
        Bound(opened, CLASSES).infer(IMAGES[:1])


def test_a_session_says_itself_which_provider_got_which_nodes(opened: Any) -> None:
    if not hasattr(opened, "get_provider_graph_assignment_info"):
        pytest.skip("onnxruntime tells this since 1.24")
    nodes = assigned(opened)
    assert set(nodes) == {CPU}
    assert nodes[CPU] in (4, 5)  # of the five of the file, what basic rewriting left


def test_a_provider_that_took_nothing_is_refused_with_the_numbers() -> None:
    with pytest.raises(WorkbenchError) as caught:
        refuse_idle({CPU: 99}, CUDA)
    assert caught.value.message == f"{CUDA} took none of the 99 nodes; all ran on {CPU}"
    refuse_idle({CPU: 98, CUDA: 1}, CUDA)


def test_a_session_that_fell_back_as_a_whole_names_the_library() -> None:
    with pytest.raises(WorkbenchError) as caught:
        refuse_other(CPU, CUDA, lambda: "it needs libcublasLt.so.13")
    assert caught.value.message == f"asked for {CUDA}, onnxruntime took {CPU}: it needs libcublasLt.so.13"
    refuse_other(CUDA, CUDA, lambda: None)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_without_a_gpu_a_session_forced_open_is_refused_with_the_reason(artifact: Artifact) -> None:
    if missing_link("GPU") is None:
        pytest.skip("there is a GPU")
    runtime = OrtRuntime(device="cuda")
    for call in (
        lambda: BACKENDS["onnxruntime"].session(artifact, runtime).__enter__(),
        lambda: BACKENDS["onnxruntime"].audit(artifact, runtime, IMAGES[:1]),
    ):
        with pytest.raises(WorkbenchError, match=r"needs lib|took CPUExecutionProvider"):
            call()


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_on_a_gpu_the_answers_stay_and_the_provider_did_the_work(
    artifact: Artifact, expected: NDArray[np.float32], cuda_graph: bool
) -> None:
    runtime = OrtRuntime(device="cuda", cuda_graph=cuda_graph)
    if reason := BACKENDS["onnxruntime"].unavailable(runtime):
        pytest.skip(reason)
    with BACKENDS["onnxruntime"].session(artifact, runtime) as session:
        for count in (1, 3, 8, 1):
            np.testing.assert_allclose(session.infer(IMAGES[:count]), expected[:count], rtol=1e-3, atol=1e-3)
        assert (session.device, session.provider) == ("cuda", CUDA)
        assert session.on_device is not None
        times = session.on_device.time(IMAGES[:8], 5)
        assert len(times) == 5
        assert min(times) > 0
        wrong: list[int] = []

        def work(index: int) -> None:
            answers = [session.infer(IMAGES[index : index + 1]) for _ in range(20)]
            wrong.extend(index for logits in answers if not np.allclose(logits, expected[index], atol=1e-3))

        in_threads(4, work)
        assert wrong == []
    found = BACKENDS["onnxruntime"].audit(artifact, runtime, IMAGES[:1])
    assert found.providers.get(CUDA, 0) > 0
