"""KServe's v1 protocol, which TensorFlow Serving began: photos as base64 in JSON, classes out.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

import binascii
import json
import re
import time
from functools import partial

from fastapi import APIRouter, Request, Response

from serve.engine.predict_job import Routing
from serve.errors import ApiError
from serve.http import upload
from serve.http.predict import (
    ERRORS,
    QUERY,
    SECURITY,
    DirectRoute,
    Parameters,
    class_fields,
    classify_all,
    engine_of,
)
from serve.http.protocol import MODEL_ERRORS, NAMED, check_path
from serve.http.schemas import InstancePrediction, InstancePredictions, ModelNames, ModelReady, ProtocolError

router = APIRouter(prefix="/v1/models", tags=["KServe v1"])
direct = APIRouter(prefix="/v1/models", route_class=DirectRoute, tags=["KServe v1"])

MAX_TOKENS = 1000  # quotes, commas, brackets: 32 instances have some hundred, numbers have thousands
_B64 = '{"b64": "BASE64 OF A JPEG, PNG OR WEBP"}'
_REMEDY = f'send {{"instances": [{_B64}]}}, at most {upload.MAX_BATCH} of them'
MAX_JSON_BYTES = 20_000_000  # no other thread runs while it is parsed: 0.1 s
# base64 as URLs spell it, to the usual; lines as Android and MIME break them, and padding, are left out.
_STANDARD = bytes.maketrans(b"-_", b"+/")
_DATA_URL = re.compile(r"data:[^,]{0,100},")


@router.get("", responses={401: {"model": ProtocolError}, 503: {"model": ProtocolError}},
            openapi_extra={"security": SECURITY})  # fmt: skip
async def models(request: Request) -> ModelNames:
    """The name of the model served."""
    return ModelNames(models=(engine_of(request).loaded_model().bundle.manifest.name,))


@router.get("/{name}", responses=MODEL_ERRORS, openapi_extra=NAMED)
async def model_ready(request: Request) -> ModelReady:
    """This model is loaded, and the server is not shutting down."""
    return ModelReady(name=check_path(engine_of(request).ready_model(), request).bundle.manifest.name)


_BYTES = {"type": "object", "required": ["b64"], "properties": {"b64": {"type": "string", "format": "byte"}}}
_INSTANCES = {"type": "array", "minItems": 1, "maxItems": upload.MAX_BATCH, "items": _BYTES}
_BODY = {"type": "object", "required": ["instances"], "properties": {"instances": _INSTANCES}}
_PREDICT = NAMED | {
    "parameters": [*NAMED["parameters"], *QUERY],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}},
}
_PREDICT_ERRORS = {status: {**described, "model": ProtocolError} for status, described in ERRORS.items()}


@direct.post(
    "/{name}:predict",
    response_model=InstancePredictions,
    responses=_PREDICT_ERRORS | MODEL_ERRORS,
    openapi_extra=_PREDICT,
)
async def predict_instances(request: Request) -> Response:
    """The classes of up to 32 photos, in their order. One that is no photo fails them all."""
    started = time.perf_counter()
    engine = engine_of(request)
    engine.check_admission()
    parameters = Parameters(request)
    body = await upload.read_body(request, engine.settings.body_timeout_s)
    with engine.routing() as routing:
        check_path(routing.primary.model, request)
        photos = await engine.run(routing, partial(_photos_of, body, parameters))
        if len(photos) > 1:
            routing = Routing(routing.primary)  # one answer is of one version
        results = await classify_all(engine, routing, photos)
    predictions = []
    for index, result in enumerate(results):
        if isinstance(result, ApiError):
            raise ApiError(
                result.status, result.code, f"instances[{index}]: {result.message}", result.headers
            )
        predictions.append(InstancePrediction(**class_fields(result, parameters)))
        version = result.model.version
    answer = InstancePredictions(predictions=tuple(predictions)).model_dump_json(exclude_none=True)
    engine.metrics.stage["total"].observe(time.perf_counter() - started)
    return Response(answer, media_type="application/json", headers={"X-Model-Version": version})


def _photos_of(body: bytes, parameters: Parameters) -> list[bytes]:
    """The photos of a request's body. Raises ApiError. Called in a thread.

    parameters: takes over those that the body has in `parameters`, as Vertex AI's clients send them.
    """
    if len(body) > MAX_JSON_BYTES:
        message = f"the JSON is larger than {MAX_JSON_BYTES / 1e6:g} MB: send forms to /predict/batch"
        raise ApiError(413, "body-too-large", message)
    # Counted before parsing, which stops every other thread: a million small values take a second.
    if max(map(body.count, (b'"', b",", b"[", b"{"))) > MAX_TOKENS:
        raise _bad(
            f"the body has more values than photos need: {_REMEDY}; numbers go to /v2/models/NAME/infer"
        )
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        kind = "a bare photo" if upload.is_photo(body) else "not JSON"
        raise _bad(f"the body is {kind}: {_REMEDY}") from None
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list) or not 1 <= len(instances) <= upload.MAX_BATCH:
        raise _bad(f"the body has {_contents(request)}: {_REMEDY}")
    given = request.get("parameters")
    if isinstance(given, dict):
        parameters.add([(name, json.dumps(value)) for name, value in given.items()])
    return [_decode(instance, index) for index, instance in enumerate(instances)]


def _contents(request: object) -> str:
    if not isinstance(request, dict) or not request:
        return "no object with `instances`"
    if isinstance(instances := request.get("instances"), list):
        return f"{len(instances)} instances"
    return "the keys " + ", ".join(f"`{key}`" for key in request)[: upload.MAX_SHOWN]


def _decode(instance: object, index: int) -> bytes:
    """The bytes of `{"b64": …}`, of the one such value of an object, or of a text alone."""
    texts = [instance]
    if isinstance(instance, dict):
        values = [instance] if "b64" in instance else list(instance.values())
        texts = [value["b64"] for value in values if isinstance(value, dict) and "b64" in value]
        texts = texts or [value for value in values if isinstance(value, str)]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise _bad(f"instances[{index}] does not hold one base64 text: write {_B64}")
    url = _DATA_URL.match(texts[0])
    try:
        letters = texts[0][url.end() if url else 0 :].encode("ascii").translate(_STANDARD, b" \r\n\t=")
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4), strict_mode=True)
    except ValueError:
        raise _bad(f"instances[{index}] is not base64: write {_B64}") from None


def _bad(message: str) -> ApiError:
    return ApiError(422, "bad-instances", message)
