"""Makes the LiteRT files of this folder, with litert-torch: `python -m tests.data.edge.make`.

A network of two hard-swishes, in float, in INT8, and in INT8 with INT8 ends and hard-swish in float; and the
logits of torch for `tests.edge.PHOTOS`.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.edge import CLASSES, FOLDER, PHOTOS, SIDE
from workbench.model.export.export import export_program
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.steps.base import Photos
from workbench.steps.litert.convert import write_tflite
from workbench.steps.litert.settings import Litert

FILES = {
    "float": Litert(use="litert"),
    "int8": Litert(use="litert", quantize="static", images=64),
    "int8-ends": Litert(
        use="litert", quantize="static", images=64, exclude_op_types=("HARD_SWISH",), float_ends=False
    ),
}
CONTRACT = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [
        *(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Hardswish()),
        *(torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8), torch.nn.ReLU()),
        *(torch.nn.Conv2d(8, 16, 1), torch.nn.Hardswish()),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, CLASSES)),
    ]
    model = torch.nn.Sequential(*layers).eval()
    with torch.no_grad():
        layers[-1].weight.mul_(20)
    return model


def main() -> None:
    model = network()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(2).integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
        np.save(folder / "pixels.npy", pixels)
        photos = Photos(CONTRACT, Images(folder / "pixels.npy", (0,) * 64, CONTRACT, "digest"))
        export_program(model, folder / "model.pt2", (1, 3, SIDE, SIDE), PHOTOS)
        for stem, step in FILES.items():
            write_tflite(step, folder / "model.pt2", folder, photos)
            (FOLDER / f"{stem}.tflite").write_bytes((folder / "model.tflite").read_bytes())
    with torch.inference_mode():
        logits = model(torch.from_numpy(PHOTOS)).numpy()
    (FOLDER / "logits.json").write_text(json.dumps(np.round(logits.astype(float), 6).tolist()) + "\n")


if __name__ == "__main__":
    main()
