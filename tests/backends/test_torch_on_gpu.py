"""torch on a GPU as far as it is decided without one: refusals, TF32, keys, packages, and the bookkeeping of
calls with a stand-in for the GPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch's own switches are turned")

from workbench.backends import RUNTIME, Runtime, TorchRuntime  # noqa: E402
from workbench.backends.artifact import Artifact, ArtifactInfo  # noqa: E402
from workbench.backends.tensorrt import backend as tensorrt  # noqa: E402
from workbench.backends.torch import (  # noqa: E402
    backend,
    cuda_session,
)
from workbench.backends.torch import cuda as torch_cuda  # noqa: E402
from workbench.errors import Unsuited, WorkbenchError  # noqa: E402
from workbench.model.export import export  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.run import build  # noqa: E402
from workbench.system import nvidia  # noqa: E402
from workbench.system.files import sha256_bytes  # noqa: E402
from workbench.system.nvidia import NO_DRIVER, Gpu  # noqa: E402
from workbench.workspace.recipe import Variant  # noqa: E402

H200 = Gpu("NVIDIA H200", "9.0", "13.0")
TURING = Gpu("Tesla T4", "7.5", "13.0")
SHAPE = (3, 8, 8)
IMAGES = np.random.default_rng(0).standard_normal((4, *SHAPE), np.float32)


def on_cuda(**fields: Any) -> Runtime:
    return TorchRuntime(device="cuda", **fields)


def error_of(call: Callable[[], object]) -> WorkbenchError:
    with pytest.raises(WorkbenchError) as caught:
        call()
    return caught.value


def cuda_build(
    monkeypatch: pytest.MonkeyPatch,
    gpu: Gpu | str = H200,
    *,
    cuda: str | None = "13.0",
    sees: bool = True,
    codes: tuple[str, ...] = ("sm_75", "sm_80", "sm_90", "compute_120"),
) -> None:
    """As if this torch were a CUDA build on a machine with that GPU."""
    monkeypatch.setattr(nvidia, "gpu", lambda: gpu)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(codes))


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        (["sm_80", "sm_90"], (9, 0), True),
        (["sm_80"], (8, 9), True),  # its own generation, a later minor version
        (["sm_89"], (8, 0), False),
        (["sm_80"], (9, 0), False),  # machine code is for one generation
        (["compute_80"], (12, 0), True),  # PTX is compiled for what comes later
        (["sm_75", "compute_120"], (9, 0), False),
        (["sm_90a"], (9, 0), True),
        (["compute_90a"], (10, 0), False),  # nothing but 9.0 has what it uses
        (["sm_100f"], (10, 3), True),
        (["compute_100f"], (12, 0), False),
        (["sm_100", "sm_120"], (12, 1), True),
        (["gfx942"], (9, 0), False),
        ([], (9, 0), False),
    ],
)
def test_a_build_runs_on_the_gpus_it_has_code_for(
    built_for: list[str], capability: tuple[int, int], runs: bool
) -> None:
    assert torch_cuda.runs_on(built_for, capability) is runs


def test_the_driver_is_asked_for_before_the_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_build(monkeypatch, NO_DRIVER, cuda=None)
    assert backend.unavailable(on_cuda(compile=True)) == NO_DRIVER


def test_a_cpu_build_of_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_build(monkeypatch, cuda=None, sees=False)
    reason = backend.unavailable(on_cuda()) or ""
    assert reason.startswith("this torch is a CPU build: install a CUDA build of torch")


def test_a_driver_older_than_torchs_cuda_is_named_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_build(monkeypatch, Gpu("NVIDIA A100", "8.0", "12.4"), cuda="13.0", sees=False)
    reason = backend.unavailable(on_cuda()) or ""
    assert "the NVIDIA driver runs CUDA 12.4 at most" in reason and "built for CUDA 13.0" in reason
    cuda_build(monkeypatch, Gpu("NVIDIA A100", "8.0", "13.0"), cuda="12.6", sees=False)
    reason = backend.unavailable(on_cuda()) or ""
    assert "finds no GPU, but the driver shows NVIDIA A100" in reason and "torch.cuda.init()" in reason


def test_a_gpu_that_the_build_has_no_code_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_build(monkeypatch, Gpu("Tesla V100", "7.0", "13.0"))
    reason = backend.unavailable(on_cuda()) or ""
    assert "no code for Tesla V100 (compute capability 7.0), only for sm_75, sm_80" in reason


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_precision_that_the_gpu_has_no_instructions_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    cuda_build(monkeypatch, TURING)
    assert f"has no {precision} instructions" in (backend.unavailable(on_cuda(precision=precision)) or "")
    assert backend.unavailable(on_cuda(precision="f16")) is None
    assert backend.unavailable(on_cuda()) is None
    cuda_build(monkeypatch)
    assert backend.unavailable(on_cuda(precision=precision)) is None


def test_compiling_for_a_gpu_needs_triton_and_volta(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_build(monkeypatch)
    monkeypatch.setattr(
        torch_cuda, "missing_package", lambda name, **_: "missing" if name == "triton" else None
    )
    assert "pip install triton" in (backend.unavailable(on_cuda(compile=True)) or "")
    assert backend.unavailable(on_cuda()) is None
    cuda_build(monkeypatch, Gpu("Tesla P100", "6.0", "13.0"), codes=("sm_60",))
    assert "capability 7.0 (Volta)" in (backend.unavailable(on_cuda(compile=True)) or "")


@pytest.fixture
def switches() -> Iterator[Callable[[], tuple[object, ...]]]:
    """Torch's switches of TF32, read; and put back afterwards."""
    conv, rnn = torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    before = (torch.get_float32_matmul_precision(), conv.fp32_precision, rnn.fp32_precision)
    yield lambda: (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cuda.matmul.allow_tf32,  # inductor reads it, and torch refuses where the two differ
        conv.fp32_precision,
        rnn.fp32_precision,
    )
    torch.set_float32_matmul_precision(before[0])
    conv.fp32_precision, rnn.fp32_precision = before[1:]


