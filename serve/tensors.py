"""The bodies of `POST /v2/models/{name}/infer`: JSON and bytes to a tensor, logits to JSON or bytes.

All of it runs in a thread: numbers in JSON take longer to read than a network takes to answer.
"""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve import work
from serve.model import Model
from serve.responses import ApiError
from serve.work import Server

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INPUT, OUTPUT = "image", "logits"
MAX_ROWS = 32
MAX_JSON_BYTES = 6_000_000  # while it is read no other thread runs, health included: 0.3 s for 24 MB
SPARE = 1000  # commas, brackets and quotes beside those of the tensor
HEADER_LENGTH = "inference-header-content-length"
BYTES = {"FP32": 4, "UINT8": 1}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the model takes, without its rows."""

    datatype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * BYTES[self.datatype]


def tensor_of(model: Model) -> Tensor:
    manifest = model.bundle.manifest
    side = manifest.preprocess.crop
    return Tensor("UINT8", (side, side, 3)) if manifest.artifact.pixels else Tensor("FP32", (3, side, side))


def answer(server: Server, body: bytes, header: str | None) -> tuple[bytes, int | None]:
    """The body of the answer, and how many of its bytes are JSON where tensors follow them.

    header: the header HEADER_LENGTH, where the request has it. Raises ApiError.
    """
    import numpy as np

    model = server.model
    tensor = tensor_of(model)
    asked, binary = _parts(body, header, tensor)
    batch = _batch(asked, binary, tensor)
    wants_binary = _wants_binary(asked)
    logits = work.logits_of(server, batch)
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(logits.shape)}
    answer: dict[str, Any] = {
        "model_name": model.bundle.manifest.name,
        "model_version": model.version,
        "outputs": [output],
    }
    if isinstance(asked.get("id"), str):
        answer["id"] = asked["id"]
    if wants_binary:
        raw = logits.astype("<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(answer).encode()
        return head + raw, len(head)
    if not np.isfinite(logits).all():
        raise _bad("the logits of these numbers are not finite, which JSON cannot say: ask for binary data")
    output["data"] = logits.ravel().tolist()
    return json.dumps(answer).encode(), None


def _parts(body: bytes, header: str | None, tensor: Tensor) -> tuple[dict[str, Any], bytes]:
    length = len(body)
    if header is not None:
        # Not longer than a number of bytes can be: Python refuses to read endless ones.
        if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= len(body)):
            raise _bad(f"{HEADER_LENGTH} must be the number of bytes of JSON that the body begins with")
        length = int(header)
    if length > MAX_JSON_BYTES:
        raise ApiError(
            413,
            "body-too-large",
            f"the JSON is larger than {MAX_JSON_BYTES / 1e6:g} MB: send the tensor as binary data",
        )
    text = body[:length]
    _check_counts(text, tensor)
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad("the body is not JSON") from None
    if not isinstance(asked, dict):
        raise _bad("the body is not a JSON object")
    return asked, body[length:]


def _check_counts(text: bytes, tensor: Tensor) -> None:
    """Before they are made: a list of empty lists takes twenty times the memory that its text takes, and a
    million keys stop every thread for as long as they are read."""
    first, second, _ = tensor.shape
    numbers, lists = MAX_ROWS * math.prod(tensor.shape), MAX_ROWS * (1 + first + first * second)
    too_many = (
        text.count(b",") > numbers + SPARE
        or text.count(b"[") + text.count(b"{") > lists + SPARE
        or text.count(b'"') > SPARE
    )
    if too_many:
        raise _bad(f"the body holds more than the numbers of {MAX_ROWS} photos")


def _batch(asked: dict[str, Any], binary: bytes, tensor: Tensor) -> "NDArray[Any]":
    import numpy as np

    given = asked.get("inputs")
    if not (isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict)):
        raise _bad(f"`inputs` must be a list of one tensor, `{INPUT}`")
    (one,) = given
    shape = one.get("shape")
    if one.get("name") != INPUT:
        raise _bad(f"the input is called `{INPUT}`")
    if one.get("datatype") != tensor.datatype:
        raise _bad(f"`{INPUT}` is {tensor.datatype}")
    fits = (
        isinstance(shape, list)
        and all(type(side) is int for side in shape)
        and tuple(shape[1:]) == tensor.shape
    )
    if not fits or not 1 <= shape[0] <= MAX_ROWS:
        raise _bad(
            f"the shape of `{INPUT}` is [n, {', '.join(map(str, tensor.shape))}], n from 1 to {MAX_ROWS}"
        )
    kind = np.dtype("<f4" if tensor.datatype == "FP32" else "u1")
    size = _parameter(one, "binary_data_size")
    if size is not None:
        if size != shape[0] * tensor.row_bytes or len(binary) != size:
            raise _bad(f"binary_data_size and the bytes after the JSON must be {shape[0] * tensor.row_bytes}")
        return np.frombuffer(binary, kind).reshape(shape)
    return _numbers(one.get("data"), shape, kind)


def _numbers(data: object, shape: list[int], kind: "np.dtype[Any]") -> "NDArray[Any]":
    import numpy as np

    problem = _bad(f"`data` must hold the {math.prod(shape)} numbers of the tensor, flat or nested")
    if not isinstance(data, list) or not _only_numbers(data, len(shape)):
        raise problem
    try:
        found = np.asarray(data)
    except (ValueError, OverflowError):
        raise problem from None
    if found.dtype.kind not in "iuf" or found.shape not in ((math.prod(shape),), tuple(shape)):
        raise problem
    if kind.kind == "u" and (found.dtype.kind == "f" or found.min() < 0 or found.max() > 255):
        raise _bad("`data` must hold whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        return found.astype(kind).reshape(shape)


def _only_numbers(data: list[Any], depth: int) -> bool:
    """In lists of at most `depth` levels. Asked before numpy sees them: it gives every number the room of
    the longest text beside it, gigabytes for a megabyte that was sent."""
    kinds = set(map(type, data))
    if kinds == {list} and depth > 1:
        return all(_only_numbers(inner, depth - 1) for inner in data)
    return kinds <= {int, float}


def _wants_binary(asked: dict[str, Any]) -> bool:
    wanted = _parameter(asked, "binary_data_output") is True
    outputs = asked.get("outputs", [])
    if not (isinstance(outputs, list) and all(isinstance(output, dict) for output in outputs)):
        raise _bad(f"`outputs` must be a list of tensors; there is `{OUTPUT}`")
    for output in outputs:
        if output.get("name") != OUTPUT:
            raise _bad(f"the only output is `{OUTPUT}`")
        said = _parameter(output, "binary_data")
        wanted = said is True if said is not None else wanted
        if _parameter(output, "classification"):
            raise _bad("classification is what /predict is for")
    return wanted


def _parameter(tensor: dict[str, Any], name: str) -> object:
    parameters = tensor.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _bad("`parameters` must be an object")
    found: object = parameters.get(name)
    return found


def _bad(message: str) -> ApiError:
    return ApiError(422, "bad-tensor", message)
