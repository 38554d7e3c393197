"""Records of a run as the tests need them: everything stated has a default, every default can be replaced."""

import hashlib
import io
import logging
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from PIL import Image

from workbench.backends import OrtRuntime
from workbench.measure.records import Accuracy, Latency
from workbench.photos.contract import Preprocess
from workbench.results.records import Budget, RunInfo, TrialResult
from workbench.system.machine import Machine

# No deadline: a busy machine is not a defect. The same examples every time: a test fails for a change.
hypothesis.settings.register_profile("krishi-bench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("krishi-bench")


@pytest.fixture(autouse=True)
def _server_logs_are_heard() -> None:
    """OpenVINO's reader silences the root logger, and a server started in this process its own, for good."""
    logging.getLogger("serve").setLevel(logging.INFO)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("serve") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True


MACHINE = Machine(
    cpu="Test CPU @ 2.00GHz",
    architecture="x86_64",
    cores=4,
    memory_bytes=8 * 2**30,
    gpus=(),
    system="Linux 6.1",
    python="3.12.1",
)
IMAGES = 1000
CORRECT = 970
BASELINE_NS = 10e6


def _counts(losses: int = 0, gains: int = 0, images: int = IMAGES, correct: int = CORRECT) -> Accuracy:
    """One class. losses, gains: against a baseline that gets `correct` photos right."""
    right = correct - losses + gains
    return Accuracy(
        images=images,
        correct=right,
        correct_top5=None,
        macro_f1=right / images,
        class_images=(images,),
        class_correct=(right,),
        losses=losses,
        gains=gains,
        class_losses=(losses,),
        class_gains=(gains,),
    )


@pytest.fixture(scope="session")
def counts() -> Callable[..., Accuracy]:
    return _counts


def _trial(
    variant: str,
    *,
    speedup: float = 1.0,
    rounds: Sequence[float] | None = None,
    losses: int = 0,
    gains: int = 0,
    images: int = IMAGES,
    correct: int = CORRECT,
    size_mb: float = 8.0,
    **more: Any,
) -> TrialResult:
    """A measured trial. rounds: speed-ups of the rounds; six equal ones by default.

    losses, gains: against a baseline that gets `correct` photos right.
    """
    speedups = [speedup] * 6 if rounds is None else list(rounds)
    middle = sorted(speedups)[len(speedups) // 2]
    latency = Latency(
        batch_size=1,
        samples=300,
        mean_ns=BASELINE_NS / middle * 1.05,
        p50_ns=BASELINE_NS / middle,
        p90_ns=BASELINE_NS / middle * 1.1,
        p95_ns=BASELINE_NS / middle * 1.2,
        p99_ns=BASELINE_NS / middle * 1.3,
        cold_p50_ns=BASELINE_NS / middle * 1.5,
        round_log_ratios=tuple(-math.log(s) for s in speedups),
        settled=True,
    )
    values: dict[str, Any] = {
        "variant": variant,
        "recipe": variant.partition("[")[0],
        "digest": hashlib.sha256(variant.encode()).hexdigest(),
        "status": "ok",
        "backend": "onnxruntime",
        "device": "cpu",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "opset": 18,
        "precision": "fp32",
        "size_bytes": round(size_mb * 1e6),
        "load_s": 0.05,
        "peak_memory_bytes": 40_000_000,
        "accuracy": _counts(losses, gains, images, correct),
        "latency": latency,
    }
    return TrialResult(**{**values, **more})


@pytest.fixture(scope="session")
def trial() -> Callable[..., TrialResult]:
    return _trial


@pytest.fixture(scope="session")
def absent_trial() -> Callable[..., TrialResult]:
    """A trial that was not measured, with its status and reason."""

    def make(variant: str, status: str, reason: str) -> TrialResult:
        nothing = ("opset", "size_bytes", "load_s", "peak_memory_bytes", "accuracy", "latency")
        return _trial(variant, status=status, reason=reason, **dict.fromkeys(nothing))

    return make


@pytest.fixture(scope="session")
def run_info() -> Callable[..., RunInfo]:
    def make(**more: Any) -> RunInfo:
        values: dict[str, Any] = {
            "run_id": "20260102-030405",
            "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "arguments": ("run", "recipes"),
            "name": "leaves",
            "workspace": "/data/leaves/krishi.yaml",
            "machine": MACHINE,
            "libraries": {"numpy": "2.0.0"},
            "checkpoint_digest": "c" * 64,
            "validation_digest": "d" * 64,
            "validation_images": IMAGES,
            "calibration_digest": None,
            "class_names": ("rust", "scab"),
            "preprocess": Preprocess(resize=32, crop=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            "budget": Budget(),
            "baseline": "baseline",
            "runtimes": {"baseline": OrtRuntime()},
            "noise_floor": 0.02,
        }
        return RunInfo(**{**values, **more})

    return make


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """A picture's bytes in a format of Pillow's."""

    def encode(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk did not work: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)
