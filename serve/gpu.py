"""GPU load and memory, read from NVIDIA's management library in a thread of its own."""

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serve.metrics import Metrics
from workbench.system.nvml import Reader, opened_gpus

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


def poll(metrics: Metrics, stop: threading.Event, *, interval_s: float = 5.0, nvml: Any = None) -> None:
    """Set the GPU gauges every `interval_s` until `stop`. Returns at once where there is no NVIDIA GPU.

    nvml: `pynvml` unless given.
    """
    # In the background, because a scrape must not wait for the driver, which can take seconds to answer.
    with opened_gpus(nvml) as gpus:
        if not gpus:
            log.info("no GPU metrics: no NVIDIA GPU can be read here")
            return
        while True:
            for index, gpu in enumerate(gpus):
                _read(metrics, str(index), gpu)
            if stop.wait(interval_s):
                return


def _read(metrics: Metrics, label: str, gpu: Reader) -> None:
    """Set the gauges of one GPU. What NVML refuses (in MIG mode, say) is NaN, which is not exposed."""
    rates, memory = gpu.ask("DeviceGetUtilizationRates"), gpu.ask("DeviceGetMemoryInfo")
    metrics.gpu_utilization.labels(label).set(math.nan if rates is None else rates.gpu / 100)
    metrics.gpu_memory_used.labels(label).set(math.nan if memory is None else memory.used)
    metrics.gpu_memory_total.labels(label).set(math.nan if memory is None else memory.total)
