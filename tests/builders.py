"""Records of runs and versions, and tiny networks: every value has a default that a test can replace."""

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from workbench.backends import Runtime
from workbench.measure.records import Accuracy, Latency
from workbench.photos.contract import Preprocess
from workbench.results.records import Budget, RunInfo, TrialResult
from workbench.system.machine import Machine

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


def counts(losses: int = 0, gains: int = 0, images: int = IMAGES, correct: int = CORRECT) -> Accuracy:
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


def trial(
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
        "accuracy": counts(losses, gains, images, correct),
        "latency": latency,
    }
    return TrialResult(**{**values, **more})


def absent_trial(variant: str, status: str, reason: str) -> TrialResult:
    """A trial that was not measured."""
    absent = ("opset", "size_bytes", "load_s", "peak_memory_bytes", "accuracy", "latency")
    return trial(variant, status=status, reason=reason, **dict.fromkeys(absent))


def run_info(**more: Any) -> RunInfo:
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
        "runtimes": {"baseline": Runtime()},
        "noise_floor": 0.02,
    }
    return RunInfo(**{**values, **more})
