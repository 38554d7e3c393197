"""The metrics for Prometheus. Their names are stable: dashboards use them, docs/serving.md lists them."""

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

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
from prometheus_client.registry import Collector

from serve.shared_metrics import SharedFiles, WorkerProcesses
from workbench.registry.explanation import HeatMethod

if TYPE_CHECKING:
    from workbench.backends.abstention import Doubt
    from workbench.registry.bundle import Bundle

ModelRole = Literal["primary", "canary", "shadow"]

# From the 1 ms of a small quantised model to a timeout; the client library's default starts at 5 ms.
BUCKETS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5,
)  # fmt: skip
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# Around 0, below which a photo is called unlike the training photos; 1 is a usual one.
LIKENESS_BUCKETS = (-4, -2, -1, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.5, 2)
DOUBTS: "dict[Doubt, str]" = {
    "low confidence": "low-confidence",
    "unlike the training photos": "unlike-training",
}
CODES = ("200", "401", "408", "413", "415", "422", "429", "500", "503", "504")
REASONS = (
    "queue-full", "deadline", "not-ready", "draining", "body-too-large", "body-timeout", "unauthorized",
)  # fmt: skip


class Metrics:
    """One app's metrics, apart from those of another. prometheus_client appends `_total` to counters.

    shared: where several workers expose theirs together.
    """

    def __init__(self, shared: SharedFiles | None = None) -> None:
        # For the whole process. `_created` would double the series, and nothing reads it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        if shared is None:
            # Whatever PROMETHEUS_MULTIPROC_DIR says: if it is set, another program's metrics are there.
            values.ValueClass = values.MutexValue
        own = CollectorRegistry()
        self._add_counters(own)
        self._add_histograms(own)
        self._add_explanations(own)
        self._add_abstention(own)
        self._add_gauges(own)
        self._exposed = CollectorRegistry()
        self._shared = shared
        source: Collector = own
        if shared is None:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self._exposed)
        else:
            source = shared
            shared.count_damaged_by(self.damaged_files.inc)
            shared.restore()  # it has to know its files before they can go
            self._exposed.register(WorkerProcesses())
        self._exposed.register(_FiniteSamples(source))

    def _add_counters(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self.requests = counter("requests", "Requests to a prediction endpoint by status code.", ["code"])
        self.rejected = counter(
            "requests_rejected",
            "Requests to a prediction endpoint turned away without a look at the photo.",
            ["reason"],
        )
        self.swaps = counter(
            "model_swaps", "Attempts to replace the model served, after the alias moved.", ["result"]
        )
        self.version_requests = counter(
            "version_requests",
            "Photos that reached a model, by version and by what became of them.",
            ["version", "role", "code"],
        )
        self.shadow_requests = counter(
            "shadow_requests",
            "Photos sampled for the shadow, by whether it saw the class that was answered.",
            ["version", "shadow_version", "result"],
        )
        self.predictions = counter("predictions", "Predictions made by class id.", ["class_id"])
        self.damaged_files = counter(
            "metrics_files_damaged",
            "Files of the workers' metrics that could not be read: what they counted is left out.",
        )
        for code in CODES:
            self.requests.labels(code)
        for reason in REASONS:
            self.rejected.labels(reason)
        for result in ("ok", "failed"):
            self.swaps.labels(result)

    def _add_histograms(self, registry: CollectorRegistry) -> None:
        seconds = partial(Histogram, buckets=BUCKETS, registry=registry)
        self.inference_latency = seconds(
            "inference_latency_seconds",
            "Time in the inference engine alone, per photo; where photos share calls, with the wait for one.",
        )
        stages = seconds(
            "request_stage_seconds",
            "Time of a successful prediction by stage: waiting for a thread, decode and preprocess, "
            "inference, and the whole request.",
            ["stage"],
        )
        self.version_inference = seconds(
            "version_inference_seconds",
            "Time in the inference engine alone, per photo, by version.",
            ["version", "role"],
        )
        self.shadow_inference = seconds(
            "shadow_inference_seconds",
            "Time in the inference engine alone of the same sampled photos, in both models.",
            ["version", "shadow_version", "model"],
        )
        self.confidence = Histogram(
            "prediction_confidence",
            "Softmax probability of the predicted class.",
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )
        self.stage = {stage: stages.labels(stage) for stage in ("queue", "decode", "infer", "total")}

    def _add_explanations(self, registry: CollectorRegistry) -> None:
        self.explanations = Counter(
            "explanations",
            "Heat maps asked for, by method and by what became of them.",
            ["method", "result"],
            registry=registry,
        )
        self.explanation_seconds = Histogram(
            "explanation_seconds",
            "Time to make a heat map, from its turn to the picture, waiting for other requests included.",
            ["method"],
            buckets=BUCKETS,
            registry=registry,
        )
        for method in get_args(HeatMethod):
            self.explanations.labels(method, "ok")
            self.explanation_seconds.labels(method)

    def _add_abstention(self, registry: CollectorRegistry) -> None:
        self.uncertain = Counter(
            "predictions_uncertain",
            "Predictions called uncertain by the version's own rule.",
            ["reason"],
            registry=registry,
        )
        for doubt in DOUBTS.values():
            self.uncertain.labels(doubt)
        self.calibrated_confidence = Histogram(
            "prediction_calibrated_confidence",
            "Calibrated probability of the predicted class, of versions that know when to abstain.",
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )
        self.likeness = Histogram(
            "prediction_likeness",
            "How like the training photos a photo is: 1 is usual, below 0 it is called unlike them.",
            buckets=LIKENESS_BUCKETS,
            registry=registry,
        )

    def _add_gauges(self, registry: CollectorRegistry) -> None:
        # multiprocess_mode: how the values of several workers become one.
        total = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        largest = partial(Gauge, registry=registry, multiprocess_mode="livemax")
        latest = partial(Gauge, registry=registry, multiprocess_mode="livemostrecent")
        self.inflight = total("inflight_requests", "Requests to a prediction endpoint not answered yet.")
        self.queue_depth = total("queue_depth", "Photos that wait for a thread.")
        self.model_info = largest(
            "model_info", "1 for each model that is loaded.", ["name", "version", "digest", "backend", "role"]
        )
        self.next_try = largest(
            "model_next_try_timestamp_seconds",
            "Unix time of the next attempt to load a version that is wanted and could not be loaded.",
            ["name", "version"],
        )
        self.model_load = largest(
            "model_load_seconds", "Time to verify, open, check and warm up the model served."
        )
        self.gpu_utilization = latest(
            "gpu_utilization",
            "Fraction (0 to 1) of the last sample period in which a kernel was running.",
            ["gpu"],
        )
        self.gpu_memory_used = latest(
            "gpu_memory_used", "Bytes of GPU memory in use, by all processes.", ["gpu"]
        )
        self.gpu_memory_total = latest("gpu_memory_total", "Bytes of GPU memory there are.", ["gpu"])

    def set_loaded(self, bundle: "Bundle", role: ModelRole, *, loaded: bool = True) -> None:
        """Show the model among those that are loaded, or no longer."""
        manifest = bundle.manifest
        # Every class starts at 0: a series that appears with its first prediction has no rate.
        for class_id in range(len(manifest.class_names)):
            self.predictions.labels(str(class_id))
        backend = manifest.runtime.backend
        info = self.model_info.labels(manifest.name, manifest.version, bundle.digest, backend, role)
        info.set(1 if loaded else -math.inf)

    def set_next_try(self, name: str, version: str, at_s: float | None) -> None:
        """Show when a version that could not be loaded is tried again; None removes it."""
        self.next_try.labels(name, version).set(-math.inf if at_s is None else at_s)

    def restore_files(self) -> None:
        """Write the files that this worker shares again where they are gone."""
        if self._shared is not None:
            self._shared.restore()

    def expose(self) -> bytes:
        """Prometheus' text format, for all workers together."""
        return generate_latest(self._exposed)


class Meter:
    """Counts the photos of one loaded model. Its series are looked up once, not for each photo."""

    def __init__(self, metrics: Metrics, bundle: "Bundle", role: ModelRole) -> None:
        self._metrics = metrics
        self._answers = role != "shadow"
        classes = range(len(bundle.manifest.class_names))
        self._predictions = [metrics.predictions.labels(str(class_id)) for class_id in classes]
        self._inference = metrics.version_inference.labels(bundle.version, role)
        self._outcomes = partial(metrics.version_requests.labels, bundle.version, role)
        self._succeeded = self._outcomes("200")
        self._outcomes("500")  # at 0: no rate would see the step to the first one

    def count_photo(self, class_id: int, confidence: float, decode_s: float, infer_s: float) -> None:
        self._inference.observe(infer_s)
        self._succeeded.inc()
        if not self._answers:
            return
        metrics = self._metrics
        metrics.stage["decode"].observe(decode_s)
        metrics.stage["infer"].observe(infer_s)
        metrics.inference_latency.observe(infer_s)
        metrics.confidence.observe(confidence)
        self._predictions[class_id].inc()

    def count_scores(self, confidence: float, likeness: float | None, doubt: "Doubt | None") -> None:
        """confidence: calibrated. likeness: None where the version has no floor."""
        if not self._answers:
            return
        metrics = self._metrics
        metrics.calibrated_confidence.observe(confidence)
        if likeness is not None:
            metrics.likeness.observe(likeness)
        if doubt is not None:
            metrics.uncertain.labels(DOUBTS[doubt]).inc()

    def count_tensors(self, rows: int, seconds: float) -> None:
        """Count the rows of a tensor request. seconds: of all together."""
        for _ in range(rows):
            self._metrics.inference_latency.observe(seconds / rows)
            self._inference.observe(seconds / rows)
        self._succeeded.inc(rows)

    def count_failure(self, status: int) -> None:
        self._outcomes(str(status)).inc()


class _FiniteSamples(Collector):
    """Leaves out the samples that are not finite: a gauge is removed by setting it to -inf or NaN."""

    # `remove` does not reach the files that workers share. Of several workers the largest value is exposed.

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        for metric in self._source.collect():
            metric.samples = [sample for sample in metric.samples if math.isfinite(sample.value)]
            yield metric
