"""Load on a server from a process of its own, and candidates that look published and cannot be served."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from onnx import helper

from tests.builders import onnx_model
from tests.serving import (
    CLASS_NAMES,
    CONTRACT,
    ROOT,
    draft,
    encoded,
    noise,
    onnx_session,
    publish_bytes,
    tiny_onnx,
)
from workbench.photos.preprocess import normalize
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as the client saw it. sent, ended: readings of time.monotonic()."""

    due: float
    sent: float
    ended: float
    outcome: str
    version: str

    @property
    def latency_s(self) -> float:
        return self.ended - self.due


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a load."""

    summary: dict[str, Any]
    answers: tuple[Answer, ...]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(answer.outcome for answer in self.answers)

    def p99_s(self, outcome: str | None = None) -> float:
        latencies = [one.latency_s for one in self.answers if outcome in (None, one.outcome)]
        return float(np.percentile(latencies, 99))


class Load:
    """benchmarks/openloop.py against a server; it begins at once and ends after `seconds`."""

    def __init__(
        self, port: int, folder: Path, *options: str, rate: float, seconds: float, closed: int | None = None
    ) -> None:
        """closed: so many connections that each wait for their answer, instead of a rate."""
        folder.mkdir(parents=True, exist_ok=True)
        photos = folder / "photos"
        if not photos.is_dir():
            photos.mkdir()
            for seed in range(8):
                (photos / f"{seed}.jpg").write_bytes(encoded(noise(seed)))
        self._log = folder / f"{time.monotonic_ns()}.jsonl"
        self.ends = time.monotonic() + seconds
        command = [sys.executable, str(ROOT / "benchmarks" / "openloop.py"), "--json", "--raw"]
        command += ["--url", f"http://127.0.0.1:{port}/predict", "--photos", str(photos)]
        command += ["--closed", str(closed)] if closed is not None else ["--rate", f"{rate:g}"]
        command += ["--seconds", f"{seconds:g}", "--log", str(self._log), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result(self) -> Loaded:
        out, _ = self._process.communicate(timeout=90)
        assert self._process.returncode == 0
        summary = json.loads(out)
        began = summary["began"]
        lines = (json.loads(line) for line in self._log.read_text().splitlines())
        times = ("due_s", "sent_s", "ended_s")
        answers = (
            Answer(*(began + one[name] for name in times), one["outcome"], one["version"]) for one in lines
        )
        return Loaded(summary, tuple(answers))


def say(*measured: str) -> None:
    """Print measured numbers (pytest -s shows them)."""
    sys.stdout.write("\n" + "; ".join(measured) + "\n")


def sample(text: str, name: str) -> float:
    """The value of one sample, named with its labels as they are exposed; 0 where there is none."""
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return 0.0


def children(pid: int, module: str) -> list[psutil.Process]:
    """The live processes below `pid` that run `python -m module`."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if module in child.cmdline():
                found.append(child)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def point(root: Path, version: str) -> None:
    Registry(root).point("leaf", "production", version, reason="test", expected=None)


def heavy_onnx(width: int, layers: int, *, classes: int = len(CLASS_NAMES), seed: int = 7) -> bytes:
    """A network that takes its time: `layers` matrix products of `width` squared between photo and logits."""
    rng = np.random.default_rng(seed)

    def weights(rows: int, columns: int) -> Any:
        return rng.normal(0, 1 / np.sqrt(rows), (rows, columns))

    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"{at}", "square"], [f"{at + 1}"]) for at in range(layers)]
    nodes += [helper.make_node("MatMul", [f"{layers}", "last"], ["logits"])]
    stored = {
        "w": weights(3 * 32 * 32, width),
        "square": weights(width, width),
        "last": weights(width, classes),
    }
    model = onnx_model(nodes, stored, ("image", ["n", 3, 32, 32]), ("logits", ["n", classes]))
    data: bytes = model.SerializeToString()
    return data


def publish_model(
    root: Path,
    version: str,
    data: bytes,
    *,
    golden_of: Callable[[Any], Any] | None = None,
    class_names: Iterable[str] = CLASS_NAMES,
) -> Bundle:
    """Publish any bytes as a model, and point at nothing.

    golden_of: what its golden logits are made with, where that is not the model itself.
    """
    names = tuple(class_names)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    logits = (golden_of or onnx_session(data))(normalize(pixels, CONTRACT))

    made = draft(data, version)
    artifact = made.artifact.model_copy(update={"classes": len(names)})
    made = made.model_copy(update={"artifact": artifact, "class_names": names})
    return publish_bytes(root, made, data, pixels, logits)


def publish_cut(registry: Path, version: str) -> None:
    """Publish a whole bundle with a model that ends in the middle."""
    data = tiny_onnx()
    publish_model(registry, version, data[: len(data) // 2], golden_of=lambda pixels: pixels[:, 0, 0, :5])
