"""A network of a few kilobytes as LiteRT files (tests/data/edge, made by its make.py), and its answers."""

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workbench.backends.artifact import Artifact

FOLDER = Path(__file__).parent / "data" / "edge"
SIDE, CLASSES = 16, 5
PHOTOS: NDArray[np.float32] = np.random.default_rng(1).standard_normal((4, 3, SIDE, SIDE), np.float32)
File = Literal["float", "int8", "int8-ends"]


def logits() -> NDArray[np.float32]:
    """(4, classes) of torch, for PHOTOS."""
    return np.asarray(json.loads((FOLDER / "logits.json").read_text()), np.float32)


def artifact(folder: Path, name: File = "float") -> Artifact:
    """One of the files, in a folder of its own. It takes ai-edge-litert to read it back."""
    from workbench.backends.litert.tflite import FILE, tflite_info

    shutil.copy(FOLDER / f"{name}.tflite", folder / FILE)
    return Artifact(folder, tflite_info(folder / FILE))
