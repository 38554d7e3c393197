"""Small published versions for tests of the registry: a model of a few bytes, and its golden arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import draft
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
LOGITS = np.array([[3.0, 0.0, -1.0], [-2.0, 0.5, 1.0]], dtype=np.float32)


def workspace_folder(root: Path) -> Path:
    """The files that every workspace has."""
    (root / "val").mkdir(parents=True)
    (root / "student.ckpt").touch()
    (root / "krishi.yaml").write_text("model: {checkpoint: student.ckpt}\ndata: {validation: val}\n")
    return root


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
