"""Error answers, all in one shape: `{"error": {code, message}, "request_id"}`.

Below /v2 `error` is the message alone, as the Open Inference Protocol defines it.
"""

import random
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serve.errors import ApiError
from serve.http.schemas import ErrorBody, ErrorDetail, ProtocolError

CLIENT_CLOSED = 499  # nginx's status: the client is gone, and only the counter sees it
_CODES = {404: "not-found", 405: "method-not-allowed"}


def request_id() -> str:
    """A random id: unique enough for a log, not secret."""
    return f"{random.getrandbits(64):016x}"


def error_response(scope: Scope, error: ApiError) -> Response:
    """The answer for `error`. scope: with the request id that the middleware has put there."""
    state = scope["state"]
    state["error_code"] = error.code
    given = state["request_id"]
    body: ErrorBody | ProtocolError
    if get_route_path(scope).startswith("/v2"):
        body = ProtocolError(error=error.message, code=error.code, request_id=given)
    else:
        body = ErrorBody(error=ErrorDetail(code=error.code, message=error.message), request_id=given)
    headers = dict(error.headers) if error.headers else None
    return Response(body.model_dump_json(), error.status, headers, "application/json")


Handler = Callable[[Request], Awaitable[Response]]


async def answer(handler: Handler, scope: Scope, receive: Receive, send: Send) -> None:
    """Call `handler` and send its response, or that of its error, as the app would."""
    request = Request(scope, receive)
    try:
        response = await handler(request)
    except ApiError as error:
        response = error_response(scope, error)
    except ClientDisconnect as error:
        response = await _client_closed(request, error)
    await response(scope, receive, send)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request.scope, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is nothing at this path",
        405: f"{request.method} is not allowed at this path",
    }
    code = _CODES.get(error.status_code, "http-error")
    message = messages.get(error.status_code, str(error.detail))
    return error_response(request.scope, ApiError(error.status_code, code, message, headers=error.headers))


async def _client_closed(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientDisconnect)
    return error_response(
        request.scope, ApiError(CLIENT_CLOSED, "client-closed", "the client closed the connection")
    )


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_closed)
