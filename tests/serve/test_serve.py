"""The server over real HTTP: what it answers, what it refuses, how it starts and how it ends."""

import gc
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from serve.engine.model import Model
from serve.http.schemas import BatchPrediction, Prediction
from serve.settings import Settings
from tests.load import sample
from tests.serving import (
    CLASS_NAMES,
    CONTRACT,
    END,
    MULTIPART,
    PREDICTION_KEYS,
    ROOT,
    Running,
    ServerProcess,
    encoded,
    error_code,
    noise,
    not_ready,
    part,
    png_claiming,
    publish,
    ready,
    running,
    server_process,
    wait_for,
    wait_until_ready,
)
from workbench.backends.table import BACKENDS
from workbench.photos.preprocess import preprocess
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def process(registry: Path) -> Iterator[ServerProcess]:
    with server_process(registry) as process:
        yield process


# Predictions


def test_a_prediction_has_the_promised_fields_in_order(server: Running) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    response = server.post(encoded(noise(1)))
    assert response.status_code == 200
    body = response.json()
    assert list(body) == PREDICTION_KEYS
    assert body["class_name"] == CLASS_NAMES[body["class_id"]]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
    assert before <= datetime.fromisoformat(body["timestamp"]) <= datetime.now(UTC)
    assert body["model_version"] == response.headers["x-model-version"] == "1.0.0"


@pytest.mark.parametrize("query", ["", "?top_k=3", "?threshold=1", "?top_k=100&threshold=1"])
def test_every_answer_fits_its_schema(server: Running, query: str) -> None:
    photo, no_photo = encoded(noise(1)), b"no photo"
    one = server.client.post(f"/predict{query}", files={"file": photo})
    described = Prediction.model_validate_json(one.content)
    assert list(one.json()) == [name for name, value in described if value is not None]
    many = server.client.post(f"/predict/batch{query}", files=[("files", photo), ("files", no_photo)])
    batch = BatchPrediction.model_validate_json(many.content)
    assert [entry.error is None for entry in batch.predictions] == [True, False]
    assert batch.predictions[0].top == described.top
    assert batch.predictions[0].uncertain == described.uncertain


def test_the_answer_is_the_models_own(server: Running, registry: Path) -> None:
    bundle = Registry(registry).resolve("leaf", "production")
    classes = set()
    with BACKENDS["onnxruntime"].session(bundle.artifact, bundle.manifest.runtime) as session:
        for seed in range(12):
            photo = encoded(noise(seed), ("JPEG", "PNG", "WEBP")[seed % 3])
            logits = session.infer(preprocess(photo, CONTRACT))[0].astype(np.float64)
            probabilities = np.exp(logits) / np.exp(logits).sum()
            body = server.post(photo).json()
            assert body["class_id"] == logits.argmax()
            assert body["confidence"] == pytest.approx(probabilities.max(), rel=1e-9)
            assert 0 < body["confidence"] <= 1
            classes.add(body["class_id"])
    assert len(classes) >= 3


def test_a_photo_on_its_side_is_turned_upright_first(server: Running) -> None:
    upright = noise(5, 40, 64)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    expected = server.post(encoded(upright, "PNG")).json()
    assert server.post(encoded(lying, "PNG", exif=exif)).json()["confidence"] == expected["confidence"]
    assert server.post(encoded(lying, "PNG")).json()["confidence"] != expected["confidence"]


@pytest.mark.parametrize(
    "photo",
    [
        pytest.param(encoded(noise(2).convert("CMYK")), id="CMYK JPEG"),
        pytest.param(encoded(noise(2).convert("L")), id="grayscale JPEG"),
        pytest.param(
            encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16), "PNG"),
            id="16-bit PNG",
        ),
        pytest.param(
            encoded(noise(2).convert("P"), "PNG", transparency=bytes(range(256))), id="palette PNG with alpha"
        ),
        pytest.param(encoded(noise(2).convert("RGBA"), "WEBP", lossless=True), id="WebP with alpha"),
        pytest.param(
            encoded(noise(2), "AVIF") if features.check("avif") else b"",
            id="AVIF",
            marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF"),
        ),
        pytest.param(encoded(noise(2, 1, 1), "PNG"), id="one pixel"),
        pytest.param(encoded(noise(2, 3000, 2), "PNG"), id="3000 x 2"),
    ],
)
def test_unusual_photos_are_taken(server: Running, photo: bytes) -> None:
    assert server.post(photo).status_code == 200


