"""Every answer that is not the one asked for, in one shape: `{"error": {code, message}, "request_id"}`."""

from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve.schemas import ErrorBody, ErrorDetail

CLIENT_CLOSED = 499  # nginx's number: nobody reads this answer, the counter does
_CODES = {404: "not-found", 405: "method-not-allowed"}


class ApiError(Exception):
    """A request that gets no prediction, and why."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


def error_response(
    request_id: str, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body = ErrorBody(error=ErrorDetail(code=code, message=message), request_id=request_id)
    return JSONResponse(body.model_dump(), status, headers)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request.state.request_id, error.status, error.code, error.message, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is nothing at this path",
        405: f"{request.method} is not allowed at this path",
    }
    return error_response(
        request.state.request_id,
        error.status_code,
        _CODES.get(error.status_code, "http-error"),
        messages.get(error.status_code, str(error.detail)),
        error.headers,
    )


async def _client_closed(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientDisconnect)
    return error_response(
        request.state.request_id, CLIENT_CLOSED, "client-closed", "the client closed the connection"
    )


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_closed)
