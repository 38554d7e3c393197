"""From a request to the bytes of one photo: read whole and within limits, then taken apart in memory."""

import asyncio

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from serve.responses import ApiError

FIELD = "file"
MAX_PARTS = 8


def boundary_of(content_type: str | None) -> bytes:
    """The boundary named by a Content-Type header. Raises ApiError where it is not multipart/form-data."""
    if content_type is None:
        raise ApiError(422, "missing-file", f"send the photo as multipart/form-data, in the field `{FIELD}`")
    media_type, options = parse_options_header(content_type)
    if media_type.lower() != b"multipart/form-data":
        raise ApiError(
            415, "unsupported-media-type", f"send multipart/form-data with the photo in the field `{FIELD}`"
        )
    if not options.get(b"boundary"):
        raise ApiError(422, "bad-multipart", "the Content-Type header names no boundary")
    return options[b"boundary"]


async def read_body(request: Request, timeout_s: float) -> bytes:
    """The whole body; the size limit is held by the gate underneath. Raises ApiError after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            return b"".join([chunk async for chunk in request.stream()])
    except TimeoutError:
        raise ApiError(
            408,
            "body-timeout",
            f"the body did not arrive within {timeout_s:g} s",
            headers={"Connection": "close"},
        ) from None


def photo_of(body: bytes, boundary: bytes) -> bytes:
    """The one file of a multipart body, in the field `file`. Raises ApiError.

    Text fields beside it are ignored. Nothing is spooled to disk: the body is in memory already.
    """
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_begin,
                "on_header_begin": form.header_begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.part_data,
                "on_end": form.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise ApiError(422, "bad-multipart", "the multipart body is malformed") from None
    return form.photo()


class _Form:
    """Collects the parts of a form. It raises ApiError from inside the parser, which ends the parsing."""

    def __init__(self) -> None:
        self._parts = 0
        self._files: list[tuple[str, bytearray]] = []
        self._texts: list[str] = []
        self._in_file = False
        self._ended = False
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""

    def part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ApiError(422, "too-many-parts", f"the form has more than {MAX_PARTS} parts")
        self._disposition = b""

    def header_begin(self) -> None:
        self._name.clear()
        self._value.clear()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = b"filename" in options
        if not self._in_file:
            self._texts.append(name)
            return
        self._files.append((name, bytearray()))
        if len(self._files) > 1:
            raise ApiError(422, "too-many-files", "send exactly one file")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._files[-1][1].extend(memoryview(data)[start:end])

    def end(self) -> None:
        self._ended = True

    def photo(self) -> bytes:
        if not self._ended:
            raise ApiError(422, "bad-multipart", "the multipart body ends before its closing boundary")
        for name, content in self._files:
            if name == FIELD:
                return bytes(content)
        if FIELD in self._texts:
            raise ApiError(422, "not-a-file", f"the field `{FIELD}` is text: send it as a file")
        raise ApiError(422, "missing-file", f"the form has no file in the field `{FIELD}`")
