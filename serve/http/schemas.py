"""The bodies that the server sends. The order of their fields is the order on the wire."""

from datetime import datetime

from workbench.backends import Runtime
from workbench.backends.abstention import Abstention, Doubt
from workbench.backends.softmax import OutputKind
from workbench.photos.contract import Preprocess
from workbench.registry.explanation import HeatMethod
from workbench.system.records import Record


class Ranked(Record):
    """One of the most probable classes."""

    class_id: int
    class_name: str
    confidence: float


class HeatMap(Record):
    """Where the network looked. image: a transparent PNG to lay over the photo, as a `data:` URL."""

    method: HeatMethod
    image: str


class Prediction(Record):
    """confidence: softmax probability of the class, in (0, 1]. timestamp: UTC, whole seconds.

    top: the `top_k` most probable classes. uncertain: true where the version's own rule says so, or where the
    confidence is below `threshold`; else absent, as `reason`, why, then is. explanation: where `explain` is
    true.
    """

    class_id: int
    class_name: str
    confidence: float
    timestamp: datetime
    model_version: str
    top: tuple[Ranked, ...] | None = None
    uncertain: bool | None = None
    explanation: HeatMap | None = None
    reason: Doubt | None = None


class ErrorDetail(Record):
    """code: stable, for programs. message: for people."""

    code: str
    message: str


class ErrorBody(Record):
    error: ErrorDetail
    request_id: str


class BatchEntry(Record):
    """One photo of a batch: the fields of `Prediction`, or `error`. index: its place among the files sent."""

    index: int
    file_name: str
    class_id: int | None = None
    class_name: str | None = None
    confidence: float | None = None
    top: tuple[Ranked, ...] | None = None
    uncertain: bool | None = None
    reason: Doubt | None = None
    error: ErrorDetail | None = None


class BatchPrediction(Record):
    predictions: tuple[BatchEntry, ...]
    timestamp: datetime
    model_version: str


class InstancePrediction(Record):
    """KServe v1: the class of one instance, with the fields of `Prediction` that belong to a photo."""

    class_id: int
    class_name: str
    confidence: float
    top: tuple[Ranked, ...] | None = None
    uncertain: bool | None = None
    reason: Doubt | None = None


class InstancePredictions(Record):
    predictions: tuple[InstancePrediction, ...]


class ModelNames(Record):
    models: tuple[str, ...]


class Alive(Record):
    status: str = "ok"


class Wanted(Record):
    """The version that the alias points at, where it cannot be loaded and another is served: why, and when it
    is tried again (UTC)."""

    version: str
    reason: str
    next_try_at: datetime


class Ready(Record):
    status: str = "ready"
    name: str
    version: str
    wanted: Wanted | None = None


class InputContract(Record):
    """What /predict accepts, and how it is preprocessed for the network."""

    field: str
    formats: tuple[str, ...]
    max_body_bytes: int
    max_pixels: int
    preprocess: Preprocess


class Measurements(Record):
    """What the benchmark run measured before this version was published, on the machine named.

    top1: fraction of `validation_images` classified right; on held-out photos where there were enough.
    synthetic: the photos were drawn, not photographed.
    """

    variant: str
    precision: str | None
    size_bytes: int | None
    validation_images: int | None
    top1: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    cpu: str
    synthetic: bool


class ModelCard(Record):
    """digest: of the bundle's manifest. outputs: of the network; /predict makes probabilities of both.

    explanation: the method of `explain`. concurrency: images computed at the same time. abstention: the
    version's rule for uncertain answers; null where it has none, or where it is turned off.
    """

    name: str
    version: str
    digest: str
    created_at: datetime
    class_names: tuple[str, ...]
    input: InputContract
    outputs: OutputKind
    explanation: HeatMethod
    runtime: Runtime
    provider: str
    threads: int
    concurrency: int
    measured: Measurements
    abstention: Abstention | None


class TensorMetadata(Record):
    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Record):
    """Open Inference Protocol: a model and its tensors; -1 in a shape stands for any number."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class OutputTensor(TensorMetadata):
    """data: flat, row by row; absent where `parameters` says that the numbers follow the JSON as bytes."""

    data: tuple[float, ...] | None = None
    parameters: dict[str, int] | None = None


class InferResponse(Record):
    """Open Inference Protocol: the output of a model. id: the request's."""

    model_name: str
    model_version: str
    outputs: tuple[OutputTensor, ...]
    id: str | None = None


class ServerMetadata(Record):
    name: str
    version: str
    extensions: tuple[str, ...]


class ModelReady(Record):
    name: str
    ready: bool = True


class ProtocolError(Record):
    """An error below /v1 and /v2, where `error` is a text, as those protocols define it."""

    error: str
    code: str
    request_id: str
