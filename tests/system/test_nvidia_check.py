"""The chain from the driver to the runtimes, over stand-ins: which link breaks, and the remedy."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.system.nvidia import DRIVER
from workbench.system.nvidia_check import Chain, Link, chain
from workbench.system.nvidia_links import LINKS, HostProbe, here

KERNEL = "580.65.06\n"


class Driver:
    """libcuda, as far as it is asked."""

    def __init__(
        self, cuda: int = 13000, count: int = 1, code: int = 0, capability: tuple[int, int] = (9, 0)
    ):
        self.cuda, self.count, self.code, self.capability = cuda, count, code, capability

    def cuInit(self, flags: int) -> int:  # noqa: N802, ARG002
        return self.code

    def cuDeviceGetCount(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self.cuda
        return 0

    def cuDeviceGetName(self, out: Any, size: int, device: int) -> int:  # noqa: N802, ARG002
        out.value = b"NVIDIA H100 80GB HBM3"
        return 0

    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> int:  # noqa: N802, ARG002
        out._obj.value = self.capability[attribute - 75]
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, device: int) -> int:  # noqa: N802, ARG002
        out._obj.value = 80 * 2**30
        return 0


class Function:
    """A function of a library that returns a number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.restype: object = None

    def __call__(self) -> int:
        return self.number


def cudart_version(out: Any) -> int:
    out._obj.value = 13000
    return 0


LIBRARIES: dict[str, Any] = {
    "libcudart.so.13": SimpleNamespace(cudaRuntimeGetVersion=cudart_version),
    "libcublasLt.so.13": SimpleNamespace(cublasLtGetVersion=Function(130100)),
    "libcublas.so.13": SimpleNamespace(),
    "libcurand.so.10": SimpleNamespace(),
    "libcudnn.so.9": SimpleNamespace(cudnnGetVersion=Function(91301)),
    "libonnxruntime_providers_cuda.so": SimpleNamespace(),
}
INSTALLED = {
    "onnxruntime-gpu": "1.31.1", "cuda-bindings": "13.5.0",
}  # fmt: skip
MODULES: dict[str, Any] = {
    "onnxruntime": SimpleNamespace(cuda_version="13.0"),
    "tensorrt": SimpleNamespace(__version__="10.13.3.9"),
    "cuda.bindings.runtime": SimpleNamespace(),
    "torch": SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda="13.0"),
        cuda=SimpleNamespace(is_available=lambda: True),
    ),
}


@dataclass
class Host:
    """A machine where everything is there; tests take things away."""

    folder: Path
    driver: Driver | None = field(default_factory=Driver)
    libraries: dict[str, Any] = field(default_factory=lambda: dict(LIBRARIES))
    installed: dict[str, str] = field(default_factory=lambda: dict(INSTALLED))
    modules: dict[str, Any] = field(default_factory=lambda: dict(MODULES))
    loaded: list[str] = field(default_factory=list)
    asleep: set[str] = field(default_factory=set)

    def look(self) -> HostProbe:
        kernel = self.folder / "version"
        kernel.write_text(KERNEL)
        return HostProbe(
            self.load,
            self.installed.get,
            self.imported,
            self.opened,
            (self.folder / "lib",),
            self.folder / "capi",
            kernel,
        )

    def opened(self, provider: str) -> str:
        return provider if provider not in self.asleep else "CPUExecutionProvider"

    def load(self, name: str) -> Any:
        self.loaded.append(name)
        there = self.driver if name == DRIVER else self.libraries.get(Path(name).name)
        if there is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return there

    def imported(self, name: str) -> Any:
        if name not in self.modules:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return self.modules[name]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def states(found: Chain) -> dict[str, str]:
    return {link.name: link.state for link in found.links}


def broken(found: Chain) -> Link:
    assert found.first_broken is not None
    return found.first_broken


def test_without_a_driver_one_line_says_so_and_nothing_else_is_looked_at(host: Host) -> None:
    host.driver = None
    found = chain(host.look())
    driver = found.links[0]
    assert (driver.name, driver.needed_for) == ("NVIDIA driver", "for everything on a GPU")
    assert driver.found == "no NVIDIA driver is here (libcuda.so.1 cannot be loaded)"
    assert broken(found) is driver
    assert set(states(found).values()) == {"broken", "not looked at"}
    assert set(host.loaded) == {DRIVER}


def test_where_everything_is_there_every_link_says_its_version(host: Host) -> None:
    found = chain(host.look())
    said = {link.name: link.found for link in found.links}
    assert said["NVIDIA driver"] == "580.65.06"
    assert said["CUDA of the driver"] == "13.0"
    assert said["GPU"] == "NVIDIA H100 80GB HBM3, compute capability 9.0, 80 GiB"
    assert said["CUDA runtime"] == "13.0"
    assert said["cuBLAS"] == "13.1"
    assert said["cuDNN 9"] == "9.13.1"
    assert said["onnxruntime-gpu"] == "1.31.1, for CUDA 13"
    assert said["TensorRT for Python"] == "10.13.3.9"
    assert said["torch for CUDA"] == "2.13.0, for CUDA 13.0"
    assert found.first_broken is None
    assert set(states(found).values()) == {"ok"}


