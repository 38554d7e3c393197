"""The bodies of `POST /v2/models/{name}/infer`: JSON and bytes to a tensor, logits to JSON or bytes."""

import json
import math
from typing import TYPE_CHECKING, Any

from serve.engine.model import Model
from serve.engine.predict_job import ServedModel, compute_logits
from serve.errors import ApiError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INPUT = "image"  # the output is called by what the network gives: `logits`, or `probabilities`
MAX_ROWS = 32
MAX_JSON_BYTES = 6_000_000  # no other thread runs while JSON is parsed, health included: 0.3 s for 24 MB
EXTRA_TOKENS = 1000  # commas, brackets and quotes besides those of the tensor
HEADER_LENGTH = "inference-header-content-length"
DTYPES = {"FP32": "<f4", "UINT8": "u1"}  # as numpy calls them


def input_spec(model: Model) -> tuple[str, tuple[int, ...]]:
    """Datatype and shape of one row of the model's input."""
    manifest = model.bundle.manifest
    size = manifest.preprocess.size
    if manifest.artifact.pixels:
        return "UINT8", (*size, 3)
    return "FP32", (3, *size)


def run_request(served: ServedModel, body: bytes, header: str | None) -> tuple[bytes, int | None]:
    """Compute a request. Returns the answer's body, and how many of its bytes are JSON where tensors follow.

    header: the header HEADER_LENGTH, where the request has it. Raises ApiError. Called in a thread: reading
    numbers from JSON takes longer than a network.
    """
    import numpy as np

    model = served.model
    datatype, row_shape = input_spec(model)
    request, binary = _split(body, header, row_shape)
    batch = _batch(request, binary, datatype, row_shape)
    name = model.bundle.manifest.outputs
    wants_binary = _wants_binary(request, name)
    logits = compute_logits(served, batch)
    output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(logits.shape)}
    answer: dict[str, Any] = {
        "model_name": model.bundle.manifest.name,
        "model_version": model.version,
        "outputs": [output],
    }
    if isinstance(request.get("id"), str):
        answer["id"] = request["id"]
    if wants_binary:
        raw = logits.astype("<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(answer).encode()
        return head + raw, len(head)
    if not np.isfinite(logits).all():
        raise _bad(
            "the logits of these numbers are not finite, which JSON cannot represent: ask for binary data"
        )
    output["data"] = logits.ravel().tolist()
    return json.dumps(answer).encode(), None


def _split(body: bytes, header: str | None, row_shape: tuple[int, ...]) -> tuple[dict[str, Any], bytes]:
    """The JSON object that the body begins with, and the bytes after it."""
    length = len(body)
    if header is not None:
        # Bounded, because int() raises ValueError for thousands of digits.
        if not (header.isascii() and header.isdigit() and len(header) < 20 and int(header) <= len(body)):
            raise _bad(f"{HEADER_LENGTH} must be the number of bytes of JSON that the body begins with")
        length = int(header)
    if length > MAX_JSON_BYTES:
        message = f"the JSON is larger than {MAX_JSON_BYTES / 1e6:g} MB: send the tensor as binary data"
        raise ApiError(413, "body-too-large", message)
    text = body[:length]
    _check_counts(text, row_shape)
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad("the body is not JSON") from None
    if not isinstance(request, dict):
        raise _bad("the body is not a JSON object")
    return request, body[length:]


def _check_counts(text: bytes, row_shape: tuple[int, ...]) -> None:
    """Raise ApiError where the text has more values, lists or keys than the largest tensor."""
    # Counted before parsing: a list of empty lists takes twenty times the memory of its text, and a million
    # keys stop every thread for as long as they are parsed.
    first, second, _ = row_shape
    numbers, lists = MAX_ROWS * math.prod(row_shape), MAX_ROWS * (1 + first + first * second)
    if (
        text.count(b",") > numbers + EXTRA_TOKENS
        or text.count(b"[") + text.count(b"{") > lists + EXTRA_TOKENS
        or text.count(b'"') > EXTRA_TOKENS
    ):
        raise _bad(f"the body holds more numbers, lists or strings than a tensor of {MAX_ROWS} photos")


def _batch(
    request: dict[str, Any], binary: bytes, datatype: str, row_shape: tuple[int, ...]
) -> "NDArray[Any]":
    import numpy as np

    inputs = request.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise _bad(f"`inputs` must be a list of one tensor, `{INPUT}`")
    (tensor,) = inputs
    shape = tensor.get("shape")
    if tensor.get("name") != INPUT:
        raise _bad(f"the input is called `{INPUT}`")
    if tensor.get("datatype") != datatype:
        raise _bad(f"`{INPUT}` is {datatype}")
    if (
        not isinstance(shape, list)
        or any(type(side) is not int for side in shape)
        or tuple(shape[1:]) != row_shape
        or not 1 <= shape[0] <= MAX_ROWS
    ):
        sides = ", ".join(map(str, row_shape))
        raise _bad(f"the shape of `{INPUT}` is [n, {sides}], n from 1 to {MAX_ROWS}")
    kind = np.dtype(DTYPES[datatype])
    if (size := _parameter(tensor, "binary_data_size")) is not None:
        expected = math.prod(shape) * kind.itemsize
        if size != expected or len(binary) != size:
            raise _bad(f"binary_data_size and the bytes after the JSON must be {expected}")
        return np.frombuffer(binary, kind).reshape(shape)
    return _numbers(tensor.get("data"), shape, kind)


def _numbers(data: object, shape: list[int], kind: "np.dtype[Any]") -> "NDArray[Any]":
    import numpy as np

    problem = _bad(f"`data` must hold the {math.prod(shape)} numbers of the tensor, flat or nested")
    if not isinstance(data, list) or not _only_numbers(data, len(shape)):
        raise problem
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):
        raise problem from None
    if array.dtype.kind not in "iuf" or array.shape not in ((math.prod(shape),), tuple(shape)):
        raise problem
    if kind.kind == "u" and (array.dtype.kind == "f" or array.min() < 0 or array.max() > 255):
        raise _bad("`data` must hold whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        return array.astype(kind).reshape(shape)


def _only_numbers(data: list[Any], depth: int) -> bool:
    """Whether `data` holds only numbers, in lists of at most `depth` levels."""
    # Checked before numpy converts them: among texts it gives every number the room of the longest text,
    # gigabytes for a megabyte that was sent.
    kinds = set(map(type, data))
    if kinds == {list} and depth > 1:
        return all(_only_numbers(inner, depth - 1) for inner in data)
    return kinds <= {int, float}


def _wants_binary(request: dict[str, Any], name: str) -> bool:
    binary = _parameter(request, "binary_data_output") is True
    outputs = request.get("outputs", [])
    if not (isinstance(outputs, list) and all(isinstance(output, dict) for output in outputs)):
        raise _bad(f"`outputs` must be a list of tensors; there is `{name}`")
    for output in outputs:
        if output.get("name") != name:
            raise _bad(f"the only output is `{name}`")
        choice = _parameter(output, "binary_data")
        binary = choice is True if choice is not None else binary
        if _parameter(output, "classification"):
            raise _bad("classification is what /predict is for")
    return binary


def _parameter(tensor: dict[str, Any], name: str) -> object:
    parameters = tensor.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _bad("`parameters` must be an object")
    return parameters.get(name)


def _bad(message: str) -> ApiError:
    return ApiError(422, "bad-tensor", message)
