"""GPU load and memory, read from NVIDIA's management library in a thread of its own."""

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

from serve.metrics import Metrics

log = logging.getLogger("serve.gpu")


JOIN_S = 2.0


@contextmanager
def poll_in_background(metrics: Metrics) -> Iterator[None]:
    """Run `poll` in a thread while the block runs."""
    stop = threading.Event()
    # A daemon, joined for a limited time: a driver that hangs must not keep the server from ending.
    thread = threading.Thread(target=poll, args=(metrics, stop), name="gpu", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_S)


def poll(
    metrics: Metrics, stop: threading.Event, *, interval_s: float = 5.0, nvml: ModuleType | None = None
) -> None:
    """Set the GPU gauges every `interval_s` until `stop`. Returns at once where there is no NVIDIA GPU.

    nvml: `pynvml` unless given.
    """
    # In the background, because a scrape must not wait for the driver, which can take seconds to answer.
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            log.info("no GPU metrics: nvidia-ml-py is not installed")
            return
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.info("no GPU metrics: %s", error)
        return
    try:
        gpus = {str(i): nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())}
        while True:
            for gpu, handle in gpus.items():
                _read(metrics, nvml, gpu, handle)
            if stop.wait(interval_s):
                return
    except nvml.NVMLError as error:
        log.warning("no GPU metrics: %s", error)
    finally:
        nvml.nvmlShutdown()


def _read(metrics: Metrics, nvml: ModuleType, gpu: str, handle: object) -> None:
    """Set the gauges of one GPU. A reading that fails becomes NaN, which is not exposed."""
    utilization = used = total = math.nan
    with suppress(nvml.NVMLError):  # not offered for a GPU in MIG mode
        utilization = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        used, total = memory.used, memory.total
    metrics.gpu_utilization.labels(gpu).set(utilization)
    metrics.gpu_memory_used.labels(gpu).set(used)
    metrics.gpu_memory_total.labels(gpu).set(total)
