"""The Open Inference Protocol as its clients speak it: NVIDIA's own for Triton, and plain JSON."""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, load_from_string

triton = pytest.importorskip("tritonclient.http", reason="it is the client")

from serve.settings import Settings  # noqa: E402
from tests.serving import (  # noqa: E402
    CLASS_NAMES,
    CONTRACT,
    Running,
    draft,
    encoded,
    noise,
    onnx_session,
    publish_bytes,
    ready,
    running,
    tiny_onnx,
)
from workbench import __version__  # noqa: E402
from workbench.photos.preprocess import preprocess  # noqa: E402
from workbench.registry.store import Registry  # noqa: E402

pytestmark = pytest.mark.integration

InferenceServerException = triton.InferenceServerException

PHOTOS = [encoded(noise(seed), ("JPEG", "PNG", "WEBP")[seed % 3]) for seed in range(6)]


def connected(server: Running) -> Any:
    return triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with connected(server) as client:
        yield client


@pytest.fixture(scope="module")
def batch() -> NDArray[np.float32]:
    """(6, 3, 32, 32): the photos as the workbench prepares them."""
    return np.concatenate([preprocess(photo, CONTRACT) for photo in PHOTOS])


@pytest.fixture(scope="module")
def logits(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """(6, classes) of onnxruntime itself, one photo after the other."""
    session = onnx_session(tiny_onnx())
    return np.concatenate([session(batch[row : row + 1]) for row in range(len(batch))])


def image(batch: NDArray[Any], *, binary: bool = True, datatype: str = "FP32", name: str = "image") -> Any:
    given = triton.InferInput(name, list(batch.shape), datatype)
    given.set_data_from_numpy(batch, binary_data=binary)
    return given


# Triton's client


def test_it_sees_a_server_that_is_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("leaf", "", True),
        ("leaf", "1.0.0", True),
        ("leaf", "1", False),
        ("leaf", "2.0.0", False),
        ("fern", "", False),
        ("fern", "1.0.0", False),
        ("../models/fern", "", False),
    ],
)
def test_it_sees_which_model_is_ready(client: Any, name: str, version: str, ready: bool) -> None:
    assert client.is_model_ready(name, version) is ready


def test_it_reads_what_the_server_is(client: Any) -> None:
    assert client.get_server_metadata() == {
        "name": "krishi-bench",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }


@pytest.mark.parametrize("version", ["", "1.0.0"])
def test_it_reads_what_the_model_takes_and_gives(client: Any, version: str) -> None:
    assert client.get_model_metadata("leaf", version) == {
        "name": "leaf",
        "versions": ["1.0.0"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 32, 32]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, len(CLASS_NAMES)]}],
    }


@pytest.mark.parametrize("binary_in", [True, False], ids=["bytes in", "numbers in"])
@pytest.mark.parametrize("binary_out", [True, False, None], ids=["bytes out", "numbers out", "nothing asked"])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_its_logits_are_the_sessions_bit_for_bit(
    client: Any,
    batch: NDArray[np.float32],
    logits: NDArray[np.float32],
    rows: int,
    binary_in: bool,
    binary_out: bool | None,
) -> None:
    wanted = None if binary_out is None else [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    answer = client.infer("leaf", [image(batch[:rows], binary=binary_in)], outputs=wanted, request_id="mine")
    found = answer.as_numpy("logits")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, logits[:rows])
    said = answer.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("leaf", "1.0.0", "mine")


def test_its_classes_are_those_of_predict(server: Running, client: Any, batch: NDArray[np.float32]) -> None:
    found = client.infer("leaf", [image(batch)], "1.0.0").as_numpy("logits").argmax(1)
    predicted = [server.post(photo).json()["class_id"] for photo in PHOTOS]
    assert found.tolist() == predicted
    assert len(set(predicted)) > 1


def test_what_it_asks_for_at_the_same_time_comes_back_in_its_place(
    client: Any, batch: NDArray[np.float32], logits: NDArray[np.float32]
) -> None:
    pending = [client.async_infer("leaf", [image(batch[row : row + 1])]) for row in range(len(batch))]
    found = [one.get_result().as_numpy("logits") for one in pending]
    np.testing.assert_array_equal(np.concatenate(found), logits)


def test_it_may_ask_for_a_compressed_answer_and_gets_a_plain_one(
    client: Any, batch: NDArray[np.float32], logits: NDArray[np.float32]
) -> None:
    answer = client.infer("leaf", [image(batch)], response_compression_algorithm="gzip")
    np.testing.assert_array_equal(answer.as_numpy("logits"), logits)


