"""What every request passes before the app sees it: an id, a key, size limits, a count, a last resort."""

import asyncio
import hmac
import logging
import re
from collections.abc import Iterable
from contextlib import suppress

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.engine import Engine
from serve.metrics import REASONS, Metrics
from serve.responses import ApiError, Handler, answer, error_response, request_id
from serve.settings import Settings

log = logging.getLogger("serve.gate")

PREDICT, PREDICT_BATCH = "/predict", "/predict/batch"
_INFER = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer")
_KEYED = ("/predict", "/model", "/v2/models/")
LINGER_S = 5.0
SWALLOWED = 1_000_000  # bytes
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REASON_OF = {"overloaded": "queue-full", "deadline-passed": "deadline"}


class Refused(Exception):
    """The body will not be read to its end. Not an ApiError, which the app would answer itself."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class Gate:
    """The outermost ASGI layer. It asks for the key before anything is read, and holds the body limit while
    the bytes arrive, before anything parses them."""

    def __init__(
        self, app: ASGIApp, *, predict: Handler, settings: Settings, metrics: Metrics, engine: Engine
    ) -> None:
        self._app = app
        self._predict = predict
        self._settings = settings
        self._metrics = metrics
        self._engine = engine
        self._answered = metrics.requests.labels("200")
        self._buffered = _Buffered(settings.max_buffered_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        predicts, limit = self._kind(_path_of(scope))
        exchange = _Exchange(scope, receive, send, limit, self._buffered, self._engine)
        if predicts:
            self._metrics.inflight.inc()
        try:
            await self._run(exchange)
        finally:
            self._buffered.give_back(exchange.received)
            if predicts:
                self._metrics.inflight.dec()
                self._count(exchange)
        await exchange.linger()

    def _kind(self, path: str) -> tuple[bool, int]:
        """Whether a request asks for predictions, and how large its body may be."""
        if path == PREDICT:
            return True, self._settings.max_body_bytes
        if path == PREDICT_BATCH or _INFER.fullmatch(path):
            return True, self._settings.max_batch_bytes
        return False, self._settings.max_body_bytes

    def _count(self, exchange: "_Exchange") -> None:
        if exchange.status == 200:
            self._answered.inc()
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
            if _path_of(scope) == PREDICT and scope["method"] == "POST":
                # Past the app's own layers, which cost half of what everything around a small network does;
                # its route stays the one that is documented.
                await answer(self._predict, scope, exchange.receive, exchange.send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Refused as refused:
            await error_response(scope, refused.error)(scope, exchange.receive, exchange.send)
        except Exception:
            log.exception("request %s: %s %r failed", exchange.id, scope["method"], scope["path"])
            if exchange.status:
                raise
            error = ApiError(500, "internal", "the server failed; its log has this id")
            await error_response(scope, error)(scope, exchange.receive, exchange.send)

    def _check_key(self, exchange: "_Exchange") -> None:
        key = self._settings.api_key
        if key is None or not _path_of(exchange.scope).startswith(_KEYED):
            return
        scheme, _, bearer = exchange.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else exchange.headers.get("x-api-key", "")
        # In constant time: how far a guess is right must not show.
        if not hmac.compare_digest(given.encode("latin-1", "replace"), key.encode()):
            raise Refused(
                ApiError(
                    401,
                    "unauthorized",
                    "send the API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            )


def _path_of(scope: Scope) -> str:
    """As the routes see it, or what they answer would pass here by another name: without a `--root-path`
    of uvicorn's, and without the newline that may stand behind the end of their patterns."""
    return get_route_path(scope).removesuffix("\n")


class _Buffered:
    """Bytes of bodies in memory, of all requests together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0

    def take(self, count: int) -> None:
        """Raises Refused where that is too much; the bytes count until they are given back."""
        self._bytes += count
        if self._bytes > self._limit:
            raise Refused(
                ApiError(
                    429,
                    "overloaded",
                    "the server is receiving more than it can keep",
                    headers={"Retry-After": "1", "Connection": "close"},
                )
            )

    def give_back(self, count: int) -> None:
        self._bytes -= count


class _Exchange:
    """One request and its answer, with the channels the app gets instead of the server's own."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limit: int, buffered: _Buffered, engine: Engine
    ) -> None:
        self.scope = scope
        self.headers = Headers(scope=scope)
        self.received = 0
        self.status = 0
        self._receive = receive
        self._send = send
        self._limit = limit
        self._buffered = buffered
        self._engine = engine
        self._lingering = False
        self._declared = self.headers.get("content-length", "")
        # Whether more of the body may come.
        self._open = self._declared not in ("", "0") or "transfer-encoding" in self.headers
        given = self.headers.get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else request_id()
        scope.setdefault("state", {})["request_id"] = self.id

    def check_declared_length(self) -> None:
        if self._declared.isdecimal() and int(self._declared) > self._limit:
            raise self._too_large()

    def _too_large(self) -> Refused:
        message = f"the body is larger than {self._limit / 1e6:g} MB"
        return Refused(ApiError(413, "body-too-large", message, headers={"Connection": "close"}))

    async def receive(self) -> Message:
        message = await self._receive()
        self._open = message.get("more_body", False)
        arrived = len(message.get("body", b""))
        if arrived:
            self.received += arrived
            self._buffered.take(arrived)
            if self.received > self._limit:
                raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._headed(message.get("headers", ()))
        elif self._lingering and not message.get("more_body", False):
            message = {**message, "more_body": True}
        await self._send(message)

    def _headed(self, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = [*given, (b"x-request-id", self.id.encode())]
        names = {name for name, _ in headers}
        if (model := self._engine.model) and b"x-model-version" not in names:
            headers.append((b"x-model-version", model.version.encode()))
        closes = b"connection" in names
        # What is left of a small body is swallowed, and the connection stays good; not so a large one.
        endless = self._open and not (self._declared.isdecimal() and int(self._declared) <= SWALLOWED)
        if not closes and (endless or self._engine.draining):
            headers.append((b"connection", b"close"))  # kept alive, it would bring its next request here
        self._lingering = self._open and (closes or endless)
        return headers

    async def linger(self) -> None:
        """Answered before the body came to its end, and the connection to be closed: the answer is left
        formally open, and for a while what the client still sends is swallowed. Closing under a client that
        is writing resets the connection, and the answer is lost."""
        if not self._lingering:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
