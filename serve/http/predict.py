"""`POST /predict` and `POST /predict/batch`: photos in, classes out."""

import asyncio
import base64
import math
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from serve.engine.engine import ServingEngine
from serve.engine.predict_job import Classification, Routing, classify
from serve.errors import ApiError
from serve.http import upload
from serve.http.middleware import PREDICT, PREDICT_BATCH
from serve.http.schemas import (
    BatchEntry,
    BatchPrediction,
    ErrorBody,
    ErrorDetail,
    HeatMap,
    Prediction,
    Ranked,
)


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
_PARAMETERS = {  # what a text must look like, in words, and the least and the most value
    "top_k": (_WHOLE, f"a whole number from 1 to {MAX_TOP}", 1, MAX_TOP),
    "threshold": (_NUMBER, "a number from 0 to 1", 0, 1),
    "explain": ("true|false", "true or false", 0, 1),
}
_TRUTH = {"true": 1.0, "false": 0.0}
PNG = "image/png"
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
_THRESHOLD = _query(
    "threshold", "Add `uncertain: true` where the confidence is below this, too.", "number", 0, 1
)
_EXPLAIN = {
    "name": "explain",
    "in": "query",
    "required": False,
    "description": f"Add `explanation`: where the network looked. With `Accept: {PNG}`: that picture alone.",
    "schema": {"type": "boolean"},
}
QUERY = [_TOP_K, _THRESHOLD]


def _openapi(
    field: str, schema: dict[str, Any], *more: dict[str, object], **other_types: Any
) -> dict[str, Any]:
    form = {"type": "object", "required": [field], "properties": {field: schema}}
    content = {"multipart/form-data": {"schema": form}} | other_types
    return {
        "parameters": [*QUERY, *more],
        "requestBody": {"required": True, "content": content},
        "security": SECURITY,
    }


_ONE = _openapi(
    upload.FIELD, _PHOTO, _EXPLAIN, **{media_type: {"schema": _PHOTO} for media_type in upload.RAW_TYPES}
)
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": {PNG: _PICTURE}}, **ERRORS}
_MANY = _openapi(upload.BATCH_FIELD, _PHOTOS)


class Parameters(dict[str, float]):
    """The parameters that a request has, in its query or as fields of its form; truth is 1 or 0.

    explains: the path has heat maps.
    """

    def __init__(self, request: Request, *, explains: bool = False) -> None:
        super().__init__()
        self._explains = explains
        if request.scope["query_string"]:
            self.add(request.query_params.multi_items())

    def add(self, given: Iterable[tuple[str, str]]) -> None:
        """Raises ApiError (422) naming the one that is wrong, or given twice with different values."""
        for name, (pattern, what, least, most) in _PARAMETERS.items():
            texts = [text for key, text in given if key == name]
            if not texts:
                continue
            value = _value(texts[0]) if re.fullmatch(pattern, texts[0]) else math.nan
            if len(texts) > 1 or not least <= value <= most:
                raise ApiError(422, "bad-parameter", f"`{name}` must be {what}, given once")
            if name == "explain" and value and not self._explains:
                raise ApiError(422, "bad-parameter", f"`explain` goes to {PREDICT}, with one photo")
            if (before := self.setdefault(name, value)) != value:
                message = f"`{name}` is {before:g} in the query and {value:g} in the body: send it once"
                raise ApiError(422, "bad-parameter", message)


def _value(text: str) -> float:
    return _TRUTH[text] if text in _TRUTH else float(text)


@router.post(PREDICT, response_model=Prediction, responses=_ANSWERS, openapi_extra=_ONE)
async def predict(request: Request) -> Response:
    """The class of one photo (JPEG, PNG or WebP)."""
    started = time.perf_counter()
    engine = engine_of(request)
    engine.check_admission()
    parameters = Parameters(request, explains=True)
    read_photo = upload.photo_reader(request.headers.get("content-type"), parameters.add)
    body = await upload.read_body(request, engine.settings.body_timeout_s)
    with engine.routing() as routing:
        result = await engine.run(routing, partial(classify, routing, partial(read_photo, body)))
        if parameters.get("explain"):
            engine.offer_to_shadow(result, routing)
            return await _with_explanation(request, result, parameters)
    engine.offer_to_shadow(result, routing)
    response = _JsonResponse(_prediction(result, parameters))
    engine.metrics.stage["total"].observe(time.perf_counter() - started)
    return response


