"""What a worker measures of a GPU variant, by a stand-in for the runtime: questions and arithmetic."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import trial
from workbench.backends import Engine, OnDevice, Runtime, Session, TensorrtRuntime, TorchRuntime
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.errors import WorkbenchError
from workbench.measure.gpu.figures import joules, sizes_of, throughput
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.results.records import TrialResult

CLASSES = 3
ENGINE = Engine(size_bytes=7_000_000, bound_to="NVIDIA Test, driver 580.1", build_s=41.0)
ON_GPU = TorchRuntime(device="cuda")


def artifact_of(folder: Path, batch: int = 0) -> Artifact:
    info = ArtifactInfo(
        format="onnx", file="", sha256="", size_bytes=0, input_shape=(batch, 3, 8, 8), classes=CLASSES
    )
    return Artifact(folder, info)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    np.save(tmp_path / "photos.npy", np.zeros((5, 8, 8, 3), dtype=np.uint8))
    contract = Preprocess(resize=10, crop=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    return Images(tmp_path / "photos.npy", (0, 0, 1, 1, 2), contract, "0" * 64)


class Device:
    """A runtime on a GPU. Its clock moves by what calls take: 1 ms, and 0.1 ms for each photo; without the
    copies a photo takes 0.05 ms."""

    def __init__(self, most: int = 64, slow_from: int = 10**9) -> None:
        self.now, self.most, self.slow_from = 0.0, most, slow_from
        self.sizes: list[int] = []
        self.on_device = OnDevice(self._time, "CUDA events")

    def clock(self) -> float:
        return self.now

    def infer(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        if len(batch) > self.most:
            raise WorkbenchError(f"the engine takes {self.most} photos at most")
        self.sizes.append(len(batch))
        self.now += 2.0 if len(batch) >= self.slow_from else 1e-3 + 1e-4 * len(batch)
        return np.zeros((len(batch), CLASSES), dtype=np.float32)

    def _time(self, batch: NDArray[Any], calls: int) -> tuple[int, ...]:
        return (round(5e4 * len(batch)),) * calls

    def session(self, *, on_device: bool = True) -> Session:
        events = self.on_device if on_device else None
        return Session(self.infer, "cuda", "test", 1, on_device=events, engine=ENGINE)


def batch(size: int) -> NDArray[np.float32]:
    return np.zeros((size, 3, 8, 8), dtype=np.float32)


def test_throughput_is_with_the_copies_and_without() -> None:
    device = Device()
    got = throughput(device.session(), batch(8), device.clock)
    assert got is not None
    assert got.batch == 8
    assert got.with_copies == pytest.approx(8 / 1.8e-3)
    assert got.on_device == pytest.approx(8 / 4e-4)
    assert device.now < 1, "it is bounded in time"


def test_a_runtime_without_calls_on_the_device_has_throughput_with_copies_alone() -> None:
    device = Device()
    got = throughput(device.session(on_device=False), batch(1), device.clock)
    assert got is not None and got.on_device is None


def test_a_batch_that_takes_more_than_a_second_is_left_after_two_calls() -> None:
    device = Device(slow_from=32)
    assert throughput(device.session(), batch(32), device.clock) is None
    assert device.sizes == [32, 32]


def counter(*millijoules: int) -> Any:
    """NVML with nothing but an energy counter, which reads as told, and then not at all."""
    left = list(millijoules)

    def read(handle: object) -> int:
        if not left:
            raise ArithmeticError(f"{handle}: Not Supported")
        return left.pop(0)

    return SimpleNamespace(
        NVMLError=ArithmeticError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByPciBusId=lambda address: address,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


def test_energy_is_what_the_counter_moved_by_over_the_photos_of_two_seconds() -> None:
    device = Device()
    got = joules(device.infer, batch(10), counter(5, 1_000, 601_000), device.clock)
    # A call of ten takes 2 ms: 10000 photos in 2 s, for 600 J.
    assert got == pytest.approx(0.06, rel=0.01)
    assert device.now == pytest.approx(2.3, abs=0.01)


@pytest.mark.parametrize("readings", [(), (5, 1_000, 900), (5, 1_000, 1_000), (5, 1_000)])
def test_a_counter_that_is_absent_or_went_back_or_stands_still_gives_no_energy(
    readings: tuple[int, ...],
) -> None:
    device = Device()
    assert joules(device.infer, batch(8), counter(*readings), device.clock) is None


@pytest.mark.parametrize(
    ("fixed", "runtime", "sizes"),
    [
        (0, ON_GPU, (1, 8, 32, 64)),
        (0, TorchRuntime(device="cuda", batch=16), (1, 8, 16, 32, 64)),
        (0, TorchRuntime(device="cuda", batch=128), (1, 8, 32, 64, 128)),
        (0, TensorrtRuntime(device="cuda", max_batch=8), (1, 8)),
        (1, ON_GPU, (1,)),
        (4, ON_GPU, (4,)),
    ],
)
def test_the_sizes_are_those_that_the_artifact_takes(
    tmp_path: Path, fixed: int, runtime: Runtime, sizes: tuple[int, ...]
) -> None:
    assert sizes_of(artifact_of(tmp_path, fixed), runtime) == sizes


def test_what_was_recorded_before_there_were_gpu_figures_still_loads() -> None:
    old = trial("baseline").model_dump(mode="json")
    del old["gpu"]
    assert TrialResult.model_validate(old).gpu is None
