"""Error answers, all in one shape: `{"error": {code, message}, "request_id"}`.

Below /v1 and /v2 `error` is the message alone, as KServe's protocols define it.
"""

import random

from fastapi import Request, Response
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.types import Scope

from serve.errors import ApiError
from serve.http.schemas import ErrorBody, ErrorDetail, ProtocolError


def request_id() -> str:
    """A random id: unique enough for a log, not secret."""
    return f"{random.getrandbits(64):016x}"


def error_response(scope: Scope, error: ApiError) -> Response:
    """The answer for `error`. scope: with the request id that the middleware has put there."""
    state = scope["state"]
    state["error_code"] = error.code
    body: ErrorBody | ProtocolError
    if get_route_path(scope).startswith(("/v1", "/v2")):
        body = ProtocolError(error=error.message, code=error.code, request_id=state["request_id"])
    else:
        detail = ErrorDetail(code=error.code, message=error.message)
        body = ErrorBody(error=detail, request_id=state["request_id"])
    return Response(body.model_dump_json(), error.status, error.headers, "application/json")


async def http_error(request: Request, error: Exception) -> Response:
    """The answer where no route takes the request."""
    assert isinstance(error, HTTPException)
    code, message = {
        404: ("not-found", "there is nothing at this path"),
        405: ("method-not-allowed", f"{request.method} is not allowed at this path"),
    }.get(error.status_code, ("http-error", str(error.detail)))
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # see `_as_routed`
    return error_response(request.scope, ApiError(error.status_code, code, message, headers=headers))