def test_32_rows_are_the_most(client: Any, batch: NDArray[np.float32]) -> None:
    many = np.concatenate([batch] * 6)
    assert client.infer("leaf", [image(many[:32])]).as_numpy("logits").shape == (32, len(CLASS_NAMES))
    with pytest.raises(InferenceServerException, match="n from 1 to 32"):
        client.infer("leaf", [image(many[:33])])


def test_its_errors_are_exceptions_with_our_message(client: Any, batch: NDArray[np.float32]) -> None:
    one, turned = image(batch), image(batch[:, :, :16])
    float64 = image(batch.astype(np.float64), datatype="FP64")
    classes = triton.InferRequestedOutput("classes")
    three_classes = triton.InferRequestedOutput("logits", class_count=3)
    shape = "the shape of `image` is [n, 3, 32, 32], n from 1 to 32"
    infer = partial(client.infer, "leaf")
    refused: list[tuple[str, str, Callable[[], object]]] = [
        ("404", "this server serves leaf 1.0.0", lambda: client.infer("fern", [one])),
        ("404", "this server serves leaf 1.0.0", lambda: infer([one], "2.0.0")),
        ("404", "this server serves leaf 1.0.0", lambda: client.get_model_metadata("fern")),
        ("404", "there is nothing at this path", lambda: client.get_model_config("leaf")),
        ("422", "the input is called `image`", lambda: infer([image(batch, name="photo")])),
        ("422", "`inputs` must be a list of one tensor, `image`", lambda: infer([one, one])),
        ("422", "`image` is FP32", lambda: infer([float64])),
        ("422", shape, lambda: infer([turned])),
        ("422", "the only output is `logits`", lambda: infer([one], outputs=[classes])),
        ("422", "classification is what /predict is for", lambda: infer([one], outputs=[three_classes])),
        ("415", "send the body uncompressed", lambda: infer([one], request_compression_algorithm="gzip")),
    ]
    for status, message, ask in refused:
        with pytest.raises(InferenceServerException) as raised:
            ask()
        assert (raised.value.status(), raised.value.message()) == (status, message)


# Plain JSON, as the protocol's description has it


def tensor(data: Any, rows: int = 1) -> dict[str, Any]:
    return {"name": "image", "shape": [rows, 3, 32, 32], "datatype": "FP32", "data": data}


def test_a_request_of_the_protocols_description_is_answered_as_it_says(
    server: Running, batch: NDArray[np.float32], logits: NDArray[np.float32]
) -> None:
    asked = {"id": "42", "inputs": [tensor(batch[0].ravel().tolist())], "outputs": [{"name": "logits"}]}
    answer = server.client.post("/v2/models/leaf/infer", json=asked)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == "1.0.0"
    assert answer.json() == {
        "model_name": "leaf",
        "model_version": "1.0.0",
        "id": "42",
        "outputs": [
            {
                "name": "logits",
                "datatype": "FP32",
                "shape": [1, len(CLASS_NAMES)],
                "data": logits[0].astype(np.float64).tolist(),
            }
        ],
    }


def test_nested_numbers_are_the_same_as_flat_ones(server: Running, batch: NDArray[np.float32]) -> None:
    flat, nested = (
        server.client.post("/v2/models/leaf/versions/1.0.0/infer", json={"inputs": [tensor(data, 2)]}).json()
        for data in (batch[:2].ravel().tolist(), batch[:2].tolist())
    )
    assert flat == nested
    assert "id" not in flat


def test_numbers_nested_in_another_order_are_not_the_tensor(
    server: Running, batch: NDArray[np.float32]
) -> None:
    turned = batch[:1].transpose(0, 2, 3, 1).tolist()
    response = server.client.post("/v2/models/leaf/infer", json={"inputs": [tensor(turned, 1)]})
    assert (response.status_code, response.json()["code"]) == (422, "bad-tensor")


def test_a_text_among_the_numbers_takes_no_memory(server: Running, batch: NDArray[np.float32]) -> None:
    """numpy would give each number the room of the text: 12 GB here, for a body of 1 MB."""
    data = [*batch[0].ravel().tolist()[1:], "a" * 1_000_000]
    for numbers in (data, [data], [[[data]]]):
        response = server.client.post("/v2/models/leaf/infer", json={"inputs": [tensor(numbers, 1)]})
        assert (response.status_code, response.json()["code"]) == (422, "bad-tensor")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/leaf/ready", {"name": "leaf", "ready": True}),
        ("/v2/models/leaf/versions/1.0.0/ready", {"name": "leaf", "ready": True}),
    ],
)
def test_health_is_json(server: Running, path: str, body: dict[str, Any]) -> None:
    assert server.client.get(path).json() == body