def test_the_file_name_and_declared_type_do_not_matter(server: Running) -> None:
    files = {"file": ("Blatt \u00e4\u00f6.txt", encoded(noise(1), "PNG"), "text/plain")}
    assert server.client.post("/predict", files=files, data={"note": "ignored"}).status_code == 200


def test_sixteen_at_once_get_the_answers_they_get_alone(server: Running) -> None:
    photos = [encoded(noise(seed)) for seed in range(16)]
    alone = [server.post(photo).json()["confidence"] for photo in photos]
    with ThreadPoolExecutor(16) as pool:
        together = [response.json()["confidence"] for response in pool.map(server.post, photos)]
    assert together == alone


# What is refused


@pytest.mark.parametrize(
    ("photo", "status", "code"),
    [
        pytest.param(b"this is a text file\n" * 9, 415, "unsupported-image", id="text named .jpg"),
        pytest.param(encoded(noise(1), "GIF"), 415, "unsupported-image", id="GIF"),
        pytest.param(encoded(noise(1), "BMP"), 415, "unsupported-image", id="BMP"),
        pytest.param(b"", 422, "empty-image", id="empty"),
        pytest.param(encoded(noise(1))[:-400], 422, "broken-image", id="truncated JPEG"),
        pytest.param(encoded(noise(1), "PNG")[:-400], 422, "broken-image", id="truncated PNG"),
        pytest.param(encoded(noise(1), "WEBP")[:-200], 422, "broken-image", id="truncated WebP"),
        pytest.param(png_claiming(30000, 30000), 422, "image-too-large", id="claims 900 megapixels"),
        pytest.param(png_claiming(10000, 5001), 422, "image-too-large", id="claims 50.01 megapixels"),
    ],
)
def test_a_file_that_is_no_photo_is_refused(server: Running, photo: bytes, status: int, code: str) -> None:
    response = server.post(photo)
    assert (response.status_code, error_code(response)) == (status, code)
    assert "0x" not in response.text