def test_tf32_is_off_in_matrix_products_and_convolutions_unless_asked_for(
    switches: Callable[[], tuple[object, ...]],
) -> None:
    with torch_cuda.tensor_float(False):
        assert switches() == ("ieee", False, "ieee", "ieee")
    with torch_cuda.tensor_float(True):
        assert switches() == ("tf32", True, "tf32", "tf32")
    with torch_cuda.tensor_float(False), torch_cuda.tensor_float(False):
        assert switches() == ("ieee", False, "ieee", "ieee")


@pytest.mark.parametrize(("allowed", "here"), [(True, "0"), (False, "1")])
def test_an_environment_that_decides_on_tf32_is_not_overlooked(
    allowed: bool, here: str, monkeypatch: pytest.MonkeyPatch, switches: Callable[[], tuple[object, ...]]
) -> None:
    before = switches()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", here)
    error = error_of(lambda: torch_cuda.tensor_float(allowed).__enter__())
    assert "TF32 is switched" in error.message
    assert switches() == before
    with torch_cuda.tensor_float(not allowed):  # nothing was left open by what was refused
        pass


def test_a_model_with_tf32_is_not_opened_beside_one_without(
    switches: Callable[[], tuple[object, ...]],
) -> None:
    with torch_cuda.tensor_float(False):
        error = error_of(lambda: torch_cuda.tensor_float(True).__enter__())
        assert switches() == ("ieee", False, "ieee", "ieee")
    assert "computes without TF32" in error.message
    with torch_cuda.tensor_float(True):
        assert "computes with TF32" in error_of(lambda: torch_cuda.tensor_float(False).__enter__()).message


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.LayerNorm(8),
        torch.nn.Linear(8, 6),
    ).eval()


def test_weights_rounded_once_give_what_autocast_gives() -> None:
    rounded = network()
    torch_cuda.round_weights(rounded, torch.bfloat16)
    types = {str(parameter.dtype) for parameter in rounded.parameters() if parameter.ndim == 1}
    assert (rounded[0].weight.dtype, types) == (torch.bfloat16, {"torch.float32"})
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        given = torch.from_numpy(IMAGES)
        torch.testing.assert_close(rounded(given), network()(given), rtol=0, atol=0)


