"""The bodies the server sends. Their field order is the order on the wire."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from workbench.backends import Runtime
from workbench.images import Preprocess


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prediction(_Body):
    """confidence: softmax probability of the class, in (0, 1]. timestamp: UTC, whole seconds."""

    class_id: int
    class_name: str
    confidence: float
    timestamp: datetime
    model_version: str


class ErrorDetail(_Body):
    """code: stable, for programs. message: for people."""

    code: str
    message: str


class ErrorBody(_Body):
    error: ErrorDetail
    request_id: str


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
