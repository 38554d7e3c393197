"""From a request to the bytes of its photos: the body is read within limits, then parsed in memory."""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartState, parse_options_header

from serve.errors import ApiError
from workbench.errors import plural
from workbench.photos.signatures import HEAD, PHOTOS, kind_of_file

CLIENT_CLOSED = 499  # nginx's status: only the counter sees it
FIELD, BATCH_FIELD = "file", "files"
MAX_TEXTS = 7  # fields beside the photos
MAX_BATCH = 32
MAX_HEADERS = 1024  # bytes of a part's headers, on the fast path
MAX_BOUNDARY = 70  # RFC 2046
MAX_PART_HEADER = 4096 + 128  # bytes of a line, on the parser's path
MAX_PART_HEADERS = 8
MAX_SHOWN = 100  # characters of what a client sent, in a message
# The headers that clients usually write above a photo. Any others go to the parser.
_OTHER = rb"content-(?:type|length|transfer-encoding):[ -~]*"
_USUAL = re.compile(rb"(?i)(?:%b\r\n)*content-disposition: *([^\0\r\n]*)(?:\r\n%b)*" % (_OTHER, _OTHER))
# Likewise for the header that names the boundary.
_USUAL_TYPE = re.compile(r"multipart/form-data; ?boundary=([0-9A-Za-z_-]{1,70})")
# `filename*=UTF-8''bl%C3%A4tt.jpg` (RFC 5987), which python-multipart leaves out; in pieces: `filename*0*=`.
_EXTENDED_NAME = re.compile(rb"(?i);\s*filename\*(?:0\*?)?\s*=\s*\"?(?:[^'\";]*'[^'\";]*')?([^\";]*)")
RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/heic", "image/heif")
FORM, BYTES, CURLS_DEFAULT = "multipart/form-data", "octet-stream", "application/x-www-form-urlencoded"
_ONE_PHOTO = f"send {FORM} with the photo in the field `{FIELD}`, or the photo as {RAW_TYPES[0]}"
_PHOTOS = f"send {FORM} with up to {MAX_BATCH} photos in the field `{BATCH_FIELD}`"
_BASE64 = "; base64 in JSON goes to /v1/models/NAME:predict"

Fields = list[tuple[str, str]]
TakeFields = Callable[[Fields], None]


def _ignore(_: Fields) -> None:
    """For callers that want the photo alone."""