async def _with_explanation(request: Request, result: Classification, parameters: Parameters) -> Response:
    overlay = PNG in request.headers.get("accept", "")
    picture = await engine_of(request).explainer.explain(result, overlay=overlay)
    if overlay:
        return Response(picture.png, headers={"X-Model-Version": result.model.version}, media_type=PNG)
    url = f"data:{PNG};base64,{base64.b64encode(picture.png).decode()}"
    return _JsonResponse(_prediction(result, parameters, HeatMap(method=picture.method, image=url)))


def _prediction(
    result: Classification, parameters: Parameters, explanation: HeatMap | None = None
) -> Prediction:
    fields, version = class_fields(result, parameters), result.model.version
    return Prediction(timestamp=_now(), model_version=version, explanation=explanation, **fields)


@router.post(PREDICT_BATCH, response_model=BatchPrediction, responses=ERRORS, openapi_extra=_MANY)
async def predict_batch(request: Request) -> Response:
    """The classes of up to 32 photos, each with its own error where it is none; all of one version."""
    engine = engine_of(request)
    engine.check_admission()
    parameters = Parameters(request)
    read_photos = upload.batch_reader(request.headers.get("content-type"), parameters.add)
    body = await upload.read_body(request, engine.settings.body_timeout_s)
    with engine.routing() as both:
        routing = Routing(both.primary)  # without the canary: a batch is of one version
        photos = await engine.run(routing, partial(read_photos, body))
        results = await classify_all(engine, routing, [photo for _, photo in photos])
    entries = []
    for index, ((name, _), result) in enumerate(zip(photos, results, strict=True)):
        if isinstance(result, ApiError):
            fields: dict[str, Any] = {"error": ErrorDetail(code=result.code, message=result.message)}
        else:
            fields = class_fields(result, parameters)
        entries.append(BatchEntry(index=index, file_name=name, **fields))
    version = routing.primary.model.version
    return _JsonResponse(BatchPrediction(predictions=tuple(entries), timestamp=_now(), model_version=version))


async def classify_all(
    engine: ServingEngine, routing: Routing, photos: Sequence[bytes]
) -> list[Classification | ApiError]:
    """The result of each photo, in their order; the error of one that is none."""
    results: dict[int, Classification | ApiError] = {}
    remaining = iter(enumerate(photos))

    async def take_turns() -> None:
        for index, photo in remaining:
            results[index] = await _classify_one(engine, routing, photo)

    # A group: where one task fails, none goes on with a model that `routing` no longer keeps open.
    async with asyncio.TaskGroup() as group:
        # As many at a time as there are threads: the rest of the queue is for other requests.
        for _ in range(min(len(photos), routing.primary.model.concurrency)):
            group.create_task(take_turns())
    return [results[index] for index in range(len(photos))]


async def _classify_one(engine: ServingEngine, routing: Routing, photo: bytes) -> Classification | ApiError:
    try:
        result = await engine.run(routing, partial(classify, routing, lambda: photo), admitted=True)
    except ApiError as error:
        return replace(error)  # without its traceback, which holds the photo
    engine.offer_to_shadow(result, routing)
    return result


def class_fields(result: Classification, parameters: Parameters) -> dict[str, Any]:
    """The fields that `Prediction`, `BatchEntry` and `InstancePrediction` share."""
    top_k, doubt = int(parameters.get("top_k", 0)), result.doubt
    if doubt is None and result.confidence < parameters.get("threshold", 0.0):
        doubt = "low confidence"
    return {
        "class_id": result.class_id,
        "class_name": result.model.class_names[result.class_id],
        "confidence": result.confidence,
        "top": _top(result, top_k) if top_k else None,
        "uncertain": True if doubt else None,
        "reason": doubt,
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
