"""The TensorRT backend on a pretended GPU: what it computes, how it calls, what it says when it cannot."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="the networks are ONNX files")
ort = pytest.importorskip("onnxruntime", reason="the pretended engine computes through it")

from tests.nvidia.fake_cuda import KERNEL_MS, FakeCuda, cudaError_t  # noqa: E402
from tests.nvidia.fake_engine import Engine  # noqa: E402
from tests.nvidia.fake_world import World  # noqa: E402
from tests.nvidia.machine import CLASSES, GPU, SIDE, install, install_cuda, network, pretend  # noqa: E402
from workbench.backends import RUNTIME, Runtime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.tensorrt import (  # noqa: E402
    backend,
    lane,
)
from workbench.backends.tensorrt.build import Sizes, plan_of  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.system import nvidia  # noqa: E402

VERSIONS = ("tensorrt-10.13", "tensorrt-11.4")
PHOTOS = np.random.default_rng(1).standard_normal((9, 3, SIDE, SIDE)).astype(np.float32)
PIXELS = np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(params=VERSIONS)
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return pretend(monkeypatch, request.param, tmp_path)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return network(tmp_path / "free")


def asked(**fields: Any) -> Runtime:
    return RUNTIME.validate_python({"backend": "tensorrt", "device": "cuda", **fields})


def expected(artifact: Artifact, batch: NDArray[Any]) -> NDArray[np.float32]:
    session = ort.InferenceSession(artifact.read(), providers=["CPUExecutionProvider"])
    fixed = artifact.info.input_shape[0]
    whole = np.resize(batch, (fixed, *batch.shape[1:])) if fixed else batch
    logits: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: whole})[0]
    return logits[: len(batch)]


def error_of(call: Callable[[], object]) -> WorkbenchError:
    with pytest.raises(WorkbenchError) as caught:
        call()
    return caught.value


def opened(artifact: Artifact, runtime: Runtime) -> None:
    with backend.session(artifact, runtime):
        pass


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_logits_are_those_of_onnxruntime(world: World, artifact: Artifact, graph: bool, count: int) -> None:
    with backend.session(artifact, asked(cuda_graph=graph)) as session:
        for _ in range(3):
            logits = session.infer(PHOTOS[:count])
            np.testing.assert_allclose(logits, expected(artifact, PHOTOS[:count]), rtol=1e-4, atol=1e-5)
        assert (session.provider, session.device, str(logits.dtype)) == ("TensorRT", "cuda", "float32")
    assert world.cuda.live == 0


def test_pixels_go_in_as_bytes(world: World, tmp_path: Path) -> None:
    artifact = network(tmp_path / "pixels", pixels=True)
    with backend.session(artifact, asked()) as session:
        np.testing.assert_allclose(session.infer(PIXELS), expected(artifact, PIXELS), rtol=1e-4)


def test_a_fixed_batch_is_filled_and_has_no_profile(world: World, tmp_path: Path) -> None:
    artifact = network(tmp_path / "fixed", batch=4)
    with backend.session(artifact, asked(cuda_graph=True)) as session:
        for count in (1, 4):
            np.testing.assert_allclose(
                session.infer(PHOTOS[:count]), expected(artifact, PHOTOS[:count]), rtol=1e-4
            )
        assert "takes 4 photos at a time, not 5" in error_of(lambda: session.infer(PHOTOS[:5])).message
    assert world.built[0]["profiles"] == []


def test_more_photos_than_the_engine_takes_go_in_several_calls(world: World, artifact: Artifact) -> None:
    with backend.session(artifact, asked(max_batch=4)) as session:
        np.testing.assert_allclose(session.infer(PHOTOS), expected(artifact, PHOTOS), rtol=1e-4, atol=1e-5)
    image = [3, SIDE, SIDE]
    assert world.built[0]["profiles"] == [
        [[1, *image], [1, *image], [1, *image]],
        [[2, *image], [4, *image], [4, *image]],
    ]


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({}, ((1, 1, 1), (2, 64, 64))),
        ({"max_batch": 1}, ((1, 1, 1),)),
        ({"max_batch": 16, "batch": 8}, ((1, 1, 1), (2, 8, 16))),
        ({"batch": 128}, ((1, 1, 1), (2, 128, 128))),
    ],
)
def test_profiles_are_one_photo_and_more(
    artifact: Artifact, fields: dict[str, int], sizes: tuple[tuple[int, int, int], ...]
) -> None:
    plan = plan_of(artifact.info, asked(**fields))
    assert plan.sizes == tuple(Sizes(*each) for each in sizes)


def test_the_engine_is_typed_by_its_graph_and_computes_fp32_exactly(world: World, artifact: Artifact) -> None:
    opened(artifact, asked())
    built = world.built[0]
    assert (built["typed"], built["flags"], built["detailed"]) == (True, [], True)
    assert (built["pools"], built["level"], built["hardware"]) == ({}, 3, None)
    assert world.plugins == 1


def test_every_option_reaches_the_builder(world: World, artifact: Artifact) -> None:
    opened(artifact, asked(precision="tf32"))
    built = world.built[0]
    assert built["flags"] == ["TF32"]


def test_threads_that_call_at_once_get_their_own_logits(world: World, artifact: Artifact) -> None:
    wrong: list[int] = []
    wanted = {count: expected(artifact, PHOTOS[:count]) for count in range(1, 7)}

    def call(number: int) -> None:
        for turn in range(12):
            count = 1 + (number + turn) % 6
            if not np.allclose(session.infer(PHOTOS[:count]), wanted[count], rtol=1e-4, atol=1e-5):
                wrong.append(count)

    with backend.session(artifact, asked(cuda_graph=True)) as session:
        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert 1 <= world.cuda.calls.count("cudaStreamCreateWithFlags") <= 4
    assert world.cuda.live == 0


def test_a_graph_is_recorded_once_for_each_batch_size(world: World, artifact: Artifact) -> None:
    with backend.session(artifact, asked(cuda_graph=True)) as session:
        for count in (1, 3, 1, 3, 3):
            session.infer(PHOTOS[:count])
    assert world.cuda.calls.count("cudaStreamBeginCapture") == 2
    assert world.cuda.calls.count("cudaGraphLaunch") == 5
    assert world.cuda.live == 0


def test_only_so_many_graphs_are_held(
    world: World, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "GRAPHS", 2)
    with backend.session(artifact, asked(cuda_graph=True)) as session:
        for count in (1, 2, 3, 2, 1):
            np.testing.assert_allclose(
                session.infer(PHOTOS[:count]), expected(artifact, PHOTOS[:count]), rtol=1e-4, atol=1e-5
            )
    assert world.cuda.calls.count("cudaStreamBeginCapture") == 4
    assert world.cuda.live == 0


def test_a_network_that_cannot_be_recorded_is_an_error_that_says_so(world: World, artifact: Artifact) -> None:
    world.unrecordable = True
    with backend.session(artifact, asked(cuda_graph=True)) as session:
        error = error_of(lambda: session.infer(PHOTOS[:1]))
    assert error.message.startswith("recording a CUDA graph: TensorRT, running a batch of 1")
    assert "leave `runtime.cuda_graph` out" in (error.hint or "")
    assert world.cuda.live == 0


@pytest.mark.parametrize("graph", [False, True])
def test_the_time_on_the_device_is_that_of_the_kernels(world: World, artifact: Artifact, graph: bool) -> None:
    with backend.session(artifact, asked(cuda_graph=graph)) as session:
        assert session.on_device is not None
        times = session.on_device.time(PHOTOS[:2], 5)
        assert "CUDA events" in session.on_device.how
        too_many = np.zeros((65, 3, SIDE, SIDE), np.float32)
        refused = error_of(lambda: session.on_device and session.on_device.time(too_many, 1))
    assert times == (round(KERNEL_MS * 1e6),) * 5
    assert "64 photos at a time" in refused.message
    assert world.cuda.live == 0


@pytest.mark.parametrize(
    "batch", [PHOTOS.astype(np.float64), PHOTOS[:, :, :4], PHOTOS[:0]], ids=["float64", "small", "empty"]
)
def test_what_the_engine_does_not_take_is_refused_before_the_gpu_sees_it(
    world: World, artifact: Artifact, batch: Any
) -> None:
    with backend.session(artifact, asked()) as session:
        assert (
            "the engine takes photos of (3, 8, 8) float32" in error_of(lambda: session.infer(batch)).message
        )
    assert "cudaMalloc" not in world.cuda.calls


def test_nodes_that_the_parser_refuses_are_named(world: World, artifact: Artifact) -> None:
    world.refuse = [("act", "HardSwish", "no importer\n for it"), ("", "Foo", "unknown"), ("", "", "broken")]
    error = error_of(lambda: opened(artifact, asked()))
    assert error.message == (
        "TensorRT cannot take model.onnx: node `act` (HardSwish): no importer for it; Foo: unknown; broken"
    )
    assert "another opset or exporter" in (error.hint or "")


def test_a_build_that_fails_says_what_tensorrt_complained_of(
    world: World, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    world.complaint = "Error Code 10: no implementation for node conv"
    error = error_of(lambda: opened(artifact, asked()))
    assert error.message == f"TensorRT, building an engine of model.onnx: {world.complaint}"
    assert f"tensorrt: {world.complaint}\n" in capsys.readouterr().err


def test_full_gpu_memory_is_said_and_nothing_leaks(world: World, artifact: Artifact) -> None:
    world.cuda.fail["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    with backend.session(artifact, asked()) as session:
        error = error_of(lambda: session.infer(PHOTOS[:1]))
        assert "CUDA, while reserving" in error.message
        assert "cudaErrorMemoryAllocation" in error.message
        assert "the GPU's memory is full" in (error.hint or "")
        world.cuda.fail.clear()
        assert session.infer(PHOTOS[:1]).shape == (1, CLASSES)  # what failed blocks nobody
    assert world.cuda.live == 0


def test_an_error_while_waiting_is_not_hidden_by_those_of_cleaning_up(
    world: World, artifact: Artifact
) -> None:
    def failing() -> None:
        with backend.session(artifact, asked()) as session:
            session.infer(PHOTOS[:1])
            for name in ("cudaStreamSynchronize", "cudaFree", "cudaFreeHost", "cudaStreamDestroy"):
                world.cuda.fail[name] = cudaError_t.cudaErrorInvalidValue
            session.infer(PHOTOS[:1])

    assert "while waiting for the GPU" in error_of(failing).message


def test_a_closed_session_says_so_and_holds_no_engine(world: World, artifact: Artifact) -> None:
    with backend.session(artifact, asked()) as session:
        session.infer(PHOTOS[:1])
        (engine,) = [thing for thing in gc.get_objects() if type(thing) is world.shown[Engine]]
        held = weakref.ref(engine)
        del engine
    gc.collect()
    assert held() is None
    assert error_of(lambda: session.infer(PHOTOS[:1])).message == "this session is closed"


def test_the_driver_is_asked_for_before_any_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.NO_DRIVER)
    install(monkeypatch, "tensorrt", None)
    assert backend.unavailable(asked()) == nvidia.NO_DRIVER


def test_each_missing_link_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = pretend(monkeypatch, VERSIONS[0], tmp_path)
    trt = sys.modules["tensorrt"]
    assert backend.unavailable(asked()) is None
    install(monkeypatch, "cuda", ModuleType("cuda"))
    monkeypatch.delitem(sys.modules, "cuda.bindings")
    reason = "`cuda-bindings` is not installed: pip install 'krishi-bench[tensorrt]'"
    assert backend.unavailable(asked()) == reason
    install_cuda(monkeypatch, FakeCuda(version=14010))
    assert backend.unavailable(asked()) == (
        "`cuda-bindings` is built for CUDA 14, and the driver runs CUDA 13 at most: update the driver, or "
        "pip install 'cuda-bindings<14'"
    )
    install_cuda(monkeypatch, world.cuda)
    monkeypatch.setattr(trt, "__version__", "10.2.0.1")
    assert backend.unavailable(asked()) == (
        "`tensorrt` 10.2.0.1 is too old, 10.3 is the first that serves: pip install 'krishi-bench[tensorrt]'"
    )
    monkeypatch.setattr(trt, "__version__", "8.6.1")
    assert "8.6.1 is too old" in (backend.unavailable(asked()) or "")


def test_a_tensorrt_that_is_not_there_or_does_not_load_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda: GPU)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if "ditable" not in repr(each)])
    assert backend.unavailable(asked()) == (
        "`tensorrt` is not installed: pip install 'krishi-bench[tensorrt]'"
    )
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: not found')\n")
    assert "its libraries do not load (libnvinfer.so.11: not found)" in (backend.unavailable(asked()) or "")
