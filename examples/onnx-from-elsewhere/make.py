"""Write model.onnx, as another framework might have exported it, its classes, and photos of leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

HERE = Path(__file__).parent
COLOURS = {
    "healthy": (60, 150, 50),
    "rust": (170, 100, 40),
    "scab": (90, 80, 60),
    "yellow_leaf": (170, 180, 60),
}
SIDE, MEAN, STD, WIDTH = 64, 0.5, 0.25, 12
rng = np.random.default_rng(0)


def draw(folder: Path, per_class: int) -> None:
    """Class folders of JPEGs: the colour of a leaf, in another light each time, and speckled."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = np.array(colour) * rng.uniform(0.8, 1.2) + rng.normal(0, 40, (72, 72, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03}.jpg")


def network(weights: dict[str, Any], output: str) -> onnx.ModelProto:
    """(N, 3, 64, 64) float32 -> convolution -> mean of each channel -> `features`, or `logits`."""
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["sums"], strides=[2, 2]),
        helper.make_node("Relu", ["sums"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "head", "bias"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])]
    outputs = [
        helper.make_tensor_value_info(
            output, TensorProto.FLOAT, ["batch", weights["head"].shape[output == "logits"]]
        )
    ]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "leaves", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def fitted() -> onnx.ModelProto:
    """The network with its last layer fitted to the calibration photos by least squares."""
    paths = sorted((HERE / "data" / "calib").glob("*/*.jpg"))
    pixels = np.stack(
        [np.asarray(Image.open(path).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for path in paths]
    )
    batch = ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    wanted = np.array([[path.parent.name == name for name in COLOURS] for path in paths]) * 8.0
    weights = {
        "filters": rng.normal(0, 0.3, (WIDTH, 3, 3, 3)),
        "head": np.zeros((WIDTH, len(COLOURS))),
        "bias": np.zeros(len(COLOURS)),
    }
    probe = network(weights, "features").SerializeToString()
    (features,) = onnxruntime.InferenceSession(probe).run(None, {"image": batch})
    solution, *_ = np.linalg.lstsq(np.column_stack([features, np.ones(len(paths))]), wanted, rcond=None)
    return network({**weights, "head": solution[:-1], "bias": solution[-1]}, "logits")


if __name__ == "__main__":
    draw(HERE / "data" / "calib", 8)
    draw(HERE / "data" / "val", 12)
    (HERE / "labels.json").write_text(json.dumps(list(COLOURS)))
    onnx.save(fitted(), HERE / "model.onnx")
