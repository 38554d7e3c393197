"""The HTTP face of one published model."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from serve import gpu, responses, upload
from serve.engine import Engine
from serve.gate import PREDICT, Gate
from serve.metrics import Metrics
from serve.model import Model
from serve.responses import ApiError
from serve.schemas import Alive, ErrorBody, InputContract, Measured, ModelCard, Prediction, Ready
from serve.settings import Settings
from workbench.images import FORMATS, MAX_PIXELS, ImageError

if TYPE_CHECKING:
    app: FastAPI

router = APIRouter()

_IMAGE_ERRORS = {
    "unsupported": (415, "unsupported-image"),
    "broken": (422, "broken-image"),
    "empty": (422, "empty-image"),
    "too-large": (422, "image-too-large"),
}
_UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [upload.FIELD],
                    "properties": {upload.FIELD: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def create_app(settings: Settings) -> FastAPI:
    """An app with its own engine and metrics. Nothing is loaded before its lifespan begins."""
    metrics = Metrics()
    engine = Engine(settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            with gpu.watching(metrics):
                yield
        finally:
            engine.stop()

    app = FastAPI(title="krishi-bench", lifespan=lifespan, redirect_slashes=False, redoc_url=None)
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.engine = engine
    app.add_middleware(
        Gate, metrics=metrics, max_body_bytes=settings.max_body_bytes, draining=lambda: engine.draining
    )
    responses.install(app)
    app.include_router(router)
    return app


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl+C, then finish what was begun and return. Blocks.

    port 0 takes a free one and logs it. Raises WorkbenchError where the address cannot be listened on.
    """
    from serve.server import run

    run(create_app(settings), host, port)


def __getattr__(name: str) -> FastAPI:
    """`app`, made from the environment when uvicorn asks for it: importing this module does nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()["app"] = create_app(Settings.from_environment())
    return made


@router.post(
    PREDICT,
    response_model=Prediction,
    openapi_extra=_UPLOAD_SCHEMA,
    responses={status: {"model": ErrorBody} for status in (408, 413, 415, 422, 500, 503)},
)
async def predict(request: Request) -> Response:
    """The class of one photo (JPEG, PNG or WebP)."""
    started = time.perf_counter()
    model = _model(request)
    boundary = upload.boundary_of(request.headers.get("content-type"))
    body = await upload.read_body(request, request.app.state.settings.body_timeout_s)
    try:
        guess = await _engine(request).guess(model, partial(upload.photo_of, body, boundary))
    except ImageError as error:
        status, code = _IMAGE_ERRORS[error.kind]
        raise ApiError(status, code, str(error)) from error
    manifest = model.bundle.manifest
    prediction = Prediction(
        class_id=guess.class_id,
        class_name=manifest.class_names[guess.class_id],
        confidence=guess.confidence,
        timestamp=datetime.now(UTC).replace(microsecond=0),
        model_version=manifest.version,
    )
    _metrics(request).stages.labels("total").observe(time.perf_counter() - started)
    return _json(prediction.model_dump_json(), manifest.version)


@router.get("/healthz")
async def healthz() -> Alive:
    """The process is up."""
    return Alive()


@router.get("/readyz", responses={503: {"model": ErrorBody}})
async def readyz(request: Request) -> Ready:
    """A model is loaded, verified and warm, and the server is not shutting down."""
    why_not = _engine(request).not_ready()
    if why_not is not None:
        raise ApiError(503, why_not.code, why_not.message, headers=_retry_after(request))
    manifest = _model(request).bundle.manifest
    return Ready(name=manifest.name, version=manifest.version)


@router.get("/model", response_model=ModelCard, responses={503: {"model": ErrorBody}})
async def model_card(request: Request) -> Response:
    """What is served, what it takes, and what was measured before it was published."""
    model = _model(request)
    card = _card(model, request.app.state.settings)
    return _json(card.model_dump_json(), card.version)


@router.get("/metrics", response_class=Response)
async def metrics_page(request: Request) -> Response:
    """Prometheus text format."""
    return Response(_metrics(request).expose(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _model(request: Request) -> Model:
    model = _engine(request).model
    if model is None:
        raise ApiError(
            503, "not-ready", "no model is loaded; /readyz says why", headers=_retry_after(request)
        )
    return model


def _retry_after(request: Request) -> dict[str, str]:
    settings: Settings = request.app.state.settings
    return {"Retry-After": str(max(1, round(settings.retry_s)))}


def _json(body: str, version: str) -> Response:
    return Response(body, media_type="application/json", headers={"X-Model-Version": version})


def _card(model: Model, settings: Settings) -> ModelCard:
    manifest = model.bundle.manifest
    measured = manifest.measured
    # Photos that chose nothing flatter no one.
    latency, accuracy = measured.latency, measured.certification or measured.accuracy
    return ModelCard(
        name=manifest.name,
        version=manifest.version,
        digest=model.bundle.digest,
        created_at=manifest.created_at,
        class_names=manifest.class_names,
        input=InputContract(
            field=upload.FIELD,
            formats=FORMATS,
            max_body_bytes=settings.max_body_bytes,
            max_pixels=MAX_PIXELS,
            preprocess=manifest.preprocess,
        ),
        runtime=manifest.runtime,
        provider=model.session.provider,
        threads=model.session.threads,
        concurrency=model.concurrency,
        measured=Measured(
            variant=measured.variant,
            precision=measured.precision,
            size_bytes=measured.size_bytes,
            validation_images=accuracy.images if accuracy else None,
            top1=accuracy.top1 if accuracy else None,
            latency_p50_ms=latency.p50_ns / 1e6 if latency else None,
            latency_p95_ms=latency.p95_ns / 1e6 if latency and latency.p95_ns is not None else None,
            cpu=manifest.machine.cpu,
            synthetic=manifest.provenance.synthetic,
        ),
    )
