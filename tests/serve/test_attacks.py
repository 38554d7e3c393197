"""What a hostile client can send: an answer in the one shape, never a 500, a hang, or memory without end.

After each attack the same process has to answer a good photo, and when it ends its log has no traceback.
"""

import asyncio
import io
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.app import create_app
from serve.settings import Settings
from tests.load import sample
from tests.serving import (
    END,
    MULTIPART,
    Running,
    ServerProcess,
    encoded,
    error_code,
    noise,
    part,
    png_claiming,
    ready,
    server_process,
)
from workbench.photos.contract import MAX_PIXELS

pytestmark = pytest.mark.integration

GOOD = encoded(noise(1))
# What is left at the end of all attacks; a fresh process has 105 MB.
MAX_LEFT_BYTES = 350e6
INFER = "/v2/models/leaf/infer"
NUMBERS = 3 * 32 * 32


@pytest.fixture(scope="module")
def attacked(registry: Path) -> Iterator[ServerProcess]:
    with server_process(registry, OMP_NUM_THREADS="1") as process:
        yield process
        assert sample(process.client.get("/metrics").text, "process_resident_memory_bytes") < MAX_LEFT_BYTES
    assert "Warning" not in process.log, process.log[-5000:]


@pytest.fixture
def target(attacked: ServerProcess) -> Iterator[ServerProcess]:
    yield attacked
    began = time.monotonic()
    after = attacked.client.post("/predict", files={"file": ("leaf.jpg", GOOD, "image/jpeg")})
    assert (after.status_code, after.json()["class_name"]) == (200, "Tomato_Early_Blight")
    assert time.monotonic() - began < 10


