"""What every request passes before the app sees it: an id, a size limit, a count, a last resort."""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.metrics import Metrics
from serve.responses import error_response

log = logging.getLogger("serve.gate")

PREDICT = "/predict"
LINGER_S = 5.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BodyTooLarge(Exception):
    """The body is, or says it is, over the limit."""


class Gate:
    """ASGI middleware. It holds the body limit while the bytes arrive, before anything parses them."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int, draining: Callable[[], bool]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body_bytes, self._draining)
        if scope["path"] == PREDICT:
            exchange.on_status = self._metrics.count_request
            with self._metrics.in_flight():
                await self._run(exchange)
        else:
            await self._run(exchange)
        await exchange.linger()

    async def _run(self, exchange: "_Exchange") -> None:
        scope = exchange.scope
        try:
            exchange.check_declared_length()
            await self._app(scope, exchange.receive, exchange.send)
        except BodyTooLarge:
            await exchange.refuse_body()
        except Exception:
            log.exception("request %s: %s %s failed", exchange.id, scope["method"], scope["path"])
            if exchange.answered:
                raise
            response = error_response(exchange.id, 500, "internal", "the server failed; its log has this id")
            await response(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer, with the channels the app gets instead of the server's own."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int, draining: Callable[[], bool]
    ) -> None:
        self.scope = scope
        self.answered = False
        self.on_status: Callable[[int], None] | None = None
        self._receive = receive
        self._send = send
        self._limit = max_body_bytes
        self._received = 0
        self._lingering = False
        self._draining = draining
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self._declared = headers.get("content-length", "")
        scope.setdefault("state", {})["request_id"] = self.id

    def check_declared_length(self) -> None:
        if self._declared.isdecimal() and int(self._declared) > self._limit:
            raise BodyTooLarge

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise BodyTooLarge
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            if self._draining():
                # A connection kept alive would bring its next request here.
                headers["Connection"] = "close"
            if self.on_status is not None:
                self.on_status(message["status"])
        await self._send(message)

    async def refuse_body(self) -> None:
        """Answer 413 at once, and leave the answer formally open for `linger`."""
        message = f"the body is larger than {self._limit / 1e6:g} MB"
        response = error_response(self.id, 413, "body-too-large", message, {"Connection": "close"})
        await self.send({"type": "http.response.start", "status": 413, "headers": response.raw_headers})
        await self.send({"type": "http.response.body", "body": response.body, "more_body": True})
        self._lingering = True

    async def linger(self) -> None:
        """After a 413, swallow for a while what the client still sends: closing the connection under a
        client that is writing resets it, and the answer is lost."""
        if not self._lingering:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})
