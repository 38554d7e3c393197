"""Stands for a training: photos of three classes, each of a colour, and two small networks for them.

    python draw.py [--wider]

`released.onnx` is what is in the field; `model.onnx` is the same network, or with --wider one with four times
as many channels, which answers no better.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

CLASSES = {"blight": (150, 110, 60), "healthy": (60, 160, 60), "rust": (190, 90, 40)}
SIDE, PHOTOS, CHANNELS = 32, 20, 16


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw photos and write two networks")
    parser.add_argument("--wider", action="store_true")
    wider = parser.parse_args().wider
    Path("classes.json").write_text(json.dumps(list(CLASSES)))
    draw(Path("photos"))
    write(Path("released.onnx"), CHANNELS)
    write(Path("model.onnx"), 4 * CHANNELS if wider else CHANNELS)


def draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(PHOTOS):
            pixels = np.array(colour) * rng.uniform(0.8, 1.2) + rng.normal(0, 20, (40, 40, 3))
            photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            photo.save(folder / name / f"{number:02}.png")


def write(path: Path, channels: int) -> None:
    """Two convolutions that keep the mean of each colour, and the distance to the colour of each class."""
    first = np.zeros((channels, 3, 3, 3))
    first[:3, :, 1, 1], first[3:6, :, 1, 1] = np.eye(3), -np.eye(3)  # ReLU keeps one sign: both are passed on
    second = np.zeros((channels, channels, 3, 3))
    second[:6, :6, 1, 1] = np.eye(6)
    centres = (np.array(list(CLASSES.values())) / 255 - 0.5) / 0.5
    last = np.zeros((len(CLASSES), channels))
    last[:, :3], last[:, 3:6] = 8 * centres, -8 * centres
    bias = -4 * (centres**2).sum(axis=1)
    arrays = {"w0": first, "w1": second, "w2": last, "b2": bias}
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["c0"], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "leaf",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


if __name__ == "__main__":
    main()
