"""`POST /predict` and `POST /predict/batch`: photos in, classes out."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from serve import parameters, upload, work
from serve.context import engine_of, metrics_of, settings_of
from serve.gate import PREDICT, PREDICT_BATCH
from serve.parameters import Parameters
from serve.responses import ApiError
from serve.schemas import BatchPrediction, ErrorBody, Prediction
from serve.work import Guess, Serving

Said = dict[str, Any]  # a JSON object


class Direct(APIRoute):
    """Documented as any route, but its function takes the request and gives the response itself: checking
    twice what the function checks takes a tenth of the time that a small network takes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(route_class=Direct, tags=["predict"])

SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"api_key": []}]
_PHOTO = {"type": "string", "format": "binary"}
_ONE = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": [upload.FIELD],
            "properties": {upload.FIELD: _PHOTO},
        }
    },
    **{media_type: {"schema": _PHOTO} for media_type in upload.RAW_TYPES},
}
_MANY = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": [upload.BATCH_FIELD],
            "properties": {
                upload.BATCH_FIELD: {
                    "type": "array",
                    "items": _PHOTO,
                    "minItems": 1,
                    "maxItems": upload.MAX_BATCH,
                }
            },
        }
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The API key is missing or wrong"},
    408: {"description": "The body did not arrive in time"},
    413: {"description": "The body is too large"},
    415: {"description": "Neither a form nor a photo of a format we take"},
    422: {"description": "A damaged form or photo, too many pixels, or a parameter that makes no sense"},
    429: {"description": "Overloaded; `Retry-After` says when to come back"},
    500: {"description": "A defect of the server; its log has the request's id"},
    503: {"description": "Not ready, or shutting down"},
    504: {"description": "The request waited too long for its turn"},
}
REFUSALS = {status: {"model": ErrorBody, **what} for status, what in _REFUSALS.items()}


def _extra(content: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": parameters.DESCRIBED,
        "requestBody": {"required": True, "content": content},
        "security": SECURITY,
    }


@router.post(PREDICT, response_model=Prediction, responses=REFUSALS, openapi_extra=_extra(_ONE))
async def predict(request: Request) -> Response:
    """The class of one photo (JPEG, PNG or WebP)."""
    started = time.perf_counter()
    engine, settings = engine_of(request), settings_of(request)
    engine.check()
    asked = parameters.parameters_of(request)
    read = upload.photo_reader(request.headers.get("content-type"))
    body = await upload.read_body(request, settings.body_timeout_s)
    with engine.using() as serving:
        guess = await engine.run(serving, partial(work.guess, serving, partial(read, body)))
    engine.answered(guess, serving)
    response = _json(_said(guess) | _when(guess.model.version) | _more(guess, asked))
    metrics_of(request).stage["total"].observe(time.perf_counter() - started)
    return response


@router.post(PREDICT_BATCH, response_model=BatchPrediction, responses=REFUSALS, openapi_extra=_extra(_MANY))
async def predict_batch(request: Request) -> Response:
    """The classes of up to 32 photos, each with its own error where it is none; all of one version."""
    engine, settings = engine_of(request), settings_of(request)
    engine.check()
    asked = parameters.parameters_of(request)
    read = upload.batch_reader(request.headers.get("content-type"))
    body = await upload.read_body(request, settings.body_timeout_s)
    with engine.using() as found:
        serving = Serving(found.primary)
        photos = await engine.run(serving, partial(read, body))
        entries: list[Said] = [{}] * len(photos)
        queue = iter(enumerate(photos))

        async def take_turns() -> None:
            for index, (name, photo) in queue:
                entries[index] = await _entry(request, serving, index, name, photo, asked)

        # As many at a time as there are threads: the rest of the line is for others.
        places = min(len(photos), serving.primary.model.concurrency)
        # A group, so that where one fails none goes on with a model that nobody holds for it any more.
        async with asyncio.TaskGroup() as turns:
            for _ in range(places):
                turns.create_task(take_turns())
    return _json({"predictions": entries} | _when(serving.primary.model.version))


async def _entry(
    request: Request, serving: Serving, index: int, name: str, photo: bytes, asked: Parameters
) -> Said:
    engine = engine_of(request)
    file: Said = {"index": index, "file_name": name}
    try:
        guess = await engine.run(serving, partial(work.guess, serving, lambda: photo), admitted=True)
    except ApiError as error:
        return file | {"error": {"code": error.code, "message": error.message}}
    engine.answered(guess, serving)
    return file | _said(guess) | _more(guess, asked)


def _said(guess: Guess) -> Said:
    return {
        "class_id": guess.class_id,
        "class_name": guess.model.bundle.manifest.class_names[guess.class_id],
        "confidence": guess.confidence,
    }


def _when(version: str) -> Said:
    return {"timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "model_version": version}


def _more(guess: Guess, asked: Parameters) -> Said:
    """What is there only because it was asked for."""
    more: Said = {}
    if asked.top_k:
        more["top"] = _top(guess, asked.top_k)
    if guess.confidence < asked.threshold:
        more["uncertain"] = True
    return more


def _top(guess: Guess, count: int) -> list[Said]:
    import numpy as np

    names = guess.model.bundle.manifest.class_names
    # Stable, so that of two equal classes the first comes first, as in argmax.
    return [
        {"class_id": index, "class_name": names[index], "confidence": float(guess.probabilities[index])}
        for index in np.argsort(-guess.probabilities, kind="stable")[:count].tolist()
    ]


def _json(body: Said) -> Response:
    """The body as `serve.schemas` describes it; written without a check of what was just made."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return _Json(text.encode(), body["model_version"].encode())


class _Json(Response):
    """Starlette's own __init__ works out what is known here."""

    def __init__(self, body: bytes, version: bytes) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
            (b"x-model-version", version),
        ]
