"""Memory of calibrating static INT8: it must not grow with the number of photos.

`pytest benchmarks/test_calibration.py -s` prints the peak of a process that calibrates 100 photos and
of one that calibrates 1,000, both at 224 px, on a ResNet-50 of random weights.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from workbench.model.export.export import export_onnx
from workbench.model.export.settings import Export

pytest.importorskip("transformers", reason="the network is built by it")
LIMIT_BYTES = 2e9
SCRIPT = """
import resource, sys
from pathlib import Path
from workbench.photos.dataset import Images
from workbench.photos.contract import Preprocess
from workbench.steps.int8.settings import StaticInt8
from workbench.steps.int8.static import static_int8
folder, count, method = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
contract = Preprocess(resize=224, crop=224, mean=(0.5,) * 3, std=(0.25,) * 3)
images = Images(folder / "pixels.npy", (0,) * 1000, contract, "")
step = StaticInt8(use="static_int8", calibration={"method": method, "images": count})
static_int8(step, folder / "model.onnx", folder / "int8.onnx", images)
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("calibration")
    torch.manual_seed(0)
    network = ResNetForImageClassification(ResNetConfig(num_labels=34)).eval()

    class Logits(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(images).logits
            return logits

    samples = np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    export = Export(exporter="torchscript", opset=17)
    export_onnx(Logits(network).eval(), export, folder / "model.onnx", (1, 3, 224, 224), samples)
    pixels = np.lib.format.open_memmap(
        folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(1000, 224, 224, 3)
    )
    rng = np.random.default_rng(0)
    for row in range(1000):
        pixels[row] = rng.integers(0, 256, (7, 7, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    pixels.flush()
    return folder


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_a_thousand_photos_take_the_memory_of_a_hundred(folder: Path, method: str) -> None:
    peaks = {count: peak(folder, count, method) for count in (100, 1000)}
    print(f"\n{method}: {peaks[100] / 1e6:.0f} MB for 100 photos, {peaks[1000] / 1e6:.0f} MB for 1,000")
    assert peaks[1000] < LIMIT_BYTES
    assert peaks[1000] < 1.2 * peaks[100]


def peak(folder: Path, count: int, method: str) -> float:
    """Bytes a process of its own held at most."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(count), method], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])
