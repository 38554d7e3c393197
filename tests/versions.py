"""Small published versions for tests of the registry: a model of a few bytes, and its golden arrays."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends import NullRuntime
from workbench.backends.artifact import ArtifactInfo
from workbench.photos.contract import Preprocess
from workbench.registry.bundle import Bundle
from workbench.registry.manifest import Draft, Golden, Provenance
from workbench.registry.store import Registry
from workbench.results.records import TrialResult
from workbench.system.machine import collect

CONTRACT = Preprocess(resize=10, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLASSES = ("rust", "scab", "well")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
LOGITS = np.array([[3.0, 0.0, -1.0], [-2.0, 0.5, 1.0]], dtype=np.float32)


def draft(
    version: str = "1.0.0", *, name: str = "leaf", model: bytes = b"weights", **changes: object
) -> Draft:
    fields: dict[str, Any] = {
        "name": name,
        "version": version,
        "created_at": datetime(2025, 1, 1, tzinfo=UTC),
        "artifact": ArtifactInfo(
            format="null",
            file="model.bin",
            sha256=hashlib.sha256(model).hexdigest(),
            size_bytes=len(model),
            input_shape=(0, 3, 8, 8),
            classes=3,
        ),
        "runtime": NullRuntime(),
        "class_names": CLASSES,
        "preprocess": CONTRACT,
        "golden": Golden(file="golden.npz", images=2, atol=1e-3),
        "measured": TrialResult(
            variant="fp32", recipe="fp32", digest="d", status="ok", backend="null", device="cpu"
        ),
        "machine": collect(),
        "provenance": Provenance(
            run_id="r",
            variant="fp32",
            variant_digest="d",
            checkpoint_digest="c",
            validation_digest="v",
            calibration_digest=None,
            libraries={},
            forced=None,
        ),
    }
    return Draft(**(fields | changes))


def files(model: bytes = b"weights") -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "model.bin").write_bytes(model)
        (folder / "MODEL_CARD.md").write_text("# leaf\n")
        np.savez(folder / "golden.npz", pixels=PIXELS, logits=LOGITS)

    return build


def publish(registry: Registry, version: str, **choice: Any) -> Bundle:
    """A version with a model file of its own."""
    model = f"weights of {version}".encode()
    return registry.publish(draft(version, model=model, **choice), files(model))
