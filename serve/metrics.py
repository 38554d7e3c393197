"""What Prometheus reads. The names are a promise to dashboards: docs/serving.md lists them."""

import math
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from workbench.registry.bundle import Bundle

Role = Literal["primary", "canary", "shadow"]

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
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
STAGES = ("queue", "decode", "infer", "total")
CODES = ("200", "401", "408", "413", "415", "422", "429", "500", "503", "504")
REASONS = (
    "queue-full",
    "deadline",
    "not-ready",
    "draining",
    "body-too-large",
    "body-timeout",
    "unauthorized",
)


def share_files(folder: Path, slot: int) -> None:
    """Keep this process's metrics in files that all workers read, so that any of them answers for all.

    slot: the worker's number. One that replaces a dead worker takes its number, and so goes on counting in
    its files: named by process id, as usual, they would grow without end. Call before any `Metrics`.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    forget_gauges(folder, slot)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def forget_gauges(folder: Path, slot: int) -> None:
    """What a worker had in hand is gone with it; what it counted stays."""
    for path in folder.glob(f"gauge_*_{slot}.db"):
        path.unlink(missing_ok=True)


class Metrics:
    """One app's metrics in a registry of their own, so that a process can hold several apps.

    prometheus_client appends `_total` to a counter's name.
    """

    def __init__(self) -> None:
        # Process-wide, and twice is as good as once: `_created` doubles the series for no reader.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        own = CollectorRegistry()
        self._counting(own)
        self._predicting(own)
        self._gauging(own)
        self._exposed = CollectorRegistry()
        if self._shared is None:
            ProcessCollector(registry=self._exposed)
            PlatformCollector(registry=self._exposed)
            GCCollector(registry=self._exposed)
            self._exposed.register(_Shown(own))
        else:
            self._exposed.register(_Workers())
            self._exposed.register(_Shown(MultiProcessCollector(None, self._shared)))  # type: ignore[no-untyped-call]

    def _counting(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "requests", "Requests to a prediction endpoint by status code.", ["code"], registry=registry
        )
        self.rejected = Counter(
            "requests_rejected",
            "Requests to a prediction endpoint turned away without a look at the photo.",
            ["reason"],
            registry=registry,
        )
        self.swaps = Counter(
            "model_swaps",
            "Attempts to replace the model served, after the alias moved.",
            ["result"],
            registry=registry,
        )
        self.version_requests = Counter(
            "version_requests",
            "Photos that reached a model, by version and by what became of them.",
            ["version", "role", "code"],
            registry=registry,
        )
        self.shadow_requests = Counter(
            "shadow_requests",
            "Photos sampled for the shadow, by whether it saw the class that was answered.",
            ["version", "shadow_version", "result"],
            registry=registry,
        )
        for code in CODES:
            self.requests.labels(code)
        for reason in REASONS:
            self.rejected.labels(reason)
        for result in ("ok", "failed"):
            self.swaps.labels(result)

    def _predicting(self, registry: CollectorRegistry) -> None:
        self.inference_latency = Histogram(
            "inference_latency_seconds",
            "Time in the inference engine alone, per photo; where photos share calls, with the wait for one.",
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
        self.version_inference = Histogram(
            "version_inference_seconds",
            "Time in the inference engine alone, per photo, by version.",
            ["version", "role"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.shadow_inference = Histogram(
            "shadow_inference_seconds",
            "Time in the inference engine alone of the same sampled photos, in both models.",
            ["version", "shadow_version", "model"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.predictions = Counter(
            "predictions", "Predictions made by class id.", ["class_id"], registry=registry
        )
        self.confidence = Histogram(
            "prediction_confidence",
            "Softmax probability of the predicted class.",
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )
        self.stage = {stage: self.stages.labels(stage) for stage in STAGES}

    def _gauging(self, registry: CollectorRegistry) -> None:
        self.inflight = Gauge(
            "inflight_requests",
            "Requests to a prediction endpoint not answered yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_depth = Gauge(
            "queue_depth",
            "Photos that wait for a thread.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.model_info = Gauge(
            "model_info",
            "1 for each model that is loaded.",
            ["name", "version", "digest", "backend", "role"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.model_load = Gauge(
            "model_load_seconds",
            "Time to verify, open, check and warm up the model served.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.gpu_utilization = Gauge(
            "gpu_utilization",
            "Fraction (0 to 1) of the last sample period in which a kernel was running.",
            ["gpu"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.gpu_memory_used = Gauge(
            "gpu_memory_used",
            "Bytes of GPU memory in use, by all processes.",
            ["gpu"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.gpu_memory_total = Gauge(
            "gpu_memory_total",
            "Bytes of GPU memory there are.",
            ["gpu"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def model_loaded(self, bundle: "Bundle", role: Role, seconds: float | None = None) -> None:
        """Every class starts at 0: a series that appears with its first prediction has no rate."""
        manifest = bundle.manifest
        for class_id in range(len(manifest.class_names)):
            self.predictions.labels(str(class_id))
        if seconds is not None:
            self.model_load.set(seconds)
        self._info(bundle, role, 1)

    def model_gone(self, bundle: "Bundle", role: Role) -> None:
        self._info(bundle, role, -math.inf)

    def _info(self, bundle: "Bundle", role: Role, value: float) -> None:
        manifest = bundle.manifest
        self.model_info.labels(
            manifest.name, manifest.version, bundle.digest, manifest.runtime.backend, role
        ).set(value)

    def meter(self, bundle: "Bundle", role: Role) -> "Meter":
        return Meter(self, bundle.version, len(bundle.manifest.class_names), role)

    def expose(self) -> bytes:
        """Prometheus text format; of all workers where there are several."""
        return generate_latest(self._exposed)


class Meter:
    """What is counted for every photo of one loaded model; the series are looked up once, not each time."""

    def __init__(self, metrics: Metrics, version: str, classes: int, role: Role) -> None:
        self._metrics = metrics
        self._answers = role != "shadow"
        self._predictions = [metrics.predictions.labels(str(class_id)) for class_id in range(classes)]
        self._inference = metrics.version_inference.labels(version, role)
        self._outcomes = partial(metrics.version_requests.labels, version, role)
        self._done = self._outcomes("200")
        self._outcomes("500")  # at 0: the step to the first one would be seen by no rate

    def predicted(self, class_id: int, confidence: float, *, decode_s: float, infer_s: float) -> None:
        self._inference.observe(infer_s)
        self._done.inc()
        if not self._answers:
            return
        metrics = self._metrics
        metrics.stage["decode"].observe(decode_s)
        metrics.stage["infer"].observe(infer_s)
        metrics.inference_latency.observe(infer_s)
        metrics.confidence.observe(confidence)
        self._predictions[class_id].inc()

    def inferred(self, photos: int, seconds: float) -> None:
        """Tensors that came without a photo: nothing is known of what they show."""
        for _ in range(photos):
            self._metrics.inference_latency.observe(seconds / photos)
            self._inference.observe(seconds / photos)
        self._done.inc(photos)

    def failed(self, status: int) -> None:
        self._outcomes(str(status)).inc()


class _Shown(Collector):
    """Without the samples that are no finite number: a gauge that has nothing to say.

    Gauges are set so for that, as `remove` does not reach the files that workers share; of several workers
    the largest counts, and any number is larger than minus infinity.
    """

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        for metric in self._source.collect():
            metric.samples = [sample for sample in metric.samples if math.isfinite(sample.value)]
            yield metric


class _Workers(Collector):
    """What ProcessCollector gives for one process, summed over all workers."""

    def collect(self) -> Iterator[Metric]:
        cpu_s = resident = opened = 0.0
        workers = 0
        for process in psutil.Process(os.getppid()).children():
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    cpu_s += times.user + times.system
                    resident += process.memory_info().rss
                    opened += process.num_fds()
                    workers += 1
            except psutil.Error:  # it ended meanwhile
                continue
        yield CounterMetricFamily("process_cpu_seconds", "CPU time of the live workers.", value=cpu_s)
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory of the live workers.", value=resident
        )
        yield GaugeMetricFamily("process_open_fds", "Open files of the live workers.", value=opened)
        yield GaugeMetricFamily("workers", "Worker processes.", value=workers)
