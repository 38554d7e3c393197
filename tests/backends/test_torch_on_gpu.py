"""torch on a GPU as far as it is decided without one: refusals, TF32, keys and compilers."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch's own switches are turned")

from tests.builders import error_of  # noqa: E402
from workbench.backends import RUNTIME, Runtime, TorchRuntime  # noqa: E402
from workbench.backends.torch import backend  # noqa: E402
from workbench.backends.torch import cuda as torch_cuda  # noqa: E402
from workbench.errors import Unsuited  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.run import build  # noqa: E402
from workbench.system import nvidia, nvidia_check  # noqa: E402
from workbench.system.nvidia import Gpu  # noqa: E402
from workbench.workspace.recipe import Variant  # noqa: E402

H200 = Gpu("NVIDIA H200", "9.0", "13.0")
TURING = Gpu("Tesla T4", "7.5", "13.0")
SHAPE = (3, 8, 8)
IMAGES = np.random.default_rng(0).standard_normal((4, *SHAPE), np.float32)


def on_cuda(**fields: Any) -> Runtime:
    return TorchRuntime(device="cuda", **fields)


def cuda_build(monkeypatch: pytest.MonkeyPatch, gpu: Gpu = H200) -> None:
    """As if this torch were a CUDA build on a machine with that GPU."""
    monkeypatch.setattr(nvidia, "gpu", lambda: gpu)
    monkeypatch.setattr(nvidia_check, "missing_link", lambda _: None)


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
    cuda_build(monkeypatch, Gpu("Tesla P100", "6.0", "13.0"))
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
