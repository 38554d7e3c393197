"""The chain from the driver to the runtimes, over stand-ins: which link breaks, and the remedy."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.backends import OrtRuntime, Runtime, TensorrtRuntime, TorchRuntime
from workbench.backends.table import BACKENDS
from workbench.system.nvidia import NO_DRIVER, NO_GPU, Gpu
from workbench.system.nvidia_check import (
    CUDA_PROVIDER,
    LINKS,
    ORT,
    TENSORRT,
    TORCH,
    Chain,
    Host,
    Link,
    chain,
    missing_link,
    runs_on,
    this_host,
)

H100 = Gpu("NVIDIA H100", "9.0", "13.0", 80 * 2**30)
CUDA_12 = replace(H100, cuda="12.8")
LIBRARIES_REMEDY = "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"
SITE = Path("/site-packages")


def returning(number: int) -> Callable[[], int]:
    return lambda: number


@dataclass
class Parts:
    """A machine where everything is there; tests take things away."""

    gpu: Gpu | str = H100
    libraries: dict[str, Any] = field(
        default_factory=lambda: {
            "libcudart.so.13": SimpleNamespace(),
            "libcublasLt.so.13": SimpleNamespace(cublasLtGetVersion=returning(130100)),
            "libcurand.so.10": SimpleNamespace(),
            "libcudnn.so.9": SimpleNamespace(cudnnGetVersion=returning(91301)),
            "libonnxruntime_providers_cuda.so": SimpleNamespace(),
        }
    )
    folders: dict[str, Path] = field(default_factory=lambda: {"onnxruntime-gpu": SITE})
    modules: dict[str, Any] = field(
        default_factory=lambda: {
            "onnxruntime": SimpleNamespace(
                __version__="1.31.1",
                __file__="/site-packages/onnxruntime/__init__.py",
                cuda_version="13.0",
                get_available_providers=lambda: [CUDA_PROVIDER, "CPUExecutionProvider"],
            ),
            "tensorrt": SimpleNamespace(__version__="10.13.3.9"),
            "cuda.bindings": SimpleNamespace(__version__="13.5.0"),
            "cuda.bindings.runtime": SimpleNamespace(),
            "torch": SimpleNamespace(
                __version__="2.13.0",
                version=SimpleNamespace(cuda="13.0"),
                cuda=SimpleNamespace(is_available=lambda: True, get_arch_list=lambda: ["sm_80", "sm_90"]),
            ),
        }
    )

    def host(self) -> Host:
        return Host(self.gpu, self.load, self.folders.get, self.imported)

    def load(self, name: str) -> Any:
        if (library := self.libraries.get(Path(name).name)) is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return library

    def imported(self, name: str) -> Any:
        if name not in self.modules:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return self.modules[name]


def broken(parts: Parts) -> Link:
    link = chain(parts.host()).first_broken
    assert link is not None
    return link


def states(found: Chain) -> dict[str, str]:
    return {link.name: link.state for link in found.links}


def test_without_a_driver_no_other_link_is_looked_at() -> None:
    found = chain(Parts(gpu=NO_DRIVER).host())
    assert found.first_broken is found.links[0]
    assert str(found.links[0]) == NO_DRIVER
    assert set(states(found).values()) == {"broken", "not looked at"}


def test_where_everything_is_there_every_link_says_its_version() -> None:
    found = chain(Parts().host())
    said = {link.name: str(link.found) for link in found.links}
    assert said.pop("NVIDIA driver").endswith(", for CUDA 13.0")
    assert said == {
        "GPU": "NVIDIA H100, compute capability 9.0, 80 GiB",
        "onnxruntime-gpu": "1.31.1, for CUDA 13",
        "CUDA runtime": "libcudart.so.13",
        "cuBLAS": "libcublasLt.so.13, version 13.1.0",
        "cuRAND": "libcurand.so.10",
        "cuDNN 9": "libcudnn.so.9, version 9.13.1",
        "CUDA provider": "loads",
        "TensorRT for Python": "10.13.3.9",
        "cuda-python": "13.5.0",
        "torch for CUDA": "2.13.0, for CUDA 13.0",
    }
    assert found.first_broken is None


@pytest.mark.parametrize(
    ("name", "link", "remedy"),
    [
        ("onnxruntime", "onnxruntime-gpu", "pip install 'krishi-bench[gpu]'"),
        ("libcudart.so.13", "CUDA runtime", LIBRARIES_REMEDY),
        ("libcublasLt.so.13", "cuBLAS", LIBRARIES_REMEDY),
        ("libcurand.so.10", "cuRAND", LIBRARIES_REMEDY),
        ("libcudnn.so.9", "cuDNN 9", LIBRARIES_REMEDY),
        ("libonnxruntime_providers_cuda.so", "CUDA provider", LIBRARIES_REMEDY),
        ("tensorrt", "TensorRT for Python", "pip install 'krishi-bench[tensorrt]'"),
        ("cuda.bindings.runtime", "cuda-python", "pip install 'krishi-bench[tensorrt]'"),
        ("torch", "torch for CUDA", "pip install 'krishi-bench[export]'"),
    ],
)
def test_the_first_missing_link_is_named_with_what_installs_it_and_later_ones_wait(
    name: str, link: str, remedy: str
) -> None:
    parts = Parts()
    for things in (parts.libraries, parts.modules):
        things.pop(name, None)
    found = broken(parts)
    assert found.name == link
    assert remedy in str(found.remedy)
    waiting = {later for later, check in LINKS.items() if link in check.after}
    assert {states(chain(parts.host()))[later] for later in waiting} <= {"not looked at"}


def test_a_backend_is_given_the_words_that_doctor_shows() -> None:
    parts = Parts()
    parts.libraries.pop("libcudnn.so.9")
    assert missing_link(ORT, parts.host()) == str(broken(parts))
    assert (missing_link(TENSORRT, parts.host()), missing_link(TORCH, parts.host())) == (None, None)


@pytest.mark.parametrize(
    "runtime", [OrtRuntime(device="cuda"), TensorrtRuntime(device="cuda"), TorchRuntime(device="cuda")]
)
def test_each_backend_asks_this_chain(runtime: Runtime) -> None:
    """Also where another test has opened libraries before."""
    last = {"onnxruntime": ORT, "tensorrt": TENSORRT, "torch": TORCH}[runtime.backend]
    assert BACKENDS[runtime.backend].unavailable(runtime) == missing_link(last)


def test_a_driver_without_a_gpu_differs_from_no_driver() -> None:
    assert broken(Parts(gpu=NO_GPU)).name == "GPU"
    assert broken(Parts(gpu="the NVIDIA driver does not start (error 803): see")).name == "NVIDIA driver"


def test_a_driver_for_an_older_cuda_than_a_package_is_said_with_both_versions() -> None:
    links = {link.name: str(link) for link in chain(Parts(gpu=CUDA_12).host()).links}
    assert links["onnxruntime-gpu"] == (
        "onnxruntime 1.31.1 is built for CUDA 13, and the driver runs 12: update the NVIDIA driver to 580 or "
        "later, or pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"
    )
    assert "cuda-bindings 13.5.0 is for CUDA 13, and the driver runs 12" in links["cuda-python"]
    assert broken(Parts(gpu=replace(H100, cuda="11.8"))).name == "NVIDIA driver"


def test_two_builds_of_onnxruntime_in_one_folder_overwrite_each_other() -> None:
    parts = Parts(folders={"onnxruntime": SITE, "onnxruntime-gpu": SITE})
    assert (
        broken(parts).found == "onnxruntime and onnxruntime-gpu are both installed and overwrite each other"
    )
    parts.folders["onnxruntime"] = Path("/elsewhere")
    assert chain(parts.host()).first_broken is None


def test_the_cpu_build_of_onnxruntime_is_named_with_what_it_has() -> None:
    parts = Parts()
    parts.modules["onnxruntime"].get_available_providers = lambda: ["CPUExecutionProvider"]
    assert broken(parts).found == "onnxruntime 1.31.1 is built without CUDA (it has CPUExecutionProvider)"


def test_a_provider_that_loads_only_inside_onnxruntime_is_no_broken_link() -> None:
    parts = Parts()

    def load(name: str) -> Any:
        if name.endswith("_providers_cuda.so"):
            raise OSError(f"{name}: undefined symbol: Provider_GetHost")
        return parts.load(name)

    assert chain(replace(parts.host(), load=load)).first_broken is None


def test_a_library_that_the_real_loader_does_not_find_is_named() -> None:
    parts = Parts()

    def load(name: str) -> Any:
        return this_host().load("libnotthere.so.7") if name.endswith("_cuda.so") else parts.load(name)

    found = chain(replace(parts.host(), load=load)).first_broken
    assert found is not None and found.found == "it needs libnotthere.so.7, which is not here"


def torch_of(**changed: Any) -> str:
    parts = Parts(gpu=changed.pop("gpu", H100))
    torch = parts.modules["torch"]
    torch.version.cuda = changed.get("cuda", "13.0")
    torch.cuda.is_available = lambda: changed.get("sees", True)
    return str(missing_link(TORCH, parts.host()))


def test_a_torch_that_cannot_use_the_gpu_says_why() -> None:
    assert torch_of(cuda=None).startswith(
        "torch 2.13.0 is built without CUDA: install a build from torch's own"
    )
    assert "built for CUDA 13.0, and the driver runs CUDA 12.8 at most" in torch_of(gpu=CUDA_12, sees=False)
    assert "finds no GPU, but the driver shows NVIDIA H100: `python -c" in torch_of(sees=False)
    volta = replace(H100, name="Tesla V100", capability="7.0")
    assert "no code for Tesla V100 (compute capability 7.0), only for sm_80, sm_90" in torch_of(gpu=volta)


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
        (["gfx942"], (9, 0), False),
        ([], (9, 0), False),
    ],
)
def test_a_build_of_torch_runs_on_the_gpus_it_has_code_for(
    built_for: list[str], capability: tuple[int, int], runs: bool
) -> None:
    assert runs_on(built_for, capability) is runs


def test_this_machine_can_be_looked_at() -> None:
    assert [link.name for link in chain().links] == list(LINKS)