class Stream:
    """A stream of a GPU that has always done everything already; it counts who waited."""

    def __init__(self) -> None:
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1


class Event:
    """Events whose clock goes on by 1.5 ms between one and the next."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, _: Stream) -> None:
        Event.clock += 1.5
        self.at_ms = Event.clock

    def elapsed_time(self, other: "Event") -> float:
        return other.at_ms - self.at_ms


class Graphs:
    """torch.cuda.CUDAGraph and its context: what is computed in the context is what a replay repeats."""

    def __init__(self, forward: Callable[[Any], Any]) -> None:
        self.forward = forward
        self.calls: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.last: tuple[Any, Any] | None = None

    def call(self, given: Any) -> Any:
        self.calls.append(f"forward {len(given)}")
        logits = self.forward(given)
        self.last = (given, logits)
        return logits

    def new(self) -> Any:
        return SimpleNamespace(replay=None)

    @contextmanager
    def record(self, graph: Any, **asked: Any) -> Iterator[None]:
        self.asked.append(asked)
        self.calls.append("record")
        yield
        assert self.last is not None
        given, logits = self.last

        def replay() -> None:
            self.calls.append(f"replay {len(given)}")
            logits.copy_(self.forward(given))

        graph.replay = replay


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """A stand-in for the GPU: the host computes."""
    made: list[Stream] = []

    def new() -> Stream:
        made.append(Stream())
        return made[-1]

    monkeypatch.setattr(cuda_session, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_session, "_pinned", torch.empty)
    monkeypatch.setattr(torch.cuda, "Stream", new)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return made


def artifact(folder: Path, *, batch: int = 0, **fields: Any) -> Artifact:
    path = folder / "model.pt2"
    path.write_bytes(b"package")
    info = ArtifactInfo(
        format="torch-aoti" if batch else "torch-export",
        file=path.name,
        sha256=sha256_bytes(b"package"),
        size_bytes=7,
        input_shape=(batch, *SHAPE),
        classes=6,
        **fields,
    )
    return Artifact(folder, info)


def halves(given: Any) -> Any:
    """A network whose logits are in half precision: sums over height and width."""
    return given.sum(dim=(2, 3)).to(torch.bfloat16)


def sums(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = torch.from_numpy(batch).sum(dim=(2, 3)).to(torch.bfloat16).float().numpy()
    return logits


def test_a_session_waits_once_a_call_and_gives_float32(streams: list[Stream], tmp_path: Path) -> None:
    session = cuda_session.open_session(halves, artifact(tmp_path), on_cuda(), "eager")
    assert (session.provider, len(streams)) == ("eager", 1)
    assert session.device == "cpu"  # read from the logits, not from the request
    waits = streams[0].waits
    first, second = session.infer(IMAGES), session.infer(IMAGES[2:3])
    assert streams[0].waits == waits + 2
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, sums(IMAGES))  # not overwritten by the second call
    np.testing.assert_array_equal(second, sums(IMAGES[2:3]))


def test_pinned_memory_is_kept_from_call_to_call_and_grows(streams: list[Stream]) -> None:
    taken: list[tuple[int, ...]] = []

    def empty(shape: tuple[int, ...]) -> Any:
        taken.append(shape)
        return torch.empty(shape)

    caller = cuda_session.Caller(lambda host: lambda: halves(host).float(), Stream(), empty)
    for count in (2, 1, 2, 4, 3):
        np.testing.assert_array_equal(caller(IMAGES[:count]), sums(IMAGES[:count]))
    assert taken == [(2, *SHAPE), (2, 3), (4, *SHAPE), (4, 3)]


def test_threads_call_on_streams_of_their_own(streams: list[Stream], tmp_path: Path) -> None:
    session = cuda_session.open_session(halves, artifact(tmp_path), on_cuda(), "eager")
    answers: list[NDArray[np.float32]] = []
    threads = [threading.Thread(target=lambda: answers.append(session.infer(IMAGES))) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len(streams) == 4
    for answer in answers:
        np.testing.assert_array_equal(answer, sums(IMAGES))


def test_calls_are_timed_by_the_events_around_them(streams: list[Stream], tmp_path: Path) -> None:
    session = cuda_session.open_session(halves, artifact(tmp_path), on_cuda(), "eager")
    assert session.on_device is not None
    assert session.on_device.how == "CUDA events"
    assert session.on_device.time(IMAGES, 3) == (1_500_000, 1_500_000, 1_500_000)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, streams: list[Stream]) -> Graphs:
    # In float32 already, so that what the stand-in repeats is where the logits are read.
    graphs = Graphs(lambda given: halves(given).float())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "the pool")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", graphs.new)
    monkeypatch.setattr(torch.cuda, "graph", graphs.record)
    return graphs


def test_a_cuda_graph_is_recorded_once_for_each_batch_size(
    graphs: Graphs, streams: list[Stream], tmp_path: Path
) -> None:
    session = cuda_session.open_session(graphs.call, artifact(tmp_path), on_cuda(cuda_graph=True), "eager")
    assert session.provider == "eager, CUDA graph"
    assert graphs.calls == ["forward 1", "forward 1", "forward 1", "record", "forward 1", "replay 1"]
    graphs.calls.clear()
    for _ in range(2):
        np.testing.assert_array_equal(session.infer(IMAGES[1:2]), sums(IMAGES[1:2]))
    np.testing.assert_array_equal(session.infer(IMAGES), sums(IMAGES))
    assert graphs.calls[:2] == ["replay 1", "replay 1"]
    assert graphs.calls[2:] == ["forward 4"] * 3 + ["record", "forward 4", "replay 4"]
    wanted = {"pool": "the pool", "stream": streams[0], "capture_error_mode": "thread_local"}
    assert graphs.asked == [wanted, wanted]
    assert len(streams) == 1


def test_threads_take_turns_with_a_cuda_graph(graphs: Graphs, tmp_path: Path) -> None:
    busy = threading.Lock()

    def alone(given: Any) -> Any:
        assert busy.acquire(blocking=False), "two calls at once"
        try:
            return halves(given).float()
        finally:
            busy.release()

    graphs.forward = alone
    session = cuda_session.open_session(graphs.call, artifact(tmp_path), on_cuda(cuda_graph=True), "eager")
    errors: list[str] = []

    def work(index: int) -> None:
        for _ in range(20):
            got = session.infer(IMAGES[index : index + 1])
            if not np.array_equal(got, sums(IMAGES[index : index + 1])):
                errors.append(f"photo {index} has another's logits")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_network_that_cannot_be_recorded_names_the_field(graphs: Graphs, tmp_path: Path) -> None:
    def looks(given: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be...")

    runtime = on_cuda(cuda_graph=True)
    error = error_of(lambda: cuda_session.open_session(looks, artifact(tmp_path), runtime, "eager"))
    assert error.message == (
        "runtime.cuda_graph: the network cannot be recorded: operation not permitted when stream is capturing"
    )


def test_a_package_for_a_fixed_batch_is_filled_up(streams: list[Stream], tmp_path: Path) -> None:
    seen: list[int] = []

    def forward(given: Any) -> Any:
        seen.append(len(given))
        return halves(given)

    session = cuda_session.open_session(forward, artifact(tmp_path, batch=4), on_cuda(batch=4), "inductor")
    np.testing.assert_array_equal(session.infer(IMAGES[:3]), sums(IMAGES[:3]))
    assert set(seen) == {4}


def test_a_package_is_bound_to_gpu_torch_cuda_and_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda_build(monkeypatch)
    made_for = torch_cuda.bound_to()
    assert made_for.startswith(f"NVIDIA H200 9.0, torch {torch.__version__}, CUDA 13.0, ")
    torch_cuda.refuse_foreign(artifact(tmp_path, batch=1, bound_to=made_for))
    cuda_build(monkeypatch, cuda="12.8")
    package = artifact(tmp_path, batch=1, bound_to=made_for)
    for call in (
        lambda: backend._compiled(package, on_cuda(compile=True)),
        lambda: backend.audit(package, on_cuda(compile=True), IMAGES),
    ):
        error = error_of(call)
        assert made_for in error.message and "CUDA 12.8" in error.message
        assert "build it here" in (error.hint or "")


def test_what_is_noted_in_a_package_is_held_against_the_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda_build(monkeypatch)
    runtime = on_cuda(compile=True, precision="f16", threads=1)
    facts = backend.noted("f16", "cuda", threads=7)
    assert facts == {"device": "cuda", "precision": "f16", "bound_to": torch_cuda.bound_to()}
    opened: list[bool] = []

    def open_package(*_: object, recorded: bool) -> tuple[Any, dict[str, str]]:
        opened.append(recorded)
        return halves, facts

    monkeypatch.setattr(backend, "open_package", open_package)
    package = artifact(tmp_path, batch=4, bound_to=torch_cuda.bound_to())
    assert backend._compiled(package, runtime)(torch.from_numpy(IMAGES)).shape == (4, 3)
    backend._compiled(package, runtime.model_copy(update={"cuda_graph": True}))
    assert opened == [False, True]
    other = runtime.model_copy(update={"precision": None})
    assert (
        "was compiled for precision f16, not f32"
        in error_of(lambda: backend._compiled(package, other)).message
    )
    facts.pop("device")
    assert (
        "was compiled for device None, not cuda"
        in error_of(lambda: backend._compiled(package, runtime)).message
    )


def test_a_package_for_a_cuda_graph_is_opened_without_its_own_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's: "useful to avoid conflicts with CUDAGraphs"; it takes one runner then."""
    from torch._inductor.package import package

    asked: list[dict[str, Any]] = []

    def load_package(file: Any, **named: Any) -> Any:
        asked.append(named)
        return SimpleNamespace(loader=None, get_metadata=dict)

    monkeypatch.setattr(package, "load_package", load_package)
    backend.open_package(b"", 8, "model.pt2")
    backend.open_package(b"", 8, "model.pt2", recorded=True)
    assert asked == [
        {"run_single_threaded": False, "num_runners": 8},
        {"run_single_threaded": True, "num_runners": 1},
    ]


