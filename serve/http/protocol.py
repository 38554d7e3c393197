"""The Open Inference Protocol (v2, REST), JSON and binary: tensors in, logits out.

https://github.com/kserve/open-inference-protocol; the binary extension is Triton's.
"""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from serve.engine.model import Model
from serve.errors import ApiError
from serve.http import upload
from serve.http.predict import ERRORS, SECURITY, DirectRoute, engine_of
from serve.http.schemas import (
    InferResponse,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    ServerMetadata,
    TensorMetadata,
)
from serve.http.tensors import DTYPES, HEADER_LENGTH, INPUT, input_spec, run_request
from workbench import __version__

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
direct = APIRouter(prefix="/v2", route_class=DirectRoute, tags=["Open Inference Protocol"])
MODEL_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProtocolError} for status in (401, 404, 503)
}


def _at_path(*names: str, **more: Any) -> dict[str, Any]:
    """OpenAPI that FastAPI cannot derive: the parts of the path, read in the handlers, and the key."""
    parts = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return {"parameters": parts, "security": SECURITY, **more}


NAMED, _VERSIONED = _at_path("name"), _at_path("name", "version")


@router.get("")
async def server_metadata() -> ServerMetadata:
    """What this server is and which extensions it knows."""
    return ServerMetadata(name="krishi-bench", version=__version__, extensions=("binary_tensor_data",))


@router.get("/health/live", responses={503: {"model": ProtocolError}})
async def live(request: Request) -> dict[str, bool]:
    """The process is up."""
    engine_of(request).check_alive()
    return {"live": True}


@router.get("/health/ready", responses={503: {"model": ProtocolError}})
async def ready(request: Request) -> dict[str, bool]:
    """A model is loaded and the server is not shutting down."""
    engine_of(request).ready_model()
    return {"ready": True}


@router.get("/models/{name}", responses=MODEL_ERRORS, openapi_extra=NAMED)
@router.get("/models/{name}/versions/{version}", responses=MODEL_ERRORS, openapi_extra=_VERSIONED)
async def model_metadata(request: Request) -> ModelMetadata:
    """The model served and its tensors."""
    model = check_path(engine_of(request).loaded_model(), request)
    datatype, row_shape = input_spec(model)
    manifest = model.bundle.manifest
    output = TensorMetadata(name=manifest.outputs, datatype="FP32", shape=(-1, len(manifest.class_names)))
    return ModelMetadata(
        name=manifest.name,
        versions=(manifest.version,),
        platform=f"{manifest.runtime.backend}_{manifest.artifact.format}",
        inputs=(TensorMetadata(name=INPUT, datatype=datatype, shape=(-1, *row_shape)),),
        outputs=(output,),
    )


@router.get("/models/{name}/ready", responses=MODEL_ERRORS, openapi_extra=NAMED)
@router.get("/models/{name}/versions/{version}/ready", responses=MODEL_ERRORS, openapi_extra=_VERSIONED)
async def model_ready(request: Request) -> ModelReady:
    """This model is loaded."""
    return ModelReady(name=check_path(engine_of(request).loaded_model(), request).bundle.manifest.name)


_TENSOR = {
    "name": {"const": INPUT},
    "shape": {"type": "array", "items": {"type": "integer"}},
    "datatype": {"enum": sorted(DTYPES)},
    "parameters": {"type": "object"},
    "data": {"type": "array"},
}
_TENSORS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 1,
    "items": {"type": "object", "required": ["name", "shape", "datatype"], "properties": _TENSOR},
}
_BODY = {
    "type": "object",
    "required": ["inputs"],
    "properties": {"id": {"type": "string"}, "inputs": _TENSORS},
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_CONTENT = {"application/json": {"schema": _BODY}, "application/octet-stream": _BYTES}
_INFER: dict[str, Any] = {"requestBody": {"required": True, "content": _CONTENT}}
_JSON_BYTES = {"description": "Bytes of JSON before the tensors", "schema": {"type": "integer"}}
_INFER_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: {**described, "model": ProtocolError} for status, described in ERRORS.items()},
    **MODEL_ERRORS,
    200: {
        "description": "The outputs, in the JSON or, if requested, as bytes after it",
        "content": {"application/octet-stream": _BYTES},
        "headers": {"Inference-Header-Content-Length": _JSON_BYTES},
    },
}
_post_infer = partial(direct.post, responses=_INFER_RESPONSES, response_model=InferResponse)


@_post_infer("/models/{name}/infer", openapi_extra=_at_path("name", **_INFER))
@_post_infer("/models/{name}/versions/{version}/infer", openapi_extra=_at_path("name", "version", **_INFER))
async def infer(request: Request) -> Response:
    """Logits of up to 32 preprocessed photos: `GET /model` says how they were preprocessed for training."""
    engine = engine_of(request)
    engine.check_admission()
    body = await upload.read_body(request, engine.settings.body_timeout_s)
    with engine.routing() as routing:
        model = check_path(routing.primary.model, request)
        header = request.headers.get(HEADER_LENGTH)
        body, json_bytes = await engine.run(routing, partial(run_request, routing.primary, body, header))
    headers = {"X-Model-Version": model.version}
    if json_bytes is None:
        return Response(body, media_type="application/json", headers=headers)
    headers["Inference-Header-Content-Length"] = str(json_bytes)
    return Response(body, media_type="application/octet-stream", headers=headers)


def check_path(model: Model, request: Request) -> Model:
    """The model. Raises ApiError (404) where the path names another."""
    manifest = model.bundle.manifest
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != manifest.name or version not in (None, manifest.version):
        raise ApiError(404, "not-found", f"this server serves {manifest.name} {manifest.version}")
    return model
