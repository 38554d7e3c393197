"""The ASGI app around one published model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from serve import gpu
from serve.accepting import PortTurns
from serve.engine.engine import ServingEngine
from serve.engine.explainer import method_of
from serve.engine.loader import Loader
from serve.http import kserve_v1, page, predict, protocol, responses, upload
from serve.http.middleware import RequestMiddleware
from serve.http.predict import engine_of
from serve.http.schemas import Alive, ErrorBody, InputContract, Measurements, ModelCard, Ready, Wanted
from serve.metrics import Metrics
from serve.settings import Settings
from serve.shared_metrics import SharedFiles
from workbench import __version__
from workbench.photos.contract import MAX_PIXELS
from workbench.photos.decode import readable_formats

router = APIRouter(tags=["operation"])
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": ErrorBody}}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_HEADERS = {
    "X-Request-ID": {"description": "Id of this request, as in the log", "schema": {"type": "string"}},
    "X-Model-Version": {
        "description": "Version of the model that answered; absent before one is loaded",
        "schema": {"type": "string"},
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}}


def _allow_origins(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """`app` for scripts of these origins. Outermost: a preflight has no key, and errors need the headers."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        # No cookies: a key travels in a header, which a script sets itself.
        allow_credentials=False,
        allow_private_network="*" not in origins,
        expose_headers=(*_HEADERS, *_RETRY_AFTER, "Inference-Header-Content-Length"),
    )


class App(FastAPI):
    """FastAPI inside `RequestMiddleware`; its OpenAPI description has the API key and the common headers."""

    def build_middleware_stack(self) -> ASGIApp:
        """Leave out Starlette's catch-all handler: it would answer in plain text."""
        stack = super().build_middleware_stack()
        assert isinstance(stack, ServerErrorMiddleware)
        app = RequestMiddleware(stack.app, self.state.engine, predict.predict)
        origins = self.state.engine.settings.cors_origins
        return _allow_origins(app, origins) if origins else app

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        schema = super().openapi()
        schema["components"]["securitySchemes"] = _SECURITY
        for operations in schema["paths"].values():
            for operation in operations.values():
                for status, response in operation["responses"].items():
                    headers = _HEADERS | (_RETRY_AFTER if status in ("429", "503") else {})
                    response.setdefault("headers", {}).update(headers)
        return schema


def create_app(
    settings: Settings, turns: PortTurns | None = None, shared: SharedFiles | None = None
) -> FastAPI:
    """Make an app with its own engine and metrics. Nothing is loaded before its lifespan begins.

    turns, shared: of one of several workers.
    """
    engine = ServingEngine(settings, Metrics(shared), turns)
    loader = Loader(engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.loop = asyncio.get_running_loop()
        loader.thread.start()
        try:
            with gpu.poll_in_background(engine.metrics):
                yield
        finally:
            # In threads: both may wait for work on this loop.
            await asyncio.to_thread(loader.stop)
            await asyncio.to_thread(engine.close)

    app = App(
        title="krishi-bench",
        version=__version__,
        description="One published image classifier.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.engine, app.state.loader = engine, loader
    app.add_exception_handler(HTTPException, responses.http_error)
    # Routes are matched in this order: the path that must be fast comes first.
    for routes in (predict.router, protocol.direct, kserve_v1.direct):
        app.include_router(routes)
    for routes in (protocol.router, kserve_v1.router, router, page.router):
        app.include_router(routes)
    page.install_docs(app)
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` from the environment when uvicorn asks for it; importing this module makes nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = create_app(Settings.from_environment())
    return app


@router.get("/healthz", responses=_NOT_READY)
async def healthz(request: Request) -> Alive:
    """The process is up, and its threads do not hang."""
    engine_of(request).check_alive()
    return Alive()


@router.get("/readyz", responses=_NOT_READY, response_model_exclude_none=True)
async def readyz(request: Request) -> Ready:
    """A model is loaded, verified and warm, and the server is not shutting down."""
    engine = engine_of(request)
    model = engine.ready_model()
    wanted = Wanted(**engine.wanted._asdict()) if engine.wanted else None
    return Ready(name=model.bundle.manifest.name, version=model.version, wanted=wanted)


@router.get(
    "/model",
    responses={401: {"model": ErrorBody}, **_NOT_READY},
    openapi_extra={"security": predict.SECURITY},
)
async def model_card(request: Request) -> ModelCard:
    """The model served, its input contract, and what was measured before it was published."""
    engine = engine_of(request)
    model = engine.loaded_model()
    manifest = model.bundle.manifest
    measured = manifest.measured
    # Prefer the held-out accuracy: it is unbiased.
    latency, accuracy = measured.latency, measured.certification or measured.accuracy
    return ModelCard(
        name=manifest.name,
        version=manifest.version,
        digest=model.bundle.digest,
        created_at=manifest.created_at,
        class_names=manifest.class_names,
        input=InputContract(
            field=upload.FIELD,
            formats=readable_formats(),
            max_body_bytes=engine.settings.max_body_bytes,
            max_pixels=MAX_PIXELS,
            preprocess=manifest.preprocess,
        ),
        outputs=manifest.outputs,
        explanation=method_of(model),
        runtime=manifest.runtime,
        provider=model.session.provider,
        threads=model.session.threads,
        concurrency=model.concurrency,
        measured=Measurements(
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
        abstention=model.abstention,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics_page(request: Request) -> Response:
    """Prometheus text format."""
    return Response(engine_of(request).metrics.expose(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
