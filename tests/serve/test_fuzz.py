"""The server does what its own OpenAPI description says, whatever a machine thinks up to send.

schemathesis makes requests that fit the description and requests that do not, and holds the answers to it.
"""

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

schemathesis = pytest.importorskip("schemathesis", reason="it reads the description and makes the requests")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi import checks as openapi  # noqa: E402

from serve.app import create_app  # noqa: E402
from serve.http import upload  # noqa: E402
from serve.settings import Settings  # noqa: E402
from tests.serving import (  # noqa: E402
    CLASS_NAMES,
    Running,
    encoded,
    error_code,
    noise,
    ready,
)

pytestmark = pytest.mark.integration

PHOTOS = [encoded(noise(seed), form) for seed, form in enumerate(("JPEG", "PNG", "WEBP"))]
# What a description cannot say of bytes: that they are a photo.
schemathesis.openapi.format("binary", st.sampled_from(PHOTOS))
schemathesis.openapi.format("byte", st.sampled_from([b64encode(photo).decode() for photo in PHOTOS]))

DESCRIBED = create_app(Settings()).openapi()
OPERATIONS = [(path, method) for path, methods in DESCRIBED["paths"].items() for method in methods]
WITH_BODY = [
    (path, method) for path, method in OPERATIONS if "requestBody" in DESCRIBED["paths"][path][method]
]
CHECKED = [
    not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
    openapi.negative_data_rejection,
    openapi.positive_data_acceptance,
    openapi.missing_required_header,
    openapi.unsupported_method,
    openapi.allow_header_conformance,
]
KNOWN = {"name": "leaf", "version": "1.0.0"}