def without(name: str) -> Callable[[Host], None]:
    def take_away(host: Host) -> None:
        for things in (host.libraries, host.installed, host.modules):
            things.pop(name, None)

    return take_away


@pytest.mark.parametrize(
    ("name", "link", "remedy"),
    [
        ("libcudart.so.13", "CUDA runtime", "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"),
        ("libcublasLt.so.13", "cuBLAS", "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"),
        ("libcublas.so.13", "cuBLAS", "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"),
        ("libcurand.so.10", "cuRAND", "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"),
        ("libcudnn.so.9", "cuDNN 9", "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"),
        ("onnxruntime-gpu", "onnxruntime-gpu", "pip install 'krishi-bench[gpu]'"),
        ("libonnxruntime_providers_cuda.so", "its CUDA provider", "pip install"),
        ("tensorrt", "TensorRT for Python", "pip install 'krishi-bench[tensorrt]'"),
        ("cuda.bindings.runtime", "cuda-python", "pip install 'krishi-bench[tensorrt]'"),
        ("torch", "torch for CUDA", "pip install 'krishi-bench[export]'"),
    ],
)
def test_the_first_link_that_is_missing_is_named_with_the_command_that_mends_it(
    host: Host, name: str, link: str, remedy: str
) -> None:
    without(name)(host)
    found = chain(host.look())
    assert broken(found).name == link
    assert remedy in (broken(found).remedy or "")
    for later, step in LINKS.items():
        if link in step.after:
            assert states(found)[later] == "not looked at"


def test_the_versions_that_do_not_go_together_are_said(host: Host) -> None:
    host.driver = Driver(cuda=12080)
    old = broken(chain(host.look()))
    # The libraries of CUDA 13 are there: it is the driver that does not run them.
    assert old.name == "onnxruntime-gpu"
    assert old.found == "onnxruntime-gpu 1.31.1 is built for CUDA 13, and the driver runs 12"
    assert old.remedy == (
        "update the NVIDIA driver to 580 or later, or pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"
    )
    host.driver = Driver(cuda=11080)
    assert broken(chain(host.look())).name == "CUDA of the driver"


def test_two_onnxruntimes_in_one_environment_are_a_broken_link(host: Host) -> None:
    host.installed["onnxruntime"] = "1.32.0"
    found = broken(chain(host.look()))
    assert found.name == "onnxruntime-gpu"
    assert "onnxruntime 1.32.0 lies beside onnxruntime-gpu 1.31.1" in (found.found or "")


def test_a_driver_without_a_gpu_is_told_from_no_driver(host: Host) -> None:
    host.driver = Driver(code=100)
    found = chain(host.look())
    assert broken(found).name == "GPU"
    assert states(found)["NVIDIA driver"] == "ok"
    assert set(states(found).values()) == {"ok", "broken", "not looked at"}
    host.driver = Driver(code=999)
    assert broken(chain(host.look())).name == "NVIDIA driver"


def test_libraries_are_taken_from_the_wheels_before_the_system(host: Host) -> None:
    (host.folder / "lib").mkdir()
    (host.folder / "lib" / "libcudnn.so.9").touch()
    assert states(chain(host.look()))["cuDNN 9"] == "ok"
    assert str(host.folder / "lib" / "libcudnn.so.9") in host.loaded


def test_a_library_that_does_not_tell_its_version_is_shown_by_its_name(host: Host) -> None:
    host.libraries["libcudnn.so.9"] = SimpleNamespace()
    said = {link.name: link.found for link in chain(host.look()).links}
    assert said["cuDNN 9"] == "libcudnn.so.9"


def test_a_provider_that_onnxruntime_leaves_for_the_cpu_is_a_broken_link(host: Host) -> None:
    host.asleep = {"CUDAExecutionProvider"}
    found = broken(chain(host.look()))
    assert found.name == "its CUDA provider"
    assert found.found == "onnxruntime was asked for CUDAExecutionProvider and took CPUExecutionProvider"


def test_a_provider_that_cannot_be_opened_outside_of_onnxruntime_is_opened_inside(host: Host) -> None:
    load = host.load

    def refusing(name: str) -> Any:
        if name.endswith("_providers_cuda.so"):
            raise OSError(f"{name}: undefined symbol: Provider_GetHost")
        return load(name)

    assert states(chain(replace(host.look(), load=refusing)))["its CUDA provider"] == "ok"


def test_bindings_for_a_newer_cuda_than_the_drivers_are_said(host: Host) -> None:
    host.driver = Driver(cuda=12080)
    link = {link.name: link for link in chain(host.look()).links}["cuda-python"]
    assert link.found == "cuda-bindings 13.5.0 is for CUDA 13, and the driver runs 12"


def test_what_providers_are_tried_with_is_a_file_that_onnxruntime_opens() -> None:
    pytest.importorskip("onnxruntime")
    assert here().opened("CPUExecutionProvider") == "CPUExecutionProvider"


def test_a_link_hangs_on_earlier_ones_only() -> None:
    names = list(LINKS)
    assert all(
        names.index(before) < names.index(name) for name, step in LINKS.items() for before in step.after
    )


def test_this_machine_can_be_looked_at() -> None:
    found = chain(here())
    assert [link.name for link in found.links] == list(LINKS)
