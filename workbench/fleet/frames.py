"""The frames between a driver and a worker: a JSON header and bytes, each with its length before it.

Nothing is pickled: a frame can hold text, numbers and bytes, and run nothing.
"""

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

from workbench.errors import WorkbenchError

# The first line of a worker. What a login shell prints before it is passed over.
GREETING = b"krishi-bench fleet worker, protocol 1\n"
NOISE_BYTES = 65_536  # of other output before the greeting, at most
BUILDS = "--builds"  # of the worker: it may be asked to build, and so to run a driver's code
CHUNK_BYTES = 8 * 2**20
LENGTHS = struct.Struct(">II")
MOST_HEADER = 64 * 2**20
MOST_BLOB = 2 * CHUNK_BYTES

Header = dict[str, Any]


class FrameError(WorkbenchError):
    """What came over the connection is no frame."""


def write_frame(stream: IO[bytes], header: Mapping[str, Any], blob: bytes = b"") -> None:
    text = json.dumps(header).encode()
    stream.write(LENGTHS.pack(len(text), len(blob)) + text)
    stream.write(blob)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[Header, bytes]:
    """Raises EOFError where the stream ends, FrameError where it holds something else."""
    text_bytes, blob_bytes = LENGTHS.unpack(_exactly(stream, LENGTHS.size))
    if text_bytes > MOST_HEADER or blob_bytes > MOST_BLOB:
        raise FrameError("the connection carries something else than frames")
    try:
        header = json.loads(_exactly(stream, text_bytes))
    except ValueError as error:
        raise FrameError(f"a frame's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FrameError("a frame's header is no mapping")
    return header, _exactly(stream, blob_bytes)


def read_greeting(stream: IO[bytes]) -> None:
    """Skip what comes before the greeting. Raises EOFError where none comes, FrameError after too much."""
    passed = 0
    while (line := stream.readline(NOISE_BYTES)) != GREETING:
        if not line:
            raise EOFError
        if (passed := passed + len(line)) > NOISE_BYTES:
            raise FrameError("no worker answered, but something else did")


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        if not (part := stream.read(count - len(data))):
            raise EOFError
        data += part
    return bytes(data)