FILE_PART = part('name="file"; filename="a.jpg"', encoded(noise(1)))
UPPER_CASE = "MULTIPART/FORM-DATA; BOUNDARY=b"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        pytest.param(MULTIPART, FILE_PART + END, 200, "", id="well formed"),
        pytest.param(UPPER_CASE, FILE_PART + b"--b--", 200, "", id="upper case, no last line end"),
        pytest.param(None, b"", 422, "missing-file", id="nothing at all"),
        pytest.param("image/jpeg", encoded(noise(1)), 200, "", id="bare photo"),
        pytest.param("IMAGE/PNG; x=y", encoded(noise(1)), 200, "", id="bare photo of another type"),
        pytest.param("image/gif", encoded(noise(1), "GIF"), 415, "unsupported-image", id="bare GIF"),
        pytest.param("application/octet-stream", encoded(noise(1)), 200, "", id="bare bytes"),
        pytest.param("image/jpeg", b"", 422, "empty-image", id="bare nothing"),
        pytest.param("application/json", b"{}", 415, "unsupported-media-type", id="JSON"),
        pytest.param(
            "application/x-www-form-urlencoded", b"file=x", 415, "unsupported-media-type", id="urlencoded"
        ),
        pytest.param(";;;", b"x", 415, "unsupported-media-type", id="senseless type"),
        pytest.param(MULTIPART, b"", 422, "bad-multipart", id="empty body"),
        pytest.param(MULTIPART, FILE_PART, 422, "bad-multipart", id="no closing boundary"),
        pytest.param(MULTIPART, b"\x00\xff" * 500, 422, "bad-multipart", id="binary junk"),
        pytest.param(MULTIPART, b"--b\r\n\r\nx\r\n" + END, 422, "missing-file", id="part without headers"),
        pytest.param(
            MULTIPART, part('name="image"; filename="a"') + END, 422, "missing-file", id="wrong field"
        ),
        pytest.param(MULTIPART, part('name="file"') + END, 422, "not-a-file", id="text field"),
        pytest.param(MULTIPART, FILE_PART * 2 + END, 422, "too-many-files", id="two files"),
    ],
)
def test_forms_are_taken_apart_strictly(
    server: Running, content_type: str | None, body: bytes, status: int, code: str
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = server.client.post("/predict", content=body, headers=headers)
    assert response.status_code == status, response.text
    if status != 200:
        assert error_code(response) == code


def test_unknown_paths_and_wrong_methods_have_the_same_shape(server: Running) -> None:
    for method, path, status, code in (
        ("GET", "/nope", 404, "not-found"),
        ("POST", "/predict/", 404, "not-found"),
        ("GET", "/predict", 405, "method-not-allowed"),
        ("POST", "/healthz", 405, "method-not-allowed"),
    ):
        response = server.client.request(method, path)
        assert (response.status_code, error_code(response)) == (status, code)


def test_a_request_id_is_taken_over_where_it_is_harmless(server: Running) -> None:
    assert server.client.get("/nope", headers={"X-Request-ID": "abc-1.2"}).json()["request_id"] == "abc-1.2"
    replaced = server.client.get("/nope", headers={"X-Request-ID": "a b<script>"}).json()["request_id"]
    assert re.fullmatch(r"[0-9a-f]{16}", replaced)


# Pillow warns of the damaged EXIF tags it skips.


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("tag", "kind"), [(0x011A, 2), (0x010E, 5), (0x0100, 1)])
def test_an_exif_tag_of_the_wrong_type_does_not_make_it_fail(server: Running, tag: int, kind: int) -> None:
    entries = struct.pack("<HHI4s", 0x0112, 3, 1, b"\6\0\0\0") + struct.pack("<HHI4s", tag, kind, 1, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    assert server.post(encoded(noise(1), exif=exif)).status_code in (200, 422)


def test_a_defect_of_ours_is_a_500_that_tells_nothing(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("serve.engine.predict_job.probabilities_of", broken)
    response = server.post(encoded(noise(1)))
    assert (response.status_code, error_code(response)) == (500, "internal")
    assert "secret" not in response.text
    assert response.json()["request_id"] in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


def test_where_one_photo_of_a_batch_fails_none_goes_on_behind_the_answer(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would work with a model that a swap may have closed by then, and wait for ever."""
    begun: list[int] = []
    batch = Model.batch

    def failing(model: Model, photo: bytes) -> Any:
        begun.append(1)
        if len(begun) == 1:
            raise ZeroDivisionError
        time.sleep(0.05)
        return batch(model, photo)

    monkeypatch.setattr("workbench.backends.base.usable_cores", lambda: 2)
    with ready(Settings(registry=registry)) as server:
        monkeypatch.setattr(Model, "batch", failing)
        photos = [("files", encoded(noise(1)))] * 8
        response = server.client.post("/predict/batch", files=photos)
        assert (response.status_code, error_code(response)) == (500, "internal")
        answered = len(begun)
        time.sleep(0.2)
        assert len(begun) == answered < 8


def test_a_refused_photo_leaves_nothing_that_only_the_collector_of_cycles_frees(registry: Path) -> None:
    """Errors hold frames, and frames hold photos: a cycle of them keeps megabytes until it is found."""
    form = {"Content-Type": MULTIPART}
    requests: dict[str, dict[str, Any]] = {
        "good": {"files": {"file": ("a.jpg", encoded(noise(1)), "image/jpeg")}},
        "no photo": {"files": {"file": ("a.jpg", b"x" * 200_000, "image/jpeg")}},
        "broken": {"files": {"file": ("a.jpg", encoded(noise(1))[:-400], "image/jpeg")}},
        "no form": {"content": b"x" * 1000, "headers": form},
        "two files": {"content": FILE_PART * 2 + END, "headers": form},
        "bad parameter": {"content": FILE_PART + END, "headers": form, "params": {"top_k": "x"}},
        "another type": {"content": b"{}", "headers": {"Content-Type": "application/json"}},
    }
    left = {}
    gc.freeze()  # what is there already: to look through all of it each time would take most of a minute
    with ready(Settings(registry=registry)) as server:
        for name, request in requests.items():
            server.client.post("/predict", **request)
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    server.client.post("/predict", **request)
                left[name] = gc.collect() / 20  # the client's own, mostly
            finally:
                gc.enable()
    gc.unfreeze()
    assert max(left.values()) < left["good"] + 10, left


# Starting


def test_readiness_waits_for_the_model(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    verify = Bundle.verify

    def slow_verify(bundle: Bundle) -> None:
        let_go.wait(15)
        verify(bundle)

    monkeypatch.setattr(Bundle, "verify", slow_verify)
    with running(Settings(registry=registry)) as server:
        try:
            assert server.client.get("/healthz").json() == {"status": "ok"}
            for response in (server.client.get("/readyz"), server.post(encoded(noise(1)))):
                assert response.status_code == 503
                assert response.headers["retry-after"] == "5"
            assert error_code(server.client.get("/readyz")) == "loading"
        finally:
            let_go.set()
        wait_until_ready(server.client)
        assert server.client.get("/readyz").json() == {"status": "ready", "name": "leaf", "version": "1.0.0"}
        assert server.post(encoded(noise(1))).status_code == 200


def test_with_no_model_it_says_why_and_takes_the_first_one_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    with running(Settings(registry=root, retry_s=0.05)) as server:
        promote = "publish one with `krishi-bench promote`"
        assert not_ready(server.client, "no-model") == f"the registry does not exist; {promote}"
        assert f"(in {root})" in caplog.text  # the place is for those who run it, not for clients
        for response in (server.post(encoded(noise(1))), server.client.get("/model")):
            assert (response.status_code, error_code(response)) == (503, "not-ready")
            assert "retry-after" in response.headers
        assert server.client.get("/healthz").status_code == 200
        publish(root)
        wait_until_ready(server.client)


def test_a_bundle_with_a_flipped_byte_is_not_served(tmp_path: Path) -> None:
    bundle = publish(tmp_path)
    path = bundle.artifact.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with running(Settings(registry=tmp_path)) as server:
        message = not_ready(server.client, "bad-model")
        assert "leaf/1.0.0/model.onnx: was changed since it was published" in message
        assert str(tmp_path) not in message
        assert server.post(encoded(noise(1))).status_code == 503


def test_a_model_that_does_not_reproduce_its_golden_logits_is_not_served(tmp_path: Path) -> None:
    publish(tmp_path, golden_error=0.5)
    with running(Settings(registry=tmp_path)) as server:
        message = not_ready(server.client, "bad-model")
        assert message.startswith("leaf 1.0.0 does not reproduce its golden logits: ")


def test_a_defect_while_loading_is_logged_and_not_shown(
    registry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Bundle) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Bundle, "verify", broken)
    with running(Settings(registry=registry)) as server:
        assert "secret" not in not_ready(server.client, "bad-model")
        assert server.client.get("/healthz").status_code == 200
    assert "ZeroDivisionError: secret" in caplog.text


def test_the_model_card_says_what_is_served(server: Running, registry: Path) -> None:
    card = server.client.get("/model").json()
    assert card["name"] == "leaf"
    assert card["digest"] == Registry(registry).resolve("leaf", "production").digest
    assert card["class_names"] == list(CLASS_NAMES)
    assert card["input"]["preprocess"] == CONTRACT.model_dump(mode="json")
    assert card["input"]["max_body_bytes"] == 10_000_000
    assert card["threads"] == 1
    assert card["measured"]["top1"] == 0.9
    assert card["measured"]["latency_p50_ms"] == 1.5


# Metrics


def test_metrics_count_what_happened(registry: Path) -> None:
    with ready(Settings(registry=registry)) as server:
        text = server.metrics()
        for class_id in range(len(CLASS_NAMES)):
            assert sample(text, f'predictions_total{{class_id="{class_id}"}}') == 0
        guessed = server.post(encoded(noise(1))).json()["class_id"]
        server.post(b"text")
        server.post(b"")
        server.client.post("/predict", content=b"x" * 10_000_001)
        server.client.get("/healthz")
        text = server.metrics()
    for code, count in (("200", 1), ("415", 1), ("422", 1), ("413", 1), ("503", 0)):
        assert sample(text, f'requests_total{{code="{code}"}}') == count
    assert sample(text, f'predictions_total{{class_id="{guessed}"}}') == 1
    assert sample(text, "inference_latency_seconds_count") == 1
    assert 'inference_latency_seconds_bucket{le="0.0075"}' in text
    for stage in ("queue", "decode", "infer", "total"):
        assert sample(text, f'request_stage_seconds_count{{stage="{stage}"}}') == 1
    assert sample(text, "inflight_requests") == 0
    assert re.search(r'^model_info\{backend="onnxruntime",.*version="1.0.0"\} 1.0$', text, re.MULTILINE)
    assert sample(text, "process_resident_memory_bytes") > 0
    assert "_created" not in text


# The real process


def test_it_is_ready_in_two_seconds_and_small(registry: Path) -> None:
    with server_process(registry) as process:
        ready_s = time.monotonic() - process.started_at
        files = {"file": ("a.jpg", encoded(noise(1, 6000, 4000), quality=50), "image/jpeg")}
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda _: process.client.post("/predict", files=files), range(4))
            assert [answer.status_code for answer in answers] == [200] * 4
        resident = sample(process.client.get("/metrics").text, "process_resident_memory_bytes")
    # Two seconds on a free machine; the tests run on busy ones.
    assert ready_s < 20
    assert 0 < resident < 250e6


def test_what_it_imports_stays_light(registry: Path) -> None:
    script = """
import sys
import serve.app
heavy = {"torch", "pandas", "typer", "onnx", "numpy", "onnxruntime", "uvicorn"} & set(sys.modules)
assert not heavy, heavy
assert "app" not in vars(serve.app)

from contextlib import closing
from pathlib import Path
from serve.engine.model import load_model
from workbench.registry.store import Registry
with closing(load_model(Registry(Path(sys.argv[1])).resolve("leaf", "production"))):
    heavy = {"torch", "pandas", "typer", "onnx"} & set(sys.modules)
assert not heavy, heavy
assert type(serve.app.app).__mro__[1].__name__ == "FastAPI"
assert serve.app.app is serve.app.app
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(registry)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_body_over_the_limit_is_refused_before_it_is_read(process: ServerProcess) -> None:
    response = process.client.post("/predict", files={"file": ("a.jpg", b"x" * 11_000_000, "image/jpeg")})
    assert (response.status_code, error_code(response)) == (413, "body-too-large")


def test_a_body_just_under_the_limit_is_read(process: ServerProcess) -> None:
    def chunks() -> Iterator[bytes]:
        head = part('name="file"; filename="a"', b"")[:-2]
        yield head
        yield b"x" * (10_000_000 - len(head) - len(b"\r\n" + END))
        yield b"\r\n" + END

    response = process.client.post("/predict", content=chunks(), headers={"Content-Type": MULTIPART})
    assert (response.status_code, error_code(response)) == (415, "unsupported-image")


def test_an_endless_body_does_not_fill_the_memory(process: ServerProcess) -> None:
    """The answer comes while the client is still sending, and the connection is closed under it later."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with socket.create_connection((process.host, process.port), timeout=10) as client:
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(400):
            client.sendall(chunk)
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    resident = sample(process.client.get("/metrics").text, "process_resident_memory_bytes")
    assert 0 < resident < 250e6


def test_a_client_that_goes_away_is_no_defect(process: ServerProcess) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection((process.host, process.port), timeout=10) as client:
        client.sendall(head + b"Content-Length: 1000\r\n\r\nhalf")
    wait_for(lambda: sample(process.client.get("/metrics").text, 'requests_total{code="499"}') == 1)


def test_a_head_that_does_not_arrive_is_given_up(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.http.http_limits.HEAD_S", 0.2)
    with ready(Settings(registry=registry)) as server:
        for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection(server.address, timeout=10) as client:
                client.sendall(sent)
                assert client.recv(100) == b""  # closed, without an answer to half a question


# Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_zero_even_when_nothing_could_be_loaded(tmp_path: Path, number: int) -> None:
    process = ServerProcess(tmp_path / "none", KRISHI_DRAIN_DELAY="0")
    not_ready(process.client, "no-model")
    assert process.end(number) == 0, process.log


def test_a_second_ctrl_c_before_it_began_to_end_is_no_defect(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path / "none", KRISHI_DRAIN_DELAY="0")
    not_ready(process.client, "no-model")
    process.process.send_signal(signal.SIGINT)
    assert process.end(signal.SIGINT) == 0, process.log
    assert "Traceback" not in process.log


def test_wrong_settings_are_one_clear_message(registry: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for setting, message in (
            ({"KRISHI_PORT": port}, f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"),
            ({"KRISHI_PORT": "http"}, "error: KRISHI_PORT='http': Input should be a valid integer"),
            (
                {"KRISHI_DRAIN_DELAY": "-1"},
                "error: KRISHI_DRAIN_DELAY='-1': Input should be greater than or equal to 0\n"
                "hint: Seconds between SIGTERM and closing the port",
            ),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "serve"],
                cwd=ROOT,
                env={**os.environ, **setting},
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 2
            assert done.stderr.startswith(message)
            assert "Traceback" not in done.stderr
