"""From a request to the bytes of its photos: the body is read within limits, then parsed in memory."""

import asyncio
import re
from collections.abc import Callable
from functools import partial

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartState, parse_options_header

from serve.errors import ApiError

CLIENT_CLOSED = 499  # nginx's status: only the counter sees it
FIELD, BATCH_FIELD = "file", "files"
MAX_TEXTS = 7  # fields beside the photos; they are ignored
MAX_BATCH = 32
MAX_HEADERS = 1024  # bytes of a part's headers, on the fast path
MAX_BOUNDARY = 70  # RFC 2046
# The headers that clients usually write above a photo. Any others go to the parser.
_OTHER = rb"content-(?:type|length|transfer-encoding):[ -~]*"
_USUAL = re.compile(rb"(?i)(?:%b\r\n)*content-disposition: *([^\0\r\n]*)(?:\r\n%b)*" % (_OTHER, _OTHER))
# Likewise for the header that names the boundary.
_USUAL_TYPE = re.compile(r"multipart/form-data; ?boundary=([0-9A-Za-z_-]{1,70})")
RAW_TYPES = ("image/jpeg", "image/png", "image/webp")


def photo_reader(content_type: str | None) -> Callable[[bytes], bytes]:
    """A function from a body of this type to its photo. Raises ApiError for other types."""
    if content_type is None:
        raise ApiError(422, "missing-file", f"send the photo as multipart/form-data, in the field `{FIELD}`")
    if (usual := _USUAL_TYPE.fullmatch(content_type)) is not None:
        return partial(photo_of, boundary=usual[1].encode())
    media_type, options = parse_options_header(content_type)
    # The header only distinguishes a bare photo from a form; the format is read from the first bytes.
    if media_type.decode("latin-1").lower() in RAW_TYPES:
        return bytes
    remedy = f"send multipart/form-data with the photo in the field `{FIELD}`, or the photo as {RAW_TYPES[0]}"
    return partial(photo_of, boundary=_boundary(media_type, options, remedy))


def batch_reader(content_type: str | None) -> Callable[[bytes], list[tuple[str, bytes]]]:
    """A function from a body of this type to its photos, each with its file name. Raises ApiError."""
    remedy = f"send multipart/form-data with up to {MAX_BATCH} photos in the field `{BATCH_FIELD}`"
    if content_type is None:
        raise ApiError(422, "missing-file", remedy)
    return partial(photos_of, boundary=_boundary(*parse_options_header(content_type), remedy))


def _boundary(media_type: bytes, options: dict[bytes, bytes], remedy: str) -> bytes:
    if media_type.lower() != b"multipart/form-data":
        raise ApiError(415, "unsupported-media-type", remedy)
    if not options.get(b"boundary"):
        raise ApiError(422, "bad-multipart", "the Content-Type header names no boundary")
    return options[b"boundary"]


async def read_body(request: Request, timeout_s: float) -> bytes:
    """Read the whole body. Raises ApiError after `timeout_s`; the middleware enforces the size limits."""
    chunks = []
    try:
        async with asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(CLIENT_CLOSED, "client-closed", "the client closed the connection")
                chunks.append(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        problem = f"the body did not arrive within {timeout_s:g} s"
        raise ApiError(408, "body-timeout", problem, headers={"Connection": "close"}) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def photo_of(body: bytes, boundary: bytes) -> bytes:
    """The only file of a multipart body, in the field `file`. Raises ApiError. Text fields are ignored."""
    if (photo := _only_part(body, boundary)) is not None:
        return photo
    form = _parse(body, boundary, most_files=1)
    for name, _, content in form.files:
        if name == FIELD:
            return bytes(content)
    if FIELD in form.texts:
        raise ApiError(422, "not-a-file", f"the field `{FIELD}` is text: send it as a file")
    raise ApiError(422, "missing-file", f"the form has no file in the field `{FIELD}`")


def _only_part(body: bytes, boundary: bytes) -> bytes | None:
    """The photo of a form with no other part, as nearly every client sends it; None: ask the parser."""
    # The parser reads the headers byte by byte, which takes as long as a small network.
    delimiter = b"\r\n--" + boundary
    begin, end = body.find(b"\r\n\r\n", 0, MAX_HEADERS), body.find(delimiter)
    start = len(delimiter)  # of the headers: CRLF is missing before the first delimiter, and follows it
    plain = (
        0 < begin < end
        and body.startswith(delimiter[2:] + b"\r\n")
        and body[end + len(delimiter) :] in (b"--", b"--\r\n")
        and len(boundary) <= MAX_BOUNDARY
    )
    if not plain or (found := _USUAL.fullmatch(body, start, begin)) is None:
        return None
    _, options = parse_options_header(found[1])
    is_photo = options.get(b"name") == FIELD.encode() and b"filename" in options
    return body[begin + 4 : end] if is_photo else None


def photos_of(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """The files of a multipart body in the field `files` or `file`, with their names. Raises ApiError."""
    form = _parse(body, boundary, most_files=MAX_BATCH)
    found = [(file, bytes(content)) for name, file, content in form.files if name in (BATCH_FIELD, FIELD)]
    if not found:
        raise ApiError(422, "missing-file", f"the form has no file in the field `{BATCH_FIELD}`")
    return found


def _parse(body: bytes, boundary: bytes, most_files: int) -> "_Form":
    form = _Form(most_files)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.part_data,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise ApiError(422, "bad-multipart", "the multipart body is malformed") from None
    if parser.state != MultipartState.END:
        raise ApiError(422, "bad-multipart", "the multipart body ends before its closing boundary")
    return form


class _Form:
    """Collects the parts of a form. It raises ApiError from inside the parser, which ends the parsing."""

    def __init__(self, most_files: int) -> None:
        self.files: list[tuple[str, str, bytearray]] = []  # field, file name, content
        self.texts: list[str] = []
        self._most_files = most_files
        self._parts = 0
        self._in_file = False
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""

    def part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._most_files + MAX_TEXTS:
            message = f"the form has more than {self._most_files + MAX_TEXTS} parts"
            raise ApiError(422, "too-many-parts", message)
        self._disposition = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = b"filename" in options
        if not self._in_file:
            self.texts.append(name)
            return
        if len(self.files) == self._most_files:
            if self._most_files == 1:
                raise ApiError(422, "too-many-files", "send exactly one file")
            raise ApiError(422, "too-many-images", f"send at most {self._most_files} photos")
        file = options[b"filename"].decode("utf-8", "replace")
        self.files.append((name, file[:255], bytearray()))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.files[-1][2].extend(memoryview(data)[start:end])
