"""GPU metrics from a stand-in for NVIDIA's library: no GPU is needed to know what we do with its answers."""

import threading
from types import ModuleType, SimpleNamespace

import pytest

from serve import gpu
from serve.metrics import Metrics


class NvmlError(Exception):
    pass


def fake_nvml(*, load: list[int | None], used: list[int | None]) -> ModuleType:
    """A `pynvml` with one GPU per entry; None where the driver has no answer."""

    def answer(values: list[int | None], handle: int) -> int:
        if (value := values[handle]) is None:
            raise NvmlError("Not Supported")
        return value

    nvml = ModuleType("pynvml")
    functions = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(load),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=answer(load, handle)),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=answer(used, handle), total=2**34),
    }
    for name, function in functions.items():
        setattr(nvml, name, function)
    return nvml


def gpu_samples(metrics: Metrics) -> list[str]:
    return [line for line in metrics.expose().decode().splitlines() if line.startswith("gpu_")]


def watched_once(metrics: Metrics, nvml: ModuleType) -> list[str]:
    stop = threading.Event()
    stop.set()
    gpu.poll(metrics, stop, nvml=nvml)
    return gpu_samples(metrics)


def test_utilization_is_a_fraction_and_memory_is_bytes() -> None:
    samples = watched_once(Metrics(), fake_nvml(load=[37, 100], used=[2**30, 0]))
    assert samples == [
        'gpu_utilization{gpu="0"} 0.37',
        'gpu_utilization{gpu="1"} 1.0',
        'gpu_memory_used{gpu="0"} 1.073741824e+09',
        'gpu_memory_used{gpu="1"} 0.0',
        'gpu_memory_total{gpu="0"} 1.7179869184e+10',
        'gpu_memory_total{gpu="1"} 1.7179869184e+10',
    ]


def test_what_the_driver_does_not_say_is_not_shown() -> None:
    metrics = Metrics()
    assert watched_once(metrics, fake_nvml(load=[None], used=[5]))[0] == 'gpu_memory_used{gpu="0"} 5.0'
    assert watched_once(metrics, fake_nvml(load=[50], used=[None])) == ['gpu_utilization{gpu="0"} 0.5']
    assert watched_once(metrics, fake_nvml(load=[None], used=[None])) == []


def test_without_a_driver_there_is_no_sample(caplog: pytest.LogCaptureFixture) -> None:
    nvml = fake_nvml(load=[], used=[])

    def no_driver() -> None:
        raise NvmlError("NVML Shared Library Not Found")

    nvml.nvmlInit = no_driver  # type: ignore[attr-defined]
    caplog.set_level("INFO", "serve.gpu")
    assert watched_once(Metrics(), nvml) == []
    assert "no GPU metrics: no NVIDIA GPU can be read here" in caplog.text


def test_the_watcher_ends_with_its_block() -> None:
    before = threading.active_count()
    with gpu.poll_in_background(Metrics()):
        pass
    assert threading.active_count() == before
