"""The bodies the server sends. Their field order is the order on the wire."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from workbench.backends import Runtime
from workbench.photos.contract import Preprocess


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ranked(_Body):
    """One of the most probable classes."""

    class_id: int
    class_name: str
    confidence: float


class Prediction(_Body):
    """confidence: softmax probability of the class, in (0, 1]. timestamp: UTC, whole seconds.

    top: the most probable classes, where `top_k` was asked for. uncertain: true where the confidence is below
    the `threshold` that was asked for, else absent.
    """

    class_id: int
    class_name: str
    confidence: float
    timestamp: datetime
    model_version: str
    top: tuple[Ranked, ...] | None = None
    uncertain: bool | None = None


class ErrorDetail(_Body):
    """code: stable, for programs. message: for people."""

    code: str
    message: str


class ErrorBody(_Body):
    error: ErrorDetail
    request_id: str


class BatchEntry(_Body):
    """One photo of a batch: what `Prediction` says, or `error`. index: its place among the files sent."""

    index: int
    file_name: str
    class_id: int | None = None
    class_name: str | None = None
    confidence: float | None = None
    top: tuple[Ranked, ...] | None = None
    uncertain: bool | None = None
    error: ErrorDetail | None = None


class BatchPrediction(_Body):
    predictions: tuple[BatchEntry, ...]
    timestamp: datetime
    model_version: str


class Alive(_Body):
    status: str = "ok"


class Ready(_Body):
    status: str = "ready"
    name: str
    version: str


class InputContract(_Body):
    """What /predict takes, and what is done to it before the network sees it."""

    field: str
    formats: tuple[str, ...]
    max_body_bytes: int
    max_pixels: int
    preprocess: Preprocess


class Measured(_Body):
    """What the benchmark run found before this version was published, on the machine named.

    top1: fraction of `validation_images` classified right; of photos that chose nothing, where there were
    enough. synthetic: those were drawn, not photographed.
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


class ModelCard(_Body):
    """digest: of the bundle's manifest. concurrency: images computed at the same time."""

    name: str
    version: str
    digest: str
    created_at: datetime
    class_names: tuple[str, ...]
    input: InputContract
    runtime: Runtime
    provider: str
    threads: int
    concurrency: int
    measured: Measured


class TensorMetadata(_Body):
    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(_Body):
    """Open Inference Protocol: a model and its tensors; -1 in a shape is any number."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class Tensor(_Body):
    """data: flat, row by row; absent where the numbers follow the JSON as bytes, which `parameters` says."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: tuple[float, ...] | None = None
    parameters: dict[str, int] | None = None


class Inferred(_Body):
    """Open Inference Protocol: what a model made of the tensors it was sent. id: the request's."""

    model_name: str
    model_version: str
    outputs: tuple[Tensor, ...]
    id: str | None = None


class ServerMetadata(_Body):
    name: str
    version: str
    extensions: tuple[str, ...]


class ModelReady(_Body):
    name: str
    ready: bool = True


class ProtocolError(_Body):
    """An error below /v2, where `error` is a text: so the protocol has it."""

    error: str
    code: str
    request_id: str
