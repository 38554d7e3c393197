"""torch on the GPU of this machine: every precision, compiled or not, recorded or not, against the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import error_of
from workbench.system.nvidia_check import missing_link

torch = pytest.importorskip("torch", reason="the network is a torch module")

from workbench.backends import Runtime, TorchRuntime  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.backends.table import BACKENDS  # noqa: E402
from workbench.errors import Unsuited  # noqa: E402
from workbench.model.export.comparison import torch_logits  # noqa: E402
from workbench.model.export.export import export_torch, torch_artifact_info  # noqa: E402

MISSING = missing_link("GPU")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

CLASSES, SIDE, BATCH = 6, 64, 4
SHAPE = (1, 3, SIDE, SIDE)
IMAGES = np.random.default_rng(0).standard_normal((BATCH, 3, SIDE, SIDE), np.float32)
# Of the largest logit. TF32 and f16 keep 10 bits behind the point, bf16 keeps 7.
TOLERANCE = {"f32": 1e-4, "tf32": 1e-2, "f16": 1e-2, "bf16": 5e-2}
ROUNDS = 1e-6  # a precision that rounds differs from float32 by more than this
COMPUTES = {"f32": "fp32", "tf32": "fp32", "f16": "fp16", "bf16": "bf16"}


def network() -> Any:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(32),
        torch.nn.Hardswish(),
        torch.nn.Conv2d(32, 32, 3, padding=1, groups=32),
        torch.nn.Conv2d(32, 64, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.LayerNorm(64),
        torch.nn.Linear(64, CLASSES),
    )
    return net.eval()


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    return torch_logits(network(), IMAGES)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("program")
    written = export_torch(network(), folder / "model.pt2", SHAPE, IMAGES, TorchRuntime())
    return Artifact(folder, torch_artifact_info(folder / "model.pt2", written, SHAPE))


def on_gpu(**fields: Any) -> Runtime:
    """Skips where this GPU or this torch cannot run it, with the reason that a user is given."""
    runtime = TorchRuntime(device="cuda", **fields)
    if (reason := BACKENDS["torch"].unavailable(runtime)) is not None:
        pytest.skip(reason)
    return runtime


def difference(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    assert logits.dtype == np.float32
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("precision", ["f32", "tf32", "f16", "bf16"])
def test_eager_gives_the_logits_of_the_cpu(
    program: Artifact, expected: NDArray[np.float32], precision: str, cuda_graph: bool
) -> None:
    runtime = on_gpu(precision=precision, cuda_graph=cuda_graph)
    with BACKENDS["torch"].session(program, runtime) as session:
        assert session.provider == ("eager, CUDA graph" if cuda_graph else "eager")
        assert session.device == "cuda"
        for count in (1, BATCH, 2, 1):
            assert difference(session.infer(IMAGES[:count]), expected[:count]) < TOLERANCE[precision]
        once, other = session.infer(IMAGES), session.infer(-IMAGES)
        assert difference(once, expected) < TOLERANCE[precision] < difference(other, expected)
        if precision in ("f16", "bf16"):
            assert difference(once, expected) > ROUNDS
        assert session.on_device is not None
        times = session.on_device.time(IMAGES, 5)
        assert len(times) == 5
        assert all(0 < time < 1e9 for time in times)
    found = BACKENDS["torch"].audit(program, runtime, IMAGES)
    assert found.computes == COMPUTES[precision]


def test_float32_is_not_rounded_to_tf32(program: Artifact, expected: NDArray[np.float32]) -> None:
    on_gpu(precision="tf32")  # a GPU that could
    large = torch.randn(512, 512)
    for allowed in (False, True, False):
        runtime = on_gpu(precision="tf32" if allowed else None)
        with BACKENDS["torch"].session(program, runtime):
            product = (large.cuda() @ large.cuda()).cpu().double()
        exact = large.double() @ large.double()
        error = float((product - exact).abs().max() / exact.abs().max())
        assert (error > 1e-5) is allowed


def test_an_exact_and_a_rounding_model_are_not_open_at_once(program: Artifact) -> None:
    exact, rounding = on_gpu(), on_gpu(precision="tf32")
    backend = BACKENDS["torch"]
    with backend.session(program, exact):
        error = error_of(lambda: backend.session(program, rounding).__enter__())
    assert "torch has one switch for all" in error.message


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_threads_get_their_own_photos_logits(
    program: Artifact, expected: NDArray[np.float32], cuda_graph: bool
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with (
        BACKENDS["torch"].session(program, on_gpu(cuda_graph=cuda_graph)) as session,
        ThreadPoolExecutor(8) as pool,
    ):
        rows = [index % BATCH for index in range(200)]
        answers = list(pool.map(lambda row: session.infer(IMAGES[row : row + 1]), rows))
    for row, answer in zip(rows, answers, strict=True):
        assert difference(answer, expected[row : row + 1]) < 10 * TOLERANCE["f32"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_a_network_compiled_for_this_gpu_gives_the_logits_of_the_cpu(
    tmp_path: Path, expected: NDArray[np.float32], precision: Any
) -> None:
    runtime = on_gpu(compile=True, precision=precision, batch=2)
    path = tmp_path / "model.pt2"
    try:
        written = export_torch(network(), path, SHAPE, IMAGES, runtime)
    except Unsuited as unsuited:
        pytest.skip(unsuited.message)
    info = torch_artifact_info(path, written, SHAPE)
    assert (info.format, info.input_shape) == ("torch-aoti", (2, *SHAPE[1:]))
    assert info.bound_to is not None
    assert torch.cuda.get_device_name(0) in info.bound_to
    package = Artifact(tmp_path, info)
    for cuda_graph in (False, True):
        asked = runtime.model_copy(update={"cuda_graph": cuda_graph})
        with BACKENDS["torch"].session(package, asked) as session:
            assert session.provider == ("inductor, CUDA graph" if cuda_graph else "inductor")
            assert session.device == "cuda"
            for count in (1, 2, 1):
                got = session.infer(IMAGES[:count])
                assert difference(got, expected[:count]) < TOLERANCE[precision]
            assert session.on_device is not None
            assert min(session.on_device.time(IMAGES[:2], 5)) > 0
    found = BACKENDS["torch"].audit(package, runtime, IMAGES[:2])
    assert found.computes == COMPUTES[precision]
    foreign = Artifact(tmp_path, info.model_copy(update={"bound_to": "NVIDIA Other 9.9"}))
    error = error_of(lambda: BACKENDS["torch"].session(foreign, runtime).__enter__())
    assert "was made for NVIDIA Other 9.9" in error.message