def said(answer: httpx.Response) -> tuple[int, str]:
    """The status, and the code of an error in the shape that belongs to its path."""
    if answer.is_success:
        return answer.status_code, ""
    if not answer.request.url.path.startswith("/v2"):
        return answer.status_code, error_code(answer)
    body = answer.json()
    assert list(body) == ["error", "code", "request_id"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["code"]


# Photos


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A black square with these chunks before its pixels. colour: PNG's number of the colour type."""
    row = 1 + (side * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth + 7) // 8
    packer = zlib.compressobj(9)
    pixels = b"".join([*(packer.compress(bytes(row)) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed_zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 1_000_000), 9)


def repeated_scans(times: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each goes over all pixels."""
    photo = encoded(Image.new("RGB", (512, 512)), progressive=True, quality=30)
    last = photo.rindex(b"\xff\xda")
    return photo[:last] + photo[last:-2] * times + b"\xff\xd9"


def animation(form: str) -> bytes:
    frames = [Image.effect_noise((24, 24), 90).convert("RGB") for _ in range(300)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=20)
    return buffer.getvalue()


TRANSPOSED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
MEGABYTES_OF_EXIF = TRANSPOSED + bytes(5_000_000)

UNPACKED = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\x01\0\0\0", b"iCCP": b"icc\0\0"}
TEN_THOUSAND_TEXTS = [chunk(b"tEXt", b"Comment\0" + bytes(90))] * 10_000
SVG = b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
DISGUISED_GIF = b"\x89PNG\r\n\x1a\n" + encoded(noise(1), "GIF")
PHOTOS = {
    "a PNG that claims more than 32 bits hold": (png_claiming(2**31 - 1, 2**31 - 1), 422, "image-too-large"),
    "a JPEG of 5,000 scans": (repeated_scans(5000), 422, "image-too-large"),
    "a GIF in the clothes of a PNG": (DISGUISED_GIF, 422, "broken-image"),
    "an animated WebP of 300 frames": (animation("WEBP"), 200, ""),
    "an animated PNG of 300 frames": (animation("PNG"), 200, ""),
    "a PNG with 5 MB of EXIF": (png(50, chunk(b"eXIf", MEGABYTES_OF_EXIF)), 200, ""),
    "a WebP with 5 MB of EXIF": (encoded(noise(1), "WEBP", exif=b"Exif\0\0" + MEGABYTES_OF_EXIF), 200, ""),
    **{
        f"a PNG whose {kind.decode()} unpacks to 300 MB": (
            png(50, chunk(kind, begin + packed_zeros(300))),
            200,
            "",
        )
        for kind, begin in UNPACKED.items()
    },
    "a PNG with ten thousand texts": (png(50, *TEN_THOUSAND_TEXTS), 200, ""),
    "a file of zeros": (bytes(9_000_000), 415, "unsupported-image"),
    "a script": (b"<?php system($_GET['x']); ?>", 415, "unsupported-image"),
    "an SVG that asks for a file": (SVG, 415, "unsupported-image"),
}


@pytest.mark.parametrize(("photo", "status", "code"), PHOTOS.values(), ids=PHOTOS)
def test_a_hostile_photo_gets_its_answer(target: ServerProcess, photo: bytes, status: int, code: str) -> None:
    began = time.monotonic()
    with Peak(target) as grown:
        answer = target.client.post("/predict", files={"file": ("a.jpg", photo, "image/jpeg")})
    assert said(answer) == (status, code)
    assert time.monotonic() - began < 10
    assert grown() < 100e6


class Peak:
    """The most memory that a process had since this began, beyond what it had then, in bytes."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process
        self._before = 0

    def __enter__(self) -> "Peak":
        self._proc("clear_refs").write_text("5")
        self._before = self._highest()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self) -> int:
        return self._highest() - self._before

    def _highest(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", self._proc("status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self._process.process.pid}/{name}")


SIDE = 7000
BOMBS = {
    "black and white": (lambda: png(SIDE, depth=1, colour=0), 5.5),
    "on its side": (lambda: png(SIDE, chunk(b"eXIf", TRANSPOSED), depth=1, colour=0), 6.5),
    "in 16 bits": (lambda: png(SIDE, depth=16, colour=0), 11.0),
    # Pillow's decoder of WebP holds two canvases and copies one twice.
    "a WebP": (lambda: encoded(Image.new("RGB", (SIDE, SIDE)), "WEBP", lossless=True, quality=0), 17.0),
    "progressive": (lambda: encoded(Image.new("L", (SIDE, SIDE)), progressive=True, quality=1), 6.5),
}


@pytest.mark.parametrize(("build", "bytes_per_pixel"), BOMBS.values(), ids=BOMBS)
def test_a_photo_of_49_megapixels_in_some_kilobytes_takes_no_more_than_is_stated(
    target: ServerProcess, build: Any, bytes_per_pixel: float
) -> None:
    photo = build()
    assert len(photo) < 400_000 and SIDE * SIDE < MAX_PIXELS
    with Peak(target) as grown:
        answer = target.client.post("/predict", content=photo, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    assert grown() < SIDE * SIDE * bytes_per_pixel


def test_bombs_that_come_at_once_are_decoded_as_many_at_a_time_as_there_are_threads(
    target: ServerProcess,
) -> None:
    photo = png(SIDE, depth=1, colour=0)
    concurrency = target.client.get("/model").json()["concurrency"]
    with Peak(target) as grown, ThreadPoolExecutor(6) as pool:
        answers = [
            pool.submit(target.client.post, "/predict", content=photo, headers={"Content-Type": "image/png"})
            for _ in range(6)
        ]
        outcomes = {said(answer.result()) for answer in answers}
    assert (200, "") in outcomes
    assert outcomes <= {(200, ""), (429, "overloaded"), (504, "deadline-passed")}
    assert grown() < concurrency * MAX_PIXELS * 6


# Forms


FILE = 'name="file"; filename="a"'
NESTED = part(FILE, b"\r\n" + part(FILE, GOOD) + END)
BODIES = {
    "10,000 parts": (part('name="x"') * 10_000 + END, "too-many-parts"),
    "a million headers": (b"--b\r\n" + b"a: b\r\n" * 1_000_000 + b"\r\n1\r\n" + END, "bad-multipart"),
    "a header of 9 MB": (b"--b\r\nX: " + b"a" * 9_000_000 + b"\r\n\r\n1\r\n" + END, "bad-multipart"),
    "a name of 100 KB": (part(f'name="file"; filename="{"a" * 100_000}"', GOOD) + END, "bad-multipart"),
    "options without end": (part(FILE + ";" * 4000) + END, "unsupported-image"),
    "two million almost-boundaries": (part(FILE, b"\r\n--" * 2_000_000)[:-2], "bad-multipart"),
    "a form in a form": (NESTED + END, "too-many-files"),
    "text after the end": (END + part(FILE), "missing-file"),
}
TYPES = {
    "no boundary": "multipart/form-data",
    "an empty boundary": "multipart/form-data; boundary=",
    "a boundary of 50 KB": f"multipart/form-data; boundary={'b' * 50_000}",
    "another boundary": "multipart/form-data; boundary=c",
    "a Content-Type of 10,000 options": "multipart/form-data" + ";a=b" * 10_000,
    "a Content-Type of quotes": 'multipart/form-data; boundary="' + '\\"' * 20_000,
}
FORMS = {name: (body, MULTIPART, code) for name, (body, code) in BODIES.items()} | {
    name: (part(FILE) + END, content_type, "bad-multipart") for name, content_type in TYPES.items()
}


@pytest.mark.parametrize(("body", "content_type", "code"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_hostile_form_gets_its_answer(
    target: ServerProcess, path: str, body: bytes, content_type: str, code: str
) -> None:
    began = time.monotonic()
    answer = target.client.post(path, content=body, headers={"Content-Type": content_type})
    if path == "/predict/batch" and answer.status_code == 200:
        errors = {one["error"]["code"] for one in answer.json()["predictions"] if "error" in one}
        assert errors and errors <= {"empty-image", "unsupported-image"}
    else:
        assert said(answer) == ((415 if code == "unsupported-image" else 422), code)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\0b", "\x01\x02", "%00%0d%0a", "é" * 1000, "C:\\x\\y"]
)
def test_file_names_are_text_and_nothing_else(target: ServerProcess, name: str) -> None:
    body = part(f'name="files"; filename="{name}"', GOOD) + END
    answer = target.client.post("/predict/batch", content=body, headers={"Content-Type": MULTIPART})
    assert answer.status_code == 200
    (entry,) = answer.json()["predictions"]
    assert entry["class_name"] == "Tomato_Early_Blight"
    assert entry["file_name"] in (name[:255], name.rpartition("\\")[2])


# Parameters


TOP_K = ["0", "-1", "101", "1e2", "1.0", "", "1&top_k=2", "%D9%A3", "%00", "%FF", "9" * 20_000]
THRESHOLD = ["nan", "inf", "1e999", "-0.1", "1.1", "0x1", "1_0", "", "0&threshold=0"]


@pytest.mark.parametrize(
    "query", [f"top_k={text}" for text in TOP_K] + [f"threshold={text}" for text in THRESHOLD]
)
def test_a_parameter_that_makes_no_sense_is_named(target: ServerProcess, query: str) -> None:
    answer = target.client.post(f"/predict?{query}", content=GOOD, headers={"Content-Type": "image/jpeg"})
    assert said(answer) == (422, "bad-parameter")
    assert f"`{query.partition('=')[0]}`" in answer.json()["error"]["message"]


# The wire


@dataclass(frozen=True)
class Answer:
    """As it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the one shape; where the request was not HTTP, the answer is the HTTP library's."""
        if self.status in (400, 431) and self.headers["content-type"].startswith("text/plain"):
            assert self.headers["connection"] == "close"
            return "not-http"
        body = json.loads(self.body)
        assert list(body) == ["error", "request_id"] and list(body["error"]) == ["code", "message"]
        return str(body["error"]["code"])


class Wire:
    """A connection and what is read from it."""

    def __init__(self, port: int, timeout_s: float = 5.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self.socket.close()

    def answer(self) -> Answer | None:
        """The next one; None where the server closed the connection instead. Raises TimeoutError."""
        try:
            line = self._reader.readline()
        except ConnectionResetError:
            return None
        if not line:
            return None
        headers = {}
        while (field := self._reader.readline().decode().strip()) != "":
            name, _, value = field.partition(": ")
            headers[name] = value
        return Answer(int(line.split()[1]), headers, self._reader.read(int(headers["content-length"])))

    def is_silent(self) -> bool:
        """Nothing more comes, whether the connection is open or not."""
        self.socket.settimeout(0.05)
        try:
            return self.answer() is None
        except TimeoutError:
            return True


def post(*headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    head = [f"POST /predict HTTP/{version}", "Host: x", f"Content-Type: {MULTIPART}", *headers, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKED_JPEG = post(CHUNKED).replace(MULTIPART.encode(), b"image/jpeg")
NO_HTTP = {
    "two lengths": post("Content-Length: 4", "Content-Length: 4", body=b"abcd"),
    "two different lengths": post("Content-Length: 4", "Content-Length: 37", body=b"abcd" + HIDDEN),
    "a list of lengths": post("Content-Length: 4, 4", body=b"abcd"),
    "a length and chunks": post("Content-Length: 4", CHUNKED, body=b"0\r\n\r\n" + HIDDEN),
    "chunks and a length": post(CHUNKED, "Content-Length: 4", body=b"0\r\n\r\n" + HIDDEN),
    "an unknown encoding": post("Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunks that are not last": post("Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + HIDDEN),
    "two encodings": post(CHUNKED, "Transfer-Encoding: identity", body=b"0\r\n\r\n" + HIDDEN),
    "a space before the colon": post("Transfer-Encoding : chunked", body=b"0\r\n\r\n" + HIDDEN),
    "a folded header": post("Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + HIDDEN),
    "a length with a sign": post("Content-Length: +4", body=b"abcd"),
    "a negative length": post("Content-Length: -4", body=b"abcd"),
    "a length in hexadecimal": post("Content-Length: 0x4", body=b"abcd"),
    "a length of 23 digits": post(f"Content-Length: {'9' * 23}", body=b"abcd"),
    "an empty length": post("Content-Length: ", body=b"abcd"),
    "lines without a carriage return": post("Content-Length: 4", body=b"abcd").replace(b"\r\n", b"\n"),
    "a chunk that is no number": post(CHUNKED, body=b"zz\r\na\r\n0\r\n\r\n"),
    "a chunk of a negative size": post(CHUNKED, body=b"-1\r\na\r\n0\r\n\r\n"),
    "a chunk of 17 digits": post(CHUNKED, body=b"F" * 17 + b"\r\na\r\n0\r\n\r\n"),
    "a chunk longer than it says": post(CHUNKED, body=b"2\r\nabcd\r\n0\r\n\r\n"),
    "chunks without a carriage return": post(CHUNKED, body=b"4\nabcd\n0\n\n" + HIDDEN),
    "a chunk with a line in its extension": post(CHUNKED, body=b'1;a="x\ny"\r\na\r\n0\r\n\r\n'),
    "a length behind the chunks": post(CHUNKED, body=b"1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n" + HIDDEN),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\n\r\n",
    "garbage": bytes(range(256)) * 20,
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path that is not ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path with a null": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header with a null": b"GET /healthz HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "a header with a carriage return": b"GET /healthz HTTP/1.1\r\nX: a\rb\r\n\r\n",
    "a first header with a space": b"GET /healthz HTTP/1.1\r\n X: y\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", NO_HTTP.values(), ids=NO_HTTP)
def test_what_could_be_read_in_two_ways_is_not_read_at_all(
    target: ServerProcess, request_bytes: bytes
) -> None:
    with Wire(target.port) as wire:
        wire.socket.sendall(request_bytes)
        answer = wire.answer()
        assert answer is not None and (answer.status, answer.code) == (400, "not-http")
        assert wire.answer() is None, "the connection is closed after it"


WHOLE = {
    "a length that is too short": (
        post("Content-Length: 4", body=b"abcd" + HIDDEN),
        [(422, "bad-multipart"), (404, "not-found")],
    ),
    "chunks of another encoding": (
        post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + HIDDEN),
        [(422, "bad-multipart"), (404, "not-found")],
    ),
    "a length of 19 digits": (post("Content-Length: 9223372036854775807"), [(413, "body-too-large")]),
    "chunks in HTTP/1.0": (post(CHUNKED, body=b"0\r\n\r\n", version="1.0"), [(422, "bad-multipart")]),
    "a wish for another protocol": (
        post("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 4", body=b"abcd"),
        [(422, "bad-multipart")],
    ),
    "HTTP/0.9": (b"GET /hidden\r\n\r\n", [(404, "not-found")]),
    "a path up and away": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", [(404, "not-found")]),
    "a path of escapes": (b"GET /%ff%00%0d%0aX:y HTTP/1.1\r\nHost: x\r\n\r\n", [(404, "not-found")]),
    "another server's path": (b"GET http://x/hidden HTTP/1.1\r\nHost: y\r\n\r\n", [(404, "not-found")]),
    "a star": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [(404, "not-found")]),
    "twenty requests in one": (HIDDEN * 20, [(404, "not-found")] * 20),
}


@pytest.mark.parametrize(("request_bytes", "expected"), WHOLE.values(), ids=WHOLE)
def test_odd_http_is_read_in_one_way(
    target: ServerProcess, request_bytes: bytes, expected: list[tuple[int, str]]
) -> None:
    with Wire(target.port) as wire:
        wire.socket.sendall(request_bytes)
        got = [wire.answer() for _ in expected]
        assert [answer and (answer.status, answer.code) for answer in got] == expected
        assert wire.is_silent()


def test_garbage_behind_a_body_is_never_taken_for_a_request(target: ServerProcess) -> None:
    with Wire(target.port) as wire:
        wire.socket.sendall(post("Content-Length: 4", body=b"abcd"))
        answer = wire.answer()
        assert answer is not None and answer.code == "bad-multipart"
        wire.socket.sendall(b"\xff\xd8garbage" * 100)
        answer = wire.answer()
        assert answer is not None and answer.code == "not-http"
        assert wire.answer() is None


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /", b"a" * 65_536),
        (b"GET /healthz HTTP/1.1\r\nX: ", b"a" * 65_536),
        (b"GET /healthz HTTP/1.1\r\n", b"x: y\r\n" * 10_000),
    ],
    ids=["a path", "a header", "headers"],
)
def test_what_comes_before_a_body_does_not_go_on_for_ever(
    target: ServerProcess, begin: bytes, piece: bytes
) -> None:
    with Peak(target) as grown, Wire(target.port) as wire:
        with suppress(ConnectionResetError, BrokenPipeError):
            wire.socket.sendall(begin)
            for _ in range(300):
                wire.socket.sendall(piece)
        with suppress(ConnectionResetError):
            answer = wire.answer()
            assert answer is None or (answer.status, answer.code) == (431, "headers-too-large")
    assert grown() < 10e6


def test_hundreds_of_idle_or_unfinished_connections_do_not_hold_up_others(target: ServerProcess) -> None:
    idle = [Wire(target.port) for _ in range(200)]
    try:
        for number, wire in enumerate(idle[:150]):
            wire.socket.sendall(b"GET /healthz HTTP/1.1\r\nX: " if number % 2 else post("Content-Length: 9"))
        for _ in range(5):
            began = time.monotonic()
            assert target.client.get("/healthz").status_code == 200
            assert time.monotonic() - began < 10
    finally:
        for wire in idle:
            wire.__exit__()


# Slowly


@pytest.fixture(scope="module")
def hasty(registry: Path) -> Iterator[Running]:
    """A server that waits for half a second."""
    with ready(Settings(registry=registry, body_timeout_s=0.5)) as server:
        yield server
        assert server.post(GOOD).status_code == 200


@pytest.mark.parametrize(
    "begin",
    [
        post("Content-Length: 1000", body=b"--b"),
        post(CHUNKED, body=b"4\r\nabcd\r\n"),
        post(CHUNKED, body=b"7FFFFFFFFFFFFFFF\r\nabcd"),
        post("Content-Length: 1000", "Expect: 100-continue"),
    ],
    ids=["a length that is too long", "chunks without an end", "a chunk that lies", "an expectation"],
)
@pytest.mark.parametrize("drips", [False, True], ids=["then silence", "then a byte every 100 ms"])
def test_a_body_that_does_not_end_is_given_up(hasty: Running, begin: bytes, drips: bool) -> None:
    done = threading.Event()
    _, port = hasty.address
    with Wire(port) as wire:

        def drip() -> None:
            with suppress(OSError):
                while drips and not done.wait(0.1):
                    wire.socket.sendall(b"x")

        began = time.monotonic()
        wire.socket.sendall(begin)
        thread = threading.Thread(target=drip)
        thread.start()
        if b"Expect" in begin:
            assert wire._reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert wire._reader.readline() == b"\r\n"
        try:
            answer = wire.answer()
        finally:
            done.set()
            thread.join()
    # Drips may also make a chunk that is none.
    assert answer is not None
    assert (answer.status, answer.code) in ((408, "body-timeout"), (400, "not-http"))
    assert time.monotonic() - began < 10


# Tensors


def tensor(**changed: Any) -> dict[str, Any]:
    """A request that would be answered; None takes a field away."""
    one = {"name": "image", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0] * NUMBERS} | changed
    return {"inputs": [{name: value for name, value in one.items() if value is not None}]}


def with_data(text: str) -> str:
    return json.dumps(tensor(data=["HERE"])).replace('["HERE"]', f"[{text}]")


def with_number(text: str) -> str:
    return with_data(",".join(["0"] * (NUMBERS - 1) + [text]))


TENSORS: dict[str, Any] = {
    "half a million brackets": "[" * 500_000,
    "objects in objects": '{"inputs":' * 100_000,
    "objects in objects that end": '{"a":' * 900 + "1" + "}" * 900,
    "1e999": with_number("1e999"),
    "1e39": with_number("1e39"),
    "NaN": with_number("NaN"),
    "Infinity": with_number("-Infinity"),
    "a number of 5,000 digits": with_number("1" * 5000),
    "a number of 400 digits": with_number("1" * 400),
    "a number of 20 digits": with_number("99999999999999999999"),
    "2.5 million numbers": with_data("0," * 2_500_000 + "0"),
    "1.5 million lists": with_data("[]," * 1_500_000 + "[]"),
    "1.5 million objects": with_data("{}," * 1_500_000 + "{}"),
    "400,000 keys": "{" + ",".join(f'"{number}":0' for number in range(400_000)) + "}",
    "a negative shape": tensor(shape=[-1, 3, 32, 32]),
    "a shape of booleans": tensor(shape=[True, 3, 32, 32]),
    "a shape of fractions": tensor(shape=[1.0, 3, 32, 32]),
    "a shape of texts": tensor(shape=["1", 3, 32, 32]),
    "a shape of 30 digits": tensor(shape=[10**30, 3, 32, 32]),
    "a shape of lists": tensor(shape=[[1], 3, 32, 32]),
    "no rows": tensor(shape=[0, 3, 32, 32], data=[]),
    "33 rows": tensor(shape=[33, 3, 32, 32]),
    "three dimensions": tensor(shape=[3, 32, 32]),
    "no shape": tensor(shape=None),
    "an object for a shape": tensor(shape={}),
    "a wrong name": tensor(name="picture"),
    "a name with a null": tensor(name="image\0"),
    "no name": tensor(name=None),
    "a list for a name": tensor(name=["image"]),
    "another datatype": tensor(datatype="FP64"),
    "a datatype in small letters": tensor(datatype="fp32"),
    "a list for a datatype": tensor(datatype=["FP32"]),
    "no data": tensor(data=None),
    "too little data": tensor(data=[0] * (NUMBERS - 1)),
    "text for data": tensor(data="0"),
    "texts as data": tensor(data=["0"] * NUMBERS),
    "booleans as data": tensor(data=[True] * NUMBERS),
    "nothing as data": tensor(data=[None] * NUMBERS),
    "ragged data": tensor(data=[0] * (NUMBERS - 1) + [[0]]),
    "an object in the data": tensor(data=[0] * (NUMBERS - 1) + [{}]),
    "two inputs": {"inputs": tensor()["inputs"] * 2},
    "an input twice": '{"inputs":[],"inputs":[]}',
    "no inputs": {"inputs": []},
    "an input that is a number": {"inputs": [1]},
    "an empty object": {},
    "a list": [],
    "null": "null",
    "nothing at all": "",
    "bytes that are no text": b"\xff\xfe{",
    "another output": tensor() | {"outputs": [{"name": "probabilities"}]},
    "outputs that are text": tensor() | {"outputs": "logits"},
    "an output that is a number": tensor() | {"outputs": [1]},
    "outputs that are null": tensor() | {"outputs": None},
    "parameters that are a number": tensor() | {"outputs": [{"name": "logits", "parameters": 1}]},
    "parameters that are a list": tensor() | {"parameters": []},
    "a classification": tensor() | {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
}


def infer(target: ServerProcess, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return target.client.post(INFER, content=content, headers=headers)


@pytest.mark.parametrize("body", TENSORS.values(), ids=TENSORS)
def test_a_hostile_tensor_is_refused_with_the_reason(target: ServerProcess, body: Any) -> None:
    began = time.monotonic()
    with Peak(target) as grown:
        answer = infer(target, body)
    assert said(answer) == (422, "bad-tensor")
    assert time.monotonic() - began < 10
    # The body, its copy in one piece, and what is made of it.
    assert grown() < 50e6 + 3 * len(answer.request.content)


SIZES = [(size, 12288, None) for size in (12287, -1, True, "12288", 10**20, [])]
BEHIND = [(12288, behind, None) for behind in (0, 12287, 12289)]
LENGTHS = [
    (12288, 12288, length)
    for length in ("0", "-1", "1e2", "+100", "1, 2", "99999999", "9" * 5000, "\xb2", "")
]


@pytest.mark.parametrize(("size", "behind", "length"), SIZES + BEHIND + LENGTHS)
def test_lies_about_binary_data_are_refused(
    target: ServerProcess, size: Any, behind: int, length: str | None
) -> None:
    head = json.dumps(tensor(data=None, parameters={"binary_data_size": size})).encode()
    header = (str(len(head)) if length is None else length).encode("latin-1")
    answer = target.client.post(
        INFER, content=head + bytes(behind), headers=[(b"inference-header-content-length", header)]
    )
    assert said(answer) == (422, "bad-tensor")


def test_numbers_that_are_none_are_computed_where_bytes_can_say_so(target: ServerProcess) -> None:
    asked = tensor(data=None, parameters={"binary_data_size": 12288})
    head = json.dumps(asked | {"parameters": {"binary_data_output": True}}).encode()
    answer = target.client.post(
        INFER,
        content=head + np.full(NUMBERS, np.nan, "<f4").tobytes(),
        headers={"inference-header-content-length": str(len(head))},
    )
    assert answer.status_code == 200
    said_bytes = answer.content[int(answer.headers["inference-header-content-length"]) :]
    assert np.isnan(np.frombuffer(said_bytes, "<f4")).all()


def test_the_largest_body_does_not_keep_others_waiting(target: ServerProcess) -> None:
    body = with_data(" " * 49_000_000 + "0")
    waits = []
    with (
        ThreadPoolExecutor(2) as pool,
        httpx.Client(base_url=target.client.base_url, timeout=30, verify=False) as other,
    ):
        pending = [pool.submit(infer, target, body) for _ in range(2)]
        while not all(one.done() for one in pending):
            began = time.monotonic()
            assert other.get("/healthz").status_code == 200
            waits.append(time.monotonic() - began)
    assert {said(one.result()) for one in pending} <= {(413, "body-too-large"), (429, "overloaded")}
    assert max(waits) < 5


# The key


@pytest.fixture(scope="module")
def locked(registry: Path) -> Iterator[Running]:
    with ready(Settings(registry=registry, api_key="a key of ours")) as server:
        yield server


@pytest.mark.parametrize(
    "header",
    [
        (b"X", b"a key of ours"),
        (b"X-API-Key", b""),
        (b"X-API-Key", b"a key of our"),
        (b"X-API-Key", b"a key of ours!"),
        (b"X-API-Key", b"A key of ours"),
        (b"X-API-Key", "schlüssel".encode("latin-1")),
        (b"X-API-Key", "ключ".encode()),
        (b"X-API-Key", b"a" * 30_000),
        (b"Authorization", b"Basic a key of ours"),
        (b"Authorization", b"Bearer"),
        (b"Authorization", b"a key of ours"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/model", "/v2/models/leaf", INFER])
def test_a_wrong_key_is_refused_before_anything_else(
    locked: Running, path: str, header: tuple[bytes, bytes]
) -> None:
    answer = locked.client.post(path, content=b"", headers=[header])
    assert said(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_key_is_asked_for_before_the_body_is_read(locked: Running) -> None:
    _, port = locked.address
    for length in ("9000000", "99999999999"):
        with Wire(port, timeout_s=2) as wire:
            wire.socket.sendall(post(f"Content-Length: {length}"))
            answer = wire.answer()
            assert answer is not None and (answer.status, answer.code) == (401, "unauthorized")


@pytest.mark.parametrize(
    "path", ["/predict/", "//predict", "/Predict", "/predict%2f", "/./predict", "/v2/models", "/%70redict"]
)
def test_another_way_to_write_a_path_is_no_way_in(locked: Running, path: str) -> None:
    _, port = locked.address
    with Wire(port) as wire:
        wire.socket.sendall(post("Content-Length: 0").replace(b"/predict", path.encode(), 1))
        answer = wire.answer()
    assert answer is not None and answer.status in (401, 404)


@pytest.mark.parametrize(("start", "unit"), [(b"", b"a: " + b"b" * 1000 + b"\r\n"), (b"x: ", b"b" * 1000)])
def test_headers_behind_a_body_have_an_end_too(target: ServerProcess, start: bytes, unit: bytes) -> None:
    """All of them, or a single one: the parser keeps them, and copies the one that does not end."""
    with socket.create_connection((target.host, target.port), timeout=5) as client:
        client.sendall(CHUNKED_JPEG + b"1\r\na\r\n0\r\n" + start)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 20_000_000:
                client.sendall(unit * 20)
                sent += len(unit) * 20


def test_a_body_of_many_small_chunks_with_a_header_behind_it_is_taken(target: ServerProcess) -> None:
    with Wire(target.port) as wire:
        wire.socket.sendall(CHUNKED_JPEG)
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(GOOD)):
            wire.socket.sendall(b"1;" + b"e" * 100 + b"\r\n")
            wire.socket.sendall(GOOD[at : at + 1] + b"\r\n")
        wire.socket.sendall(b"0\r\nChecksum: none\r\n\r\n")
        answer = wire.answer()
    assert answer is not None and answer.status == 200


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", INFER])
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_body_bytes": 2000, "max_batch_bytes": 2000}, (413, "body-too-large")),
        ({"max_buffered_bytes": 2000}, (429, "overloaded")),
    ],
)
def test_every_path_holds_its_limits_while_a_body_arrives(
    registry: Path, path: str, limits: dict[str, Any], expected: tuple[int, str]
) -> None:
    with ready(Settings(registry=registry, **limits)) as server:
        answer = server.client.post(path, content=iter([b"a" * 2500]), headers={"Content-Type": MULTIPART})
        assert said(answer) == expected


@pytest.mark.parametrize("path", ["/api/predict", "/api/model", "/api/v2/models/leaf/infer", "/predict\n"])
def test_below_a_prefix_the_key_is_asked_for_too(tmp_path: Path, path: str) -> None:
    """As with uvicorn's `--root-path`, which it puts in front of the path that the client asked for."""
    app = create_app(Settings(registry=tmp_path, api_key="a key of ours"))

    async def asked() -> tuple[httpx.Response, str]:
        transport = httpx.ASGITransport(app, root_path="/api")
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer = await client.post(path.replace("\n", "%0A"))
            return answer, (await client.get("/metrics")).text

    answer, metrics = asyncio.run(asked())
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    if path != "/api/model":
        assert 'requests_total{code="401"} 1.0' in metrics


@pytest.mark.parametrize(
    "header", [("X-API-Key", "a key of ours"), ("Authorization", "bearer  a key of ours")]
)
def test_the_key_opens(locked: Running, header: tuple[str, str]) -> None:
    answer = locked.client.post(
        "/predict", content=GOOD, headers=dict([header, ("Content-Type", "image/jpeg")])
    )
    assert answer.status_code == 200
