"""The layer around the app: request id, root path, HEAD, API key, size limits, counting, a catch-all 500."""

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from fastapi import Request, Response
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.engine.engine import ServingEngine
from serve.errors import ApiError
from serve.http.responses import error_response, request_id
from serve.metrics import REASONS

log = logging.getLogger("serve.http.middleware")

PREDICT, PREDICT_BATCH = "/predict", "/predict/batch"
# Answered like a batch: the Open Inference Protocol's, and the one before it.
_INFER = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer|/v1/models/[^/]+:predict")
_KEYED = ("/predict", "/model", "/v1/models", "/v2/models/")
LINGER_S = 5.0
MAX_DISCARDED_BYTES = 1_000_000
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REASON_OF = {"overloaded": "queue-full", "deadline-passed": "deadline"}


class RequestMiddleware:
    """The outermost ASGI layer. It checks the key before the body is read, and the size while it arrives."""

    def __init__(
        self, app: ASGIApp, engine: ServingEngine, predict: Callable[[Request], Awaitable[Response]]
    ) -> None:
        self.engine = engine
        # Of the bodies of all requests; rejected ones count until they have an answer.
        self.buffered_bytes = 0
        self._app = app
        self._predict = predict
        self._metrics = engine.metrics
        self._succeeded = engine.metrics.requests.labels("200")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _as_routed(scope, self.engine.settings.root_path)
        exchange = _Exchange(self, scope, receive, send)
        if exchange.predicts:
            self._metrics.inflight.inc()
        try:
            await self._run(exchange)
        finally:
            self.buffered_bytes -= exchange.received
            if exchange.predicts:
                self._metrics.inflight.dec()
                self._count(exchange)
        await exchange.linger()

    def _count(self, exchange: "_Exchange") -> None:
        if exchange.status == 200:
            self._succeeded.inc()
            return
        self._metrics.requests.labels(str(exchange.status)).inc()
        code = exchange.scope["state"].get("error_code", "")
        if (reason := _REASON_OF.get(code, code)) in REASONS:
            self._metrics.rejected.labels(reason).inc()

    async def _run(self, exchange: "_Exchange") -> None:
        scope = exchange.scope
        try:
            self._check_key(exchange)
            exchange.check_declared_length()
            if exchange.path == PREDICT and scope["method"] == "POST":
                # Past the app's own layers, which cost half of what everything around a small network costs.
                # The route of the app is only the documentation.
                response = await self._predict(Request(scope, exchange.receive))
            else:
                await self._app(scope, exchange.receive, exchange.send)
                return
        except ApiError as error:
            response = error_response(scope, error)
        except Exception:
            log.exception("request %s: %s %r failed", exchange.id, scope["method"], scope["path"])
            if exchange.status:
                raise
            response = error_response(
                scope, ApiError(500, "internal", "the server failed; its log has this id")
            )
        await response(scope, exchange.receive, exchange.send)

    def _check_key(self, exchange: "_Exchange") -> None:
        key = self.engine.settings.api_key
        if key is None or not exchange.path.startswith(_KEYED):
            return
        scheme, _, bearer = exchange.headers.get("authorization", "").partition(" ")
        key_sent = bearer.strip() if scheme.lower() == "bearer" else exchange.headers.get("x-api-key", "")
        # In constant time: the time must not tell how much of a guess is right.
        if not hmac.compare_digest(key_sent.encode("latin-1", "replace"), key.encode()):
            message = "send the API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


def _as_routed(scope: Scope, prefix: str) -> Scope:
    """The scope as the routes expect it: with the root path before the path, and GET for HEAD."""
    if prefix:
        # ASGI has it in both, whether or not the proxy in front took it away.
        path = scope["path"]
        below = path if path.startswith(f"{prefix}/") else prefix + ("/" if path == prefix else path)
        scope = {**scope, "root_path": prefix, "path": below}
    # What answers GET answers HEAD; the protocol leaves the body out, as its own scope still says HEAD.
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


class _Exchange:
    """One request and its answer: `receive` and `send` wrap those of the server."""

    def __init__(self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.headers = Headers(scope=scope)
        # As the routes match it: without uvicorn's `--root-path`, and without the final newline they allow.
        self.path = get_route_path(scope).removesuffix("\n")
        takes_batch = self.path == PREDICT_BATCH or _INFER.fullmatch(self.path) is not None
        self.predicts = takes_batch or self.path == PREDICT
        self.received = 0
        self.status = 0
        self._receive = receive
        self._send = send
        self._middleware = middleware
        self._engine = middleware.engine
        settings = self._engine.settings
        self._limit = settings.max_batch_bytes if takes_batch else settings.max_body_bytes
        self._lingering = False
        self._declared = self.headers.get("content-length", "")
        # Whether more of the body may arrive.
        self._body_open = self._declared not in ("", "0") or "transfer-encoding" in self.headers
        client_id = self.headers.get("x-request-id", "")
        self.id = client_id if _REQUEST_ID.fullmatch(client_id) else request_id()
        scope.setdefault("state", {})["request_id"] = self.id

    def check_declared_length(self) -> None:
        if self._declared.isdecimal() and int(self._declared) > self._limit:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        message = f"the body is larger than {self._limit / 1e6:g} MB"
        return ApiError(413, "body-too-large", message, headers={"Connection": "close"})

    async def receive(self) -> Message:
        event = await self._receive()
        self._body_open = event.get("more_body", False)
        if arrived := len(event.get("body", b"")):
            self.received += arrived
            self._middleware.buffered_bytes += arrived
            if self._middleware.buffered_bytes > self._engine.settings.max_buffered_bytes:
                message = "the server is receiving more than it can keep"
                headers = {"Retry-After": "1", "Connection": "close"}
                raise ApiError(429, "overloaded", message, headers=headers)
            if self.received > self._limit:
                raise self._too_large()
        return event

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._complete_headers(message.get("headers", ()))
        elif self._lingering and not message.get("more_body", False):
            message = {**message, "more_body": True}
        await self._send(message)

    def _complete_headers(self, own: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = [*own, (b"x-request-id", self.id.encode())]
        names = {name for name, _ in headers}
        if (model := self._engine.model) and b"x-model-version" not in names:
            headers.append((b"x-model-version", model.version.encode()))
        closes = b"connection" in names
        # The rest of a small body is discarded and the connection kept; for a large one it is closed.
        small = self._declared.isdecimal() and int(self._declared) <= MAX_DISCARDED_BYTES
        too_large = self._body_open and not small
        leaving = self._engine.leaving
        if not closes and (too_large or leaving):
            headers.append((b"connection", b"close"))  # where it leaves: the next request goes elsewhere
        self._lingering = self._body_open and (closes or too_large or leaving)
        return headers

    async def linger(self) -> None:
        """Discard the rest of the body, for at most LINGER_S, then end the answer, which `send` left open."""
        # Closing while the client writes resets the connection, and the answer is lost.
        if not self._lingering:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