def test_an_error_has_its_text_where_the_protocol_wants_it(server: Running) -> None:
    answer = server.client.get("/v2/models/fern")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "this server serves leaf 1.0.0",
        "code": "not-found",
        "request_id": answer.headers["x-request-id"],
    }


def test_a_query_does_not_choose_a_version(server: Running) -> None:
    assert server.client.get("/v2/models/leaf?version=9.9.9").json()["versions"] == ["1.0.0"]


# A model that takes pixels


def pixels_onnx() -> bytes:
    """The tiny model behind a layer that normalises uint8 pixels itself, roughly."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Constant", [], ["scale"], value_float=1 / 64),
            helper.make_node("Mul", ["planes", "scale"], ["normal"]),
        ],
        "pixels",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 32, 32, 3])],
        [helper.make_tensor_value_info("normal", TensorProto.FLOAT, ["n", 3, 32, 32])],
    )
    first = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    first.ir_version = 8
    second = compose.add_prefix(load_from_string(tiny_onnx()), "tiny_")
    merged = compose.merge_models(first, second, io_map=[("normal", "tiny_image")])
    for node in merged.graph.node:
        node.output[:] = ["logits" if name == "tiny_logits" else name for name in node.output]
    merged.graph.output[0].name = "logits"
    data: bytes = merged.SerializeToString()
    return data


@pytest.fixture(scope="module")
def pixel_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("pixels") / "registry"
    data = pixels_onnx()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)

    made = draft(data, "1.0.0")
    info = made.artifact.model_copy(update={"pixels": True, "sha256": hashlib.sha256(data).hexdigest()})
    made = made.model_copy(update={"artifact": info})
    publish_bytes(root, made, data, pixels, onnx_session(data)(pixels))
    Registry(root).point("leaf", "production", "1.0.0", reason="test", expected=None)
    with ready(Settings(registry=root)) as server:
        yield server


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "numbers"])
def test_a_model_that_takes_pixels_gets_them_as_they_are(pixel_server: Running, binary: bool) -> None:
    pixels = np.concatenate([preprocess(photo, CONTRACT, raw=True) for photo in PHOTOS])
    session = onnx_session(pixels_onnx())
    expected = np.concatenate([session(pixels[row : row + 1]) for row in range(len(pixels))])
    with connected(pixel_server) as client:
        (described,) = client.get_model_metadata("leaf")["inputs"]
        assert described == {"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
        answer = client.infer("leaf", [image(pixels, binary=binary, datatype="UINT8")])
    np.testing.assert_array_equal(answer.as_numpy("logits"), expected)
    predicted = [pixel_server.post(photo).json()["class_id"] for photo in PHOTOS]
    assert expected.argmax(1).tolist() == predicted


@pytest.mark.parametrize("number", [-1, 256, 0.5, 1e3, True])
def test_numbers_that_are_no_pixels_are_refused(pixel_server: Running, number: float) -> None:
    data = [number] * 3072
    asked = {"inputs": [{"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": data}]}
    answer = pixel_server.client.post("/v2/models/leaf/infer", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad-tensor")


# With a key


def test_models_are_behind_the_key_and_health_is_not(registry: Path) -> None:
    with ready(Settings(registry=registry, api_key="a key of ours")) as server, connected(server) as client:
        assert client.is_server_ready()
        assert not client.is_model_ready("leaf")
        with pytest.raises(InferenceServerException, match="send the API key"):
            client.get_model_metadata("leaf")
        key = {"Authorization": "Bearer a key of ours"}
        assert client.is_model_ready("leaf", headers=key)
        assert client.get_model_metadata("leaf", headers=key)["versions"] == ["1.0.0"]


def test_before_there_is_a_model_it_is_not_ready_and_says_why(tmp_path: Path) -> None:
    with running(Settings(registry=tmp_path)) as server:
        with connected(server) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready("leaf")
        answer: httpx.Response = server.client.post("/v2/models/leaf/infer", content=json.dumps({}))
    assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
    assert int(answer.headers["retry-after"]) > 0
