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
def watching(metrics: Metrics) -> Iterator[None]:
    """Run `watch` in a thread while the block runs."""
    stop = threading.Event()
    # A daemon, and not waited for for ever: a driver that hangs must not keep the server from ending.
    thread = threading.Thread(target=watch, args=(metrics, stop), name="gpu", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_S)


def watch(
    metrics: Metrics, stop: threading.Event, *, interval_s: float = 5.0, nvml: ModuleType | None = None
) -> None:
    """Keep the GPU gauges current until `stop`. Returns at once where there is no NVIDIA GPU.

    A scrape never waits for the driver, which can take seconds to answer. nvml: `pynvml` unless given.
    """
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
    """A reading that fails takes its sample away: no value is better than yesterday's."""
    utilization = used = total = math.nan
    with suppress(nvml.NVMLError):  # not offered for a GPU in MIG mode
        utilization = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        used, total = memory.used, memory.total
    metrics.gpu_utilization.labels(gpu).set(utilization)
    metrics.gpu_memory_used.labels(gpu).set(used)
    metrics.gpu_memory_total.labels(gpu).set(total)
