"""What tests of steps look at in a file."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.model.graph.onnx_file import describe, load, logits_of


def logits(path: Path, samples: NDArray[Any]) -> NDArray[np.float32]:
    return logits_of(path, describe(path), samples)


def drift(source: Path, result: Path, samples: NDArray[np.float32]) -> float:
    """Largest change of a logit, over the largest logit."""
    before, after = logits(source, samples), logits(result, samples)
    return float(np.abs(after - before).max() / np.abs(before).max())


def rms_drift(source: Path, result: Path, samples: NDArray[np.float32]) -> float:
    """Root mean square change of the logits, over their spread."""
    before, after = logits(source, samples), logits(result, samples)
    return float(np.sqrt(np.square(after - before).mean()) / before.std())


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in load(path).graph.node)
