"""uvicorn's HTTP protocol with bounds on what comes before a body: it has none of its own."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.responses import request_id
from serve.schemas import ErrorBody, ErrorDetail

MAX_HEAD_BYTES = 65_536
HEAD_S = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """A request line and headers of at most MAX_HEAD_BYTES (and what one read brings on top), complete
    HEAD_S after their first byte or after the connection was made; and no more of headers behind a body.

    The parser gathers a URL or a header by copying all it has for each piece that comes: one client that
    never ends its URL would fill the memory and hold up everyone.
    """

    _head_bytes = 0  # that came one after the other and are no body
    _in_head = False
    _progress = False  # in this read: a part of a request ended, began or went on
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._progress = False
        super().data_received(data)
        if not self._progress:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                if self._in_head:  # else its request is being answered, or was
                    self.transport.write(_too_large())
                self.transport.close()
        # Also while it sends what nobody waits for: the rest of a body that was refused, empty lines.
        if self._late is None and (self._in_head or self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._goes_on()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._goes_on()
        self._head_is_here()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._goes_on()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._goes_on()
        super().on_message_complete()

    def _goes_on(self) -> None:
        self._progress = True
        self._head_bytes = 0

    def _await_head(self) -> None:
        if not self.transport.is_closing():
            self._late = self.loop.call_later(HEAD_S, self._give_up)

    def _head_is_here(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Any client can ask for one as often as it likes, and the log is not for that."""


def _too_large() -> bytes:
    """The answer, in the shape of all others, to what is no request yet."""
    message = f"the request line and headers are larger than {MAX_HEAD_BYTES:,} bytes"
    detail = ErrorDetail(code="headers-too-large", message=message)
    body = ErrorBody(error=detail, request_id=request_id()).model_dump_json().encode()
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