@pytest.mark.parametrize(
    ("stored", "precision", "verdict", "computes"),
    [
        ("fp32", None, "fp32 for all multiplications;", "fp32"),
        ("fp32", "tf32", "which the GPU may round to TF32;", "fp32"),
        ("fp16", "f16", "fp16 for convolutions and matrix products, fp32 for the rest;", "fp16"),
    ],
)
def test_the_audit_of_a_package_says_what_it_was_compiled_for(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stored: Any,
    precision: str | None,
    verdict: str,
    computes: str,
) -> None:
    cuda_build(monkeypatch)
    package = artifact(tmp_path, batch=4, bound_to=torch_cuda.bound_to(), precision=stored)
    found = backend.audit(package, on_cuda(compile=True, precision=precision), IMAGES)
    assert verdict in found.verdict
    assert (found.computes, found.as_asked) == (computes, True)


def test_what_a_package_says_of_itself_becomes_its_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = export.Package(halves, 2, "f16", "cpu", "NVIDIA H200 9.0, torch 2.13.0")
    monkeypatch.setattr(export, "_open_torch", lambda *_: package)
    path = artifact(tmp_path).path
    info = export.torch_artifact_info(path, "torch-aoti", (1, *SHAPE))
    assert (info.precision, info.input_shape, info.classes) == ("fp16", (2, *SHAPE), 3)
    assert info.bound_to == "NVIDIA H200 9.0, torch 2.13.0"


