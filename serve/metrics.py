"""What Prometheus reads. The names are a promise to dashboards: docs/serving.md lists them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

if TYPE_CHECKING:
    from workbench.registry import Bundle

# From the 1 ms of a small quantised model to what nobody waits for; the client's default starts at 5 ms.
BUCKETS = (
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.04,
    0.06,
    0.1,
    0.15,
    0.25,
    0.5,
    1,
    2.5,
    5,
)
STAGES = ("queue", "decode", "infer", "total")
CODES = ("200", "408", "413", "415", "422", "500", "503")


class Metrics:
    """One app's metrics in a registry of their own, so that a process can hold several apps.

    prometheus_client appends `_total` to a counter's name.
    """

    def __init__(self) -> None:
        # Process-wide, and twice is as good as once: `_created` doubles the series for no reader.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.inference_latency = Histogram(
            "inference_latency_seconds",
            "Time in the inference engine alone, per photo.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.stages = Histogram(
            "request_stage_seconds",
            "Time of a successful prediction by stage: waiting for a thread, decode and preprocess, "
            "inference, and the whole request.",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.requests = Counter(
            "requests", "Requests to /predict by status code.", ["code"], registry=registry
        )
        self.predictions = Counter(
            "predictions", "Predictions made by class id.", ["class_id"], registry=registry
        )
        self.inflight = Gauge(
            "inflight_requests", "Requests to /predict not answered yet.", registry=registry
        )
        self.model_info = Gauge(
            "model_info",
            "1 for the model served.",
            ["name", "version", "digest", "backend"],
            registry=registry,
        )
        self.model_load = Gauge(
            "model_load_seconds",
            "Time to verify, open, check and warm up the model served.",
            registry=registry,
        )
        self.gpu_utilization = Gauge(
            "gpu_utilization",
            "Fraction (0 to 1) of the last sample period in which a kernel was running.",
            ["gpu"],
            registry=registry,
        )
        self.gpu_memory_used = Gauge(
            "gpu_memory_used", "Bytes of GPU memory in use, by all processes.", ["gpu"], registry=registry
        )
        for stage in STAGES:
            self.stages.labels(stage)
        for code in CODES:
            self.requests.labels(code)

    def model_loaded(self, bundle: "Bundle", seconds: float) -> None:
        """Every class starts at 0: a series that appears with its first prediction has no rate."""
        manifest = bundle.manifest
        for class_id in range(len(manifest.class_names)):
            self.predictions.labels(str(class_id))
        self.model_load.set(seconds)
        self.model_info.labels(manifest.name, manifest.version, bundle.digest, manifest.runtime.backend).set(
            1
        )

    def count_request(self, status: int) -> None:
        self.requests.labels(str(status)).inc()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        self.inflight.inc()
        try:
            yield
        finally:
            self.inflight.dec()

    def expose(self) -> bytes:
        return generate_latest(self.registry)