def is_photo(data: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a photo, of a kind that is read here or not."""
    return kind_of_file(bytes(data[:HEAD])) in PHOTOS


def photo_reader(content_type: str | None, take_fields: TakeFields = _ignore) -> Callable[[bytes], bytes]:
    """A function from a body of this type to its photo. Raises ApiError for other types.

    take_fields: called with the text fields of a form, where it has any.
    """
    if content_type is not None and (usual := _USUAL_TYPE.fullmatch(content_type)) is not None:
        return partial(photo_of, boundary=usual[1].encode(), take_fields=take_fields)
    media_type, options = _parse_type(content_type)
    # The header only distinguishes a bare photo from a form; the format is read from the first bytes.
    if content_type is None or media_type.startswith("image/") or media_type.endswith(f"/{BYTES}"):
        return _sent_photo if content_type is None else bytes
    if media_type == CURLS_DEFAULT:
        return _photo_as_urlencoded
    return partial(photo_of, boundary=_boundary(media_type, options, _ONE_PHOTO), take_fields=take_fields)


def batch_reader(
    content_type: str | None, take_fields: TakeFields = _ignore
) -> Callable[[bytes], list[tuple[str, bytes]]]:
    """A function from a body of this type to its photos, each with its file name. Raises ApiError.

    take_fields: see `photo_reader`.
    """
    if content_type is None:
        raise ApiError(422, "missing-file", f"the body has no Content-Type: {_PHOTOS}")
    return partial(
        photos_of, boundary=_boundary(*_parse_type(content_type), _PHOTOS), take_fields=take_fields
    )


def _parse_type(content_type: str | None) -> tuple[str, dict[bytes, bytes]]:
    media_type, options = parse_options_header(content_type)
    return media_type.decode("latin-1").lower(), options


def _boundary(media_type: str, options: dict[bytes, bytes], remedy: str) -> bytes:
    if media_type != FORM:
        remedy += _BASE64 if "json" in media_type else ""
        kind = media_type[:MAX_SHOWN] or "of no type"
        raise ApiError(415, "unsupported-media-type", f"the body is {kind}: {remedy}")
    if not options.get(b"boundary"):
        message = f"`Content-Type: {FORM}` names no boundary: leave that header to the client, which adds one"
        raise ApiError(422, "bad-multipart", message)
    return options[b"boundary"]


def _sent_photo(body: bytes) -> bytes:
    if not body:
        raise ApiError(422, "missing-file", f"the request has no body: {_ONE_PHOTO}")
    return body


def _photo_as_urlencoded(body: bytes) -> bytes:
    """The photo that `curl --data-binary @leaf.jpg` sends under the type it gives to everything."""
    if not is_photo(body):
        raise ApiError(415, "unsupported-media-type", f"the body is {CURLS_DEFAULT}: {_ONE_PHOTO}")
    return body


async def read_body(request: Request, timeout_s: float) -> bytes:
    """Read the whole body. Raises ApiError after `timeout_s`; the middleware enforces the size limits."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "unsupported-media-type", "send the body uncompressed")
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


def photo_of(body: bytes, boundary: bytes, take_fields: TakeFields = _ignore) -> bytes:
    """The only file of a multipart body, in the field `file`. Raises ApiError. take_fields: see above."""
    if (photo := _only_part(body, boundary)) is not None:
        return photo
    form = _parse(body, boundary, most_files=1)
    (_, photo), *_ = form.photos(FIELD)
    take_fields(form.fields())
    return photo


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


def photos_of(body: bytes, boundary: bytes, take_fields: TakeFields = _ignore) -> list[tuple[str, bytes]]:
    """The files of a multipart body in the field `files` or `file`, with their names. Raises ApiError."""
    form = _parse(body, boundary, most_files=MAX_BATCH)
    photos = form.photos(BATCH_FIELD, FIELD)
    take_fields(form.fields())
    return photos


def _parse(body: bytes, boundary: bytes, most_files: int) -> "_Form":
    form = _Form(most_files)
    if not body:
        raise ApiError(422, "bad-multipart", "the body is empty, and its Content-Type says that it is a form")
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
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER,
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        message = form.too_long(str(error)) or _malformed(body, boundary)
        raise ApiError(422, "bad-multipart", message) from None
    if parser.state != MultipartState.END:
        raise ApiError(422, "bad-multipart", "the multipart body ends before its closing boundary")
    return form


def _malformed(body: bytes, boundary: bytes) -> str:
    if is_photo(body):
        return f"the body is a bare photo, and its Content-Type says {FORM}: send it as {RAW_TYPES[0]}"
    if not body.lstrip(b"\r\n").startswith(b"--" + boundary):
        began = boundary[:MAX_SHOWN].decode("latin-1")
        return f"the body does not begin with `--{began}`, the boundary that its Content-Type names"
    return "the multipart body is malformed"


class _Form:
    """Collects the parts of a form. It raises ApiError from inside the parser, which ends the parsing."""

    def __init__(self, most_files: int) -> None:
        self.parts: list[tuple[str, str | None, bytearray]] = []  # field, file name (None: text), content
        self._most_files = most_files
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}

    @property
    def files(self) -> list[tuple[str, str, bytearray]]:
        return [(field, file, content) for field, file, content in self.parts if file is not None]

    def photos(self, *names: str) -> list[tuple[str, bytes]]:
        """The photos in the fields `names` with their file names, at least one. Raises ApiError."""
        photos = [
            (file or "", bytes(content))
            for field, file, content in self.parts
            # A text may be one too: `curl -F 'file=<leaf.jpg'` says of no part that it is a file.
            if _without_index(field) in names and (file is not None or is_photo(content))
        ]
        if not photos:
            raise self._no_photo(names[0])
        if len(photos) > self._most_files:
            raise self._too_many(names[0])
        return photos

    def fields(self) -> Fields:
        return [
            (field, content[:MAX_SHOWN].decode("utf-8", "replace"))
            for field, file, content in self.parts
            if file is None
        ]

    def _no_photo(self, wanted: str) -> ApiError:
        if any(field == wanted for field, _, _ in self.parts):
            message = f"the field `{wanted}` is text: send it as a file, with curl `-F {wanted}=@leaf.jpg`"
            return ApiError(422, "not-a-file", message + _BASE64)
        came = [
            f"the {'text' if file is None else 'file'} `{name[:MAX_SHOWN]}`" for name, file, _ in self.parts
        ]
        shown = ", ".join(dict.fromkeys(came)) or "no field at all"
        message = f"the form has {shown}, and no file in the field `{wanted}`: send the photo in that field"
        return ApiError(422, "missing-file", message)

    def part_begin(self) -> None:
        if len(self.parts) >= self._most_files + MAX_TEXTS:
            message = f"the form has more than {self._most_files + MAX_TEXTS} parts"
            raise ApiError(422, "too-many-parts", message)
        self._headers.clear()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[bytes(self._name.lower())] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def too_long(self, problem: str) -> str | None:
        """Which limit on the headers of a part the parser met; None: another problem."""
        if "header count" in problem:
            return f"a part of the form has more than {plural(MAX_PART_HEADERS, 'header')}"
        if "header size" not in problem:
            return None
        name = self._name.decode("latin-1")[:MAX_SHOWN]
        shorter = ": send a shorter file name" if name.lower() == "content-disposition" else ""
        which = f"the header `{name}`" if name else "a header"
        return f"{which} of a part of the form has more than {MAX_PART_HEADER:,} bytes{shorter}"

    def headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        field = options.get(b"name", b"").decode("utf-8", "replace")
        file = options.get(b"filename")
        if file is None and (extended := _EXTENDED_NAME.search(disposition)) is not None:
            file = unquote_to_bytes(extended[1])
        if file is None and self._holds_bytes(field):
            file = b""
        if file is not None and len(self.files) == self._most_files:
            raise self._too_many(field)
        name = None if file is None else file.decode("utf-8", "replace")[:255]
        self.parts.append((field, name, bytearray()))

    def _holds_bytes(self, field: str) -> bool:
        """Whether the part's type is that of a photo: its file may have no name (RFC 7578, 4.2)."""
        kind = self._headers.get(b"content-type", b"").strip().lower()
        named = _without_index(field) in (FIELD, BATCH_FIELD)
        return kind.startswith(b"image/") or (named and kind.endswith(BYTES.encode()))

    def _too_many(self, field: str) -> ApiError:
        if self._most_files > 1:
            return ApiError(422, "too-many-images", f"send at most {plural(self._most_files, 'photo')}")
        first = self.files[0][0] if self.files else field
        names = f"`{first[:MAX_SHOWN]}` and `{field[:MAX_SHOWN]}`"
        message = f"the form has more than one file, {names}: send exactly one, or several to /predict/batch"
        return ApiError(422, "too-many-files", message)

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][2].extend(memoryview(data)[start:end])


def _without_index(field: str) -> str:
    """`files` of `files[]` and `files[0]`, as axios, PHP and Rails call the fields of a list."""
    return field.partition("[")[0]