def quick(examples: int) -> settings:
    """No shrinking: it would take longer than all the rest, and the examples are small."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def server(registry: Path) -> Iterator[Running]:
    with ready(Settings(registry=registry, queue_budget_s=60)) as server:
        yield server
        assert server.post(PHOTOS[0]).json()["class_name"] in CLASS_NAMES


@pytest.fixture(scope="module")
def schema(server: Running) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def name_ours(case: Any) -> None:
    case.path_parameters = {name: KNOWN[name] for name in case.path_parameters or {}}


def ids(operations: list[tuple[str, str]]) -> list[str]:
    return [f"{method} {path}" for path, method in operations]


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=ids(OPERATIONS))
def test_a_request_that_fits_the_description_is_answered_as_described(
    schema: Any, path: str, method: str
) -> None:
    operation = schema[path][method]
    # The numbers of a tensor have to be as many as its shape says, which no description can say either.
    excluded = [openapi.positive_data_acceptance] if path.endswith("/infer") else []

    @quick(15)
    @given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), st.booleans())
    def check(case: Any, known: bool) -> None:
        if known:
            name_ours(case)
        case.call_and_validate(checks=CHECKED, excluded_checks=excluded, timeout=10)

    check()


@pytest.mark.parametrize(("path", "method"), WITH_BODY, ids=ids(WITH_BODY))
def test_a_request_that_does_not_fit_the_description_is_refused_as_described(
    schema: Any, path: str, method: str
) -> None:
    operation = schema[path][method]

    @quick(60)
    @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        # Else it would be another model before it is anything else.
        name_ours(case)
        case.call_and_validate(checks=CHECKED, timeout=10)

    check()


def test_inference_is_answered_as_described_in_numbers_and_in_bytes(schema: Any) -> None:
    operation = schema["/v2/models/{name}/infer"]["POST"]

    @quick(20)
    @given(rows=st.integers(1, 4), number=st.floats(-3, 3, width=32), binary=st.booleans(), name=st.text())
    def check(rows: int, number: float, binary: bool, name: str) -> None:
        tensor = {
            "name": "image",
            "datatype": "FP32",
            "shape": [rows, 3, 32, 32],
            "data": [number] * (rows * 3072),
        }
        case = operation.Case(
            path_parameters={"name": "leaf"},
            body={"id": name, "inputs": [tensor], "parameters": {"binary_data_output": binary}},
            media_type="application/json",
        )
        answer = case.call_and_validate(checks=CHECKED, timeout=10)
        assert answer.status_code == 200
        length = answer.headers.get("inference-header-content-length")
        said = json.loads(answer.content[: int(length[0])] if length else answer.content)
        assert (said["id"], said["outputs"][0]["shape"]) == (name, [rows, len(CLASS_NAMES)])

    check()


def test_everything_that_is_described_is_described_in_our_own_shapes() -> None:
    schemas = DESCRIBED["components"]["schemas"]
    assert not {"HTTPValidationError", "ValidationError"} & set(schemas), (
        "FastAPI's own errors are never sent"
    )
    for path, method in OPERATIONS:
        for status, answer in DESCRIBED["paths"][path][method]["responses"].items():
            if status != "200":
                (shape,) = answer["content"].values()
                name = "ProtocolError" if path.startswith(("/v1", "/v2")) else "ErrorBody"
                assert shape["schema"] == {"$ref": f"#/components/schemas/{name}"}, (path, status)


# The field `file`

REFUSED = {(415, "unsupported-image"), (422, "empty-image"), (422, "broken-image"), (422, "image-too-large")}


@quick(150)
@given(content=st.binary(max_size=2000))
@pytest.mark.parametrize("begin", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "])
def test_bytes_that_are_no_photo_are_refused(server: Running, begin: bytes, content: bytes) -> None:
    answer = server.post(begin + content)
    assert (answer.status_code, error_code(answer)) in REFUSED


@quick(200)
@given(
    photo=st.sampled_from(PHOTOS),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=8)), max_size=5),
    kept=st.integers(0, 10**6),
)
def test_a_photo_with_changed_bytes_is_a_photo_or_refused(
    server: Running, photo: bytes, changes: list[tuple[int, bytes]], kept: int
) -> None:
    changed = bytearray(photo)
    for place, new in changes:
        place %= len(changed)
        changed[place : place + len(new)] = new
    answer = server.post(bytes(changed[: kept % (len(changed) + 1)] if kept % 2 else changed))
    if answer.status_code == 200:
        assert answer.json()["class_name"] in CLASS_NAMES
    else:
        assert (answer.status_code, error_code(answer)) in REFUSED


PIECES = [b"--b", b"\r\n", b"--", b": ", b"\0", b'"', b"Content-Type: image/png", PHOTOS[0]]
PIECES += [b"Content-Disposition: form-data", b'; name="file"', b'; filename="a"']


@quick(200)
@given(body=st.lists(st.sampled_from(PIECES) | st.binary(max_size=10), max_size=20).map(b"".join))
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_pieces_of_a_form_in_any_order_never_make_it_fail(server: Running, path: str, body: bytes) -> None:
    answer = server.client.post(
        path, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code in (200, 415, 422)
    if answer.status_code != 200:
        error_code(answer)


HEADERS = [
    b'Content-Disposition: form-data; name="file"; filename="a"',
    b"content-disposition:form-data;name=file;filename=a",
    b'Content-Disposition : form-data; name="file"; filename="a"',
    b' Content-Disposition: form-data; name="file"; filename="a"',
    b'Content-Disposition: form-data; name="file"; filename="',
    b'Content-Disposition: form-data; name="file"; filename="a;b\\""',
    b'Content-Disposition: form-data; name="file"',
    b'Content-Disposition: form-data; name="x"; filename="a"',
    b"Content-Type: image/png",
    b"Content-Type: a\0b",
    b"Content-Length:",
    b"X: a\nb",
    b"X: a\rb",
    b": x",
    b"",
]


@quick(1000)
@given(
    headers=st.lists(st.sampled_from(HEADERS) | st.binary(max_size=6), max_size=4),
    content=st.sampled_from([b"", b"photo", b"--b", b"\r\n", b"\r\n--", b"\r\n--b--", b"\r\n--bb", b"--b--"]),
    boundary=st.sampled_from([b"b", b"b" * 71, b"a b", b"-", b"\r\n"]),
    around=st.tuples(
        st.sampled_from([b"", b"\r\n", b"x\r\n"]), st.sampled_from([b"--\r\n", b"--", b"", b"--\r\nx"])
    ),
)
def test_the_short_way_to_a_photo_leads_to_the_one_the_parser_finds(
    headers: list[bytes], content: bytes, boundary: bytes, around: tuple[bytes, bytes]
) -> None:
    before, after = around
    head = b"\r\n".join([before + b"--" + boundary, *headers])
    body = head + b"\r\n\r\n" + content + b"\r\n--" + boundary + after
    if (photo := upload._only_part(body, boundary)) is not None:
        assert [bytes(found) for _, _, found in upload._parse(body, boundary, 1).files] == [photo]