@pytest.mark.parametrize(
    ("precision", "off_by", "passes"),
    [
        (None, 0.01, False),
        ("f16", 0.01, True),
        ("tf32", 0.01, True),
        ("bf16", 0.07, True),
        ("f16", 0.07, False),
    ],
)
def test_a_compiled_network_may_be_as_coarse_as_its_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: Any, off_by: float, passes: bool
) -> None:
    def write_package(model: Any, target: Path, *_: object, **__: object) -> None:
        target.write_bytes(b"package")

    monkeypatch.setattr(export, "write_package", write_package)
    monkeypatch.setattr(export, "_open_torch", lambda *_: lambda given: network()(given) * (1 + off_by))
    with nullcontext() if passes else pytest.raises(WorkbenchError, match="does not compute what torch does"):
        export.export_torch(
            network(),
            tmp_path / "m.pt2",
            (1, *SHAPE),
            IMAGES,
            TorchRuntime(device="cuda", compile=True, precision=precision),
        )


def test_numbers_too_large_for_f16_are_told_from_a_bad_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(export, "write_package", lambda _, target, *__, **___: target.write_bytes(b"package"))
    monkeypatch.setattr(export, "_open_torch", lambda *_: lambda given: network()(given) * np.inf)
    error = error_of(
        lambda: export.export_torch(
            network(),
            tmp_path / "m.pt2",
            (1, *SHAPE),
            IMAGES,
            TorchRuntime(device="cuda", compile=True, precision="f16"),
        )
    )
    assert "runtime.precision: in f16, the network gives logits that are not finite" in error.message
    assert "bf16" in (error.hint or "")
    assert not (tmp_path / "m.pt2").exists()


