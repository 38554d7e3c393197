"""`POST /predict` and `POST /predict/batch`: photos in, classes out."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams

from serve.engine.engine import ServingEngine
from serve.engine.predict_job import Classification, Routing, classify
from serve.errors import ApiError
from serve.http import upload
from serve.http.middleware import PREDICT, PREDICT_BATCH
from serve.http.schemas import BatchEntry, BatchPrediction, ErrorBody, ErrorDetail, Prediction, Ranked


class DirectRoute(APIRoute):
    """Documented like any route, but its function takes the request and returns the response itself."""

    # FastAPI's own checks of both would cost a tenth of the time of a small network.

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def engine_of(request: Request) -> ServingEngine:
    engine: ServingEngine = request.app.state.engine
    return engine


router = APIRouter(route_class=DirectRoute, tags=["predict"])

MAX_TOP = 100
_WHOLE = r"[0-9]{1,4}"
_NUMBER = r"-?[0-9]{1,9}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"
SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"api_key": []}]
_PHOTO = {"type": "string", "format": "binary"}
_PHOTOS = {"type": "array", "items": _PHOTO, "minItems": 1, "maxItems": upload.MAX_BATCH}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        401: "The API key is missing or wrong",
        408: "The body did not arrive in time",
        413: "The body is too large",
        415: "Neither a form nor a photo of an accepted format",
        422: "A damaged form or photo, too many pixels, or a wrong parameter",
        429: "Overloaded; `Retry-After` says when to come back",
        500: "A defect of the server; its log has the request's id",
        503: "Not ready, or shutting down",
        504: "The request waited too long for its turn",
    }.items()
}


def _query(name: str, description: str, kind: str, least: int, most: int) -> dict[str, object]:
    schema = {"type": kind, "minimum": least, "maximum": most}
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_TOP_K = _query("top_k", "Add `top`: this many of the most probable classes.", "integer", 1, MAX_TOP)
_THRESHOLD = _query("threshold", "Add `uncertain: true` where the confidence is below this.", "number", 0, 1)


def _openapi(field: str, schema: dict[str, Any], **other_types: Any) -> dict[str, Any]:
    form = {"type": "object", "required": [field], "properties": {field: schema}}
    content = {"multipart/form-data": {"schema": form}} | other_types
    return {
        "parameters": [_TOP_K, _THRESHOLD],
        "requestBody": {"required": True, "content": content},
        "security": SECURITY,
    }


_ONE = _openapi(upload.FIELD, _PHOTO, **{media_type: {"schema": _PHOTO} for media_type in upload.RAW_TYPES})
_MANY = _openapi(upload.BATCH_FIELD, _PHOTOS)


@router.post(PREDICT, response_model=Prediction, responses=ERRORS, openapi_extra=_ONE)
async def predict(request: Request) -> Response:
    """The class of one photo (JPEG, PNG or WebP)."""
    started = time.perf_counter()
    engine = engine_of(request)
    engine.check_admission()
    top_k, threshold = _query_of(request)
    read_photo = upload.photo_reader(request.headers.get("content-type"))
    body = await upload.read_body(request, engine.settings.body_timeout_s)
    with engine.routing() as routing:
        result = await engine.run(routing, partial(classify, routing, partial(read_photo, body)))
    engine.offer_to_shadow(result, routing)
    fields = _class_fields(result, top_k, threshold)
    response = _JsonResponse(Prediction(timestamp=_now(), model_version=result.model.version, **fields))
    engine.metrics.stage["total"].observe(time.perf_counter() - started)
    return response


@router.post(PREDICT_BATCH, response_model=BatchPrediction, responses=ERRORS, openapi_extra=_MANY)
async def predict_batch(request: Request) -> Response:
    """The classes of up to 32 photos, each with its own error where it is none; all of one version."""
    engine = engine_of(request)
    engine.check_admission()
    top_k, threshold = _query_of(request)
    read_photos = upload.batch_reader(request.headers.get("content-type"))
    body = await upload.read_body(request, engine.settings.body_timeout_s)
    with engine.routing() as both:
        routing = Routing(both.primary)  # without the canary: a batch is of one version
        photos = await engine.run(routing, partial(read_photos, body))
        entries: dict[int, BatchEntry] = {}
        remaining = iter(enumerate(photos))

        async def take_turns() -> None:
            for index, (name, photo) in remaining:
                fields = await _entry_fields(engine, routing, photo, top_k, threshold)
                entries[index] = BatchEntry(index=index, file_name=name, **fields)

        # A group: where one task fails, none goes on with a model that `routing` no longer keeps open.
        async with asyncio.TaskGroup() as group:
            # As many at a time as there are threads: the rest of the queue is for other requests.
            for _ in range(min(len(photos), routing.primary.model.concurrency)):
                group.create_task(take_turns())
    version = routing.primary.model.version
    in_order = tuple(entries[index] for index in range(len(photos)))
    return _JsonResponse(BatchPrediction(predictions=in_order, timestamp=_now(), model_version=version))


def _query_of(request: Request) -> tuple[int, float]:
    """`top_k` and `threshold`, each 0 where absent. Raises ApiError (422) naming the one that is wrong."""
    if not request.scope["query_string"]:
        return 0, 0.0
    query = request.query_params
    top_k = _number(query, "top_k", _WHOLE, "a whole number", 1, MAX_TOP)
    return int(top_k), _number(query, "threshold", _NUMBER, "a number", 0, 1)


def _number(query: QueryParams, name: str, pattern: str, kind: str, least: int, most: int) -> float:
    texts = query.getlist(name)
    if not texts:
        return 0.0
    if len(texts) > 1 or not re.fullmatch(pattern, texts[0]) or not least <= float(texts[0]) <= most:
        message = f"`{name}` must be {kind} from {least} to {most}, given once"
        raise ApiError(422, "bad-parameter", message)
    return float(texts[0])


async def _entry_fields(
    engine: ServingEngine, routing: Routing, photo: bytes, top_k: int, threshold: float
) -> dict[str, Any]:
    try:
        result = await engine.run(routing, partial(classify, routing, lambda: photo), admitted=True)
    except ApiError as error:
        return {"error": ErrorDetail(code=error.code, message=error.message)}
    engine.offer_to_shadow(result, routing)
    return _class_fields(result, top_k, threshold)


def _class_fields(result: Classification, top_k: int, threshold: float) -> dict[str, Any]:
    """The fields that `Prediction` and `BatchEntry` share."""
    return {
        "class_id": result.class_id,
        "class_name": result.model.class_names[result.class_id],
        "confidence": result.confidence,
        "top": _top(result, top_k) if top_k else None,
        "uncertain": True if result.confidence < threshold else None,
    }


def _top(result: Classification, count: int) -> tuple[Ranked, ...]:
    import numpy as np

    names = result.model.class_names
    # Stable, so that of two equal classes the first comes first, as in argmax.
    return tuple(
        Ranked(class_id=index, class_name=names[index], confidence=float(result.probabilities[index]))
        for index in np.argsort(-result.probabilities, kind="stable")[:count].tolist()
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class _JsonResponse(Response):
    """A 200 with the fields that have a value, without the work of Starlette's own __init__."""

    def __init__(self, body: Prediction | BatchPrediction) -> None:
        self.status_code = 200
        self.background = None
        self.body = body.model_dump_json(exclude_none=True).encode()
        self.raw_headers = [
            (b"content-length", str(len(self.body)).encode()),
            (b"content-type", b"application/json"),
            (b"x-model-version", body.model_version.encode()),
        ]
