"""uvicorn's HTTP protocol with limits on request lines and headers: it has none of its own."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.http.responses import request_id
from serve.http.schemas import ErrorBody, ErrorDetail

MAX_HEAD_BYTES = 65_536
HEAD_S = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose request line and headers exceed MAX_HEAD_BYTES (plus the size of one read) or
    are not complete HEAD_S after their first byte or after the connection was made. Trailers likewise."""

    # The parser collects a URL or a header by copying all of it for each piece that arrives: one client with
    # an endless URL would fill the memory and hold up all others.

    _head_bytes = 0  # received in a row that belong to no body
    _in_head = False
    _idle = False  # a request has ended and no other has begun
    _progress = False  # in this read: a part of a request began, went on or ended
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._progress = False
        super().data_received(data)
        if not self._progress:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                if self._in_head:  # else its request has an answer
                    self.transport.write(_too_large())
                self.transport.close()
        # Also while the rest of a refused body arrives, or empty lines.
        if self._timer is None and (self._in_head or self.cycle is None or self.cycle.response_complete):
            # The late rest of a body, or empty lines, ended uvicorn's own wait for the next request.
            self._start_timer(self.timeout_keep_alive if self._idle else HEAD_S)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._idle:
            self._stop_timer()
        self._in_head, self._idle = True, False
        self._note_progress()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._note_progress()
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._note_progress()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._note_progress()
        super().on_message_complete()
        self._idle = True
        if self.cycle.response_complete:
            self._stop_timer()

    def _note_progress(self) -> None:
        self._progress = True
        self._head_bytes = 0

    def _start_timer(self, seconds: float) -> None:
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: any client can ask for an upgrade as often as it likes."""


def _too_large() -> bytes:
    """The bytes of a 431 answer in the shape of all errors: the app has no request to answer yet."""
    message = f"the request line and headers are larger than {MAX_HEAD_BYTES:,} bytes"
    detail = ErrorDetail(code="headers-too-large", message=message)
    body = ErrorBody(error=detail, request_id=request_id()).model_dump_json().encode()
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