def test_inductor_is_told_settings_that_it_has() -> None:
    from torch._inductor import config

    from workbench.model.export.torch_exporters import inductor_settings

    facts = {"batch": "4"}
    known = config.get_config_copy()
    settings = inductor_settings("cuda", 2, facts)
    assert settings == {"freezing": True, "compile_threads": 1, "aot_inductor.metadata": facts}
    assert set(settings) <= set(known)
    assert inductor_settings("cpu", 2, facts)["cpp.threads"] == 2


def test_compiling_for_a_gpu_without_the_cuda_toolkit_is_unsuited(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("setuptools", reason="torch.utils.cpp_extension imports it")
    from torch._inductor import cpp_builder
    from torch.utils import cpp_extension

    from workbench.model.export.torch_exporters import _find_compilers

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    error = error_of(lambda: _find_compilers("cuda"))
    assert isinstance(error, Unsuited)
    assert "CUDA_HOME" in (error.hint or "")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/usr/local/cuda")
    _find_compilers("cuda")


def variant(**runtime: Any) -> Variant:
    return Variant("v", "recipe", "", Export(), (), RUNTIME.validate_python(runtime))


def key(**runtime: Any) -> str:
    job = SimpleNamespace(source_digest="s", input_shape=(1, *SHAPE))
    return build._export_key(job, variant(backend="torch", **runtime))  # type: ignore[arg-type]


def test_what_is_compiled_for_a_gpu_is_kept_for_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda: H200)
    here = {
        "eager": key(device="cuda"),
        "compiled": key(device="cuda", compile=True),
        "f16": key(device="cuda", compile=True, precision="f16"),
        "batch": key(device="cuda", compile=True, batch=2),
    }
    assert len(set(here.values())) == 4
    assert key(device="cuda", compile=True, threads=2) == here["compiled"]  # threads are the host's
    assert key(device="cuda", compile=True, cuda_graph=True) == here["compiled"]
    assert key(compile=True) != here["compiled"]
    assert key() == here["eager"]  # one program, wherever it runs
    monkeypatch.setattr(nvidia, "gpu", lambda: TURING)
    assert key(device="cuda", compile=True) != here["compiled"]
    assert key(device="cuda") == here["eager"]


def test_the_engine_of_tensorrt_is_made_with_the_artifact(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepared: list[tuple[str, Runtime]] = []
    built = ("key", artifact(tmp_path))
    monkeypatch.setattr(build, "_chain", lambda *_: built)
    monkeypatch.setattr(
        tensorrt, "prepare", lambda artifact, runtime: prepared.append((artifact.path.name, runtime))
    )
    job: Any = SimpleNamespace(cache=tmp_path)
    engine, plain = variant(backend="tensorrt", device="cuda"), variant(backend="onnxruntime")
    assert build.find(job, plain) == built
    assert build.find(job, engine) is None  # only `build`, in its own process, looks for engines
    assert build.build(job, plain) == built
    assert prepared == []
    assert build.build(job, engine) == built
    assert prepared == [("model.pt2", engine.runtime)]
