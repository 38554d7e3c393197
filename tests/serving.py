"""A small real model to publish, and servers to run it: in a thread or as a process of its own."""

import io
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from onnx import helper
from PIL import Image

from serve.app import create_app
from serve.http.http_limits import BoundedProtocol
from serve.settings import Settings
from tests import builders
from tests.builders import onnx_model
from workbench.backends import OrtRuntime, Runtime
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import normalize
from workbench.registry.bundle import Bundle
from workbench.registry.manifest import Draft, Golden
from workbench.registry.store import Registry
from workbench.system.machine import collect

ROOT = Path(__file__).parents[1]
CONTRACT = Preprocess(resize=36, crop=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLASS_NAMES = ("Corn_Rust", "Potato_Healthy", "Tomato_Early_Blight", "Tomato_Leaf_Mold", "Wheat_Rust")
PREDICTION_KEYS = ["class_id", "class_name", "confidence", "timestamp", "model_version"]
CPU = OrtRuntime()


# A published model, small and real


def tiny_onnx(seed: int = 7) -> bytes:
    """Flatten + Gemm: a weight per pixel, so that a photo lying on its side scores differently."""
    weights = np.random.default_rng(seed).normal(0, 0.02, (3 * 32 * 32, len(CLASS_NAMES)))
    model = onnx_model(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        ],
        {"weights": weights, "bias": np.zeros(len(CLASS_NAMES))},
        ("image", ["n", 3, 32, 32]),
        ("logits", ["n", len(CLASS_NAMES)]),
    )
    data: bytes = model.SerializeToString()
    return data


def draft(data: bytes, version: str, runtime: Runtime = CPU) -> Draft:
    return builders.draft(
        version,
        artifact=builders.artifact_info(
            data,
            format="onnx",
            file="model.onnx",
            opset=17,
            precision="fp32",
            input_shape=(0, 3, 32, 32),
            classes=len(CLASS_NAMES),
        ),
        runtime=runtime,
        class_names=CLASS_NAMES,
        preprocess=CONTRACT,
        golden=Golden(file="golden.npz", images=3, atol=1e-3),
        measured=builders.trial("fp32", speedup=10 / 1.5, images=100, correct=90, size_mb=len(data) / 1e6),
        machine=collect(),
    )


def publish(
    root: Path,
    *,
    version: str = "1.0.0",
    golden_error: float = 0.0,
    seed: int = 7,
    alias: str | None = "production",
    runtime: Runtime = CPU,
) -> Bundle:
    """Publish a tiny model and point an alias at it. golden_error: added to its golden logits; seed: of its
    weights."""
    data = tiny_onnx(seed)
    session = onnx_session(data)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    logits = session(normalize(pixels, CONTRACT)) + np.float32(golden_error)

    bundle = publish_bytes(root, draft(data, version, runtime), data, pixels, logits)
    if alias is not None:
        Registry(root).point("leaf", alias, version, reason="test", expected=None)
    return bundle


def publish_bytes(root: Path, draft: Draft, data: bytes, pixels: Any, logits: Any) -> Bundle:
    """Publish `data` as a model whose golden logits for `pixels` are these."""

    def build(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(data)
        np.savez(folder / "golden.npz", pixels=pixels, logits=logits)
        (folder / "MODEL_CARD.md").write_text("# leaf\n")

    return Registry(root).publish(draft, build)


def onnx_session(data: bytes) -> Callable[[Any], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"image": batch})[0]


# Servers


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process, and a client for it."""

    url: str
    client: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        port = self.client.base_url.port
        assert port is not None
        return self.client.base_url.host, port

    def post(self, content: bytes, *, name: str = "leaf.jpg") -> httpx.Response:
        return self.client.post("/predict", files={"file": (name, content, "image/jpeg")})

    def metrics(self) -> str:
        return self.client.get("/metrics").text


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    config = uvicorn.Config(create_app(settings), http=BoundedProtocol, ws="none", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=20, verify=False) as client:
                wait_for(lambda: server.started)
                yield Running(url, client)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def ready(settings: Settings) -> Iterator[Running]:
    """`running`, with a model."""
    with running(settings) as server:
        wait_until_ready(server.client)
        yield server


def wait_for(met: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def wait_until_ready(client: httpx.Client) -> None:
    wait_for(lambda: client.get("/readyz").status_code == 200)


def not_ready(client: httpx.Client, code: str) -> str:
    """Wait until /readyz answers with this code; returns its message."""
    wait_for(lambda: error_code(client.get("/readyz")) == code)
    message: str = client.get("/readyz").json()["error"]["message"]
    return message


class ServerProcess:
    """`python -m serve` as a container runs it."""

    def __init__(self, registry: Path, **environment: str) -> None:
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve"],
            cwd=ROOT,
            env={**os.environ, "KRISHI_REGISTRY": str(registry), "KRISHI_PORT": "0", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""
        self.host, self.port = "127.0.0.1", self._port()
        # Without certificates: nothing here is HTTPS, and reading them takes longer than many a test.
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, verify=False)

    def _port(self) -> int:
        assert self.process.stderr is not None
        while select.select([self.process.stderr], [], [], 15)[0]:
            line = self.process.stderr.readline()
            self.log += line
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                # A full pipe would stop the server.
                self._drainer = threading.Thread(target=self._drain)
                self._drainer.start()
                return int(found[1])
            if not line:
                break
        self.process.kill()
        raise AssertionError(f"the server did not start:\n{self.log}")

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        self.client.close()
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._drainer.join()
            if self.process.stderr is not None:
                self.process.stderr.close()
        return code


@contextmanager
def server_process(registry: Path, **environment: str) -> Iterator[ServerProcess]:
    """A process with a model, which has to end with 0."""
    process = ServerProcess(registry, **{"KRISHI_DRAIN_DELAY": "0", **environment})
    try:
        wait_until_ready(process.client)
        yield process
    finally:
        code = process.end() if process.process.poll() is None else process.wait()
    assert code == 0, process.log
    assert "Traceback" not in process.log


# Forms and photos


MULTIPART = "multipart/form-data; boundary=b"
END = b"--b--\r\n"


def part(options: str, content: bytes = b"x") -> bytes:
    """One part of a form."""
    return b"--b\r\nContent-Disposition: form-data; " + options.encode() + b"\r\n\r\n" + content + b"\r\n"


def encoded(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A photo with coarse structure, so that resizing does not turn it into plain gray."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def error_code(response: httpx.Response) -> str:
    """The code of an error answer, after checking that it has the one shape."""
    body = response.json()
    assert list(body) == ["error", "request_id"]
    assert list(body["error"]) == ["code", "message"]
    assert body["request_id"] == response.headers["x-request-id"]
    code: str = body["error"]["code"]
    return code


def png_claiming(width: int, height: int) -> bytes:
    """A valid PNG header with no picture behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 64)
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
