"""A classifier as an ONNX file, written node by node: no torch, so it is ready in a second.

Three convolutions with random weights; only the last layer is fitted, by least squares.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.builders import onnx_model
from tests.e2e.tiny import CLASS_NAMES, MEAN, STD, draw_photos

SIDE = 64
PREPROCESS = {"resize": SIDE, "crop": SIDE, "mean": MEAN, "std": STD}
Size = int | str


def network(
    *,
    classes: int = len(CLASS_NAMES),
    width: int = 8,
    channels: int = 3,
    height: Size = "height",
    across: Size = "width",
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """(batch, channels, height, across) float32 -> (batch, classes). A word as a size: it is free."""
    rng = np.random.default_rng(seed)
    shapes = [(width, channels, 3, 3), (width, width, 3, 3), (2 * width, width, 3, 3)]
    stored: dict[str, NDArray[np.float64]] = {}
    nodes, name = [], "image"
    for number, shape in enumerate(shapes):
        stored[f"conv{number}.weight"] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        stored[f"conv{number}.bias"] = rng.normal(0, 0.1, shape[0])
        stride = 2 if number == 2 else 1
        nodes += [
            helper.make_node(
                "Conv",
                [name, f"conv{number}.weight", f"conv{number}.bias"],
                [f"sum{number}"],
                name=f"conv{number}",
                kernel_shape=[3, 3],
                strides=[stride, stride],
                pads=[1, 1, 1, 1],
            ),
            helper.make_node("Relu", [f"sum{number}"], [f"map{number}"], name=f"relu{number}"),
        ]
        name = f"map{number}"
    stored["head.weight"] = rng.normal(0, 1, (classes, 2 * width))
    stored["head.bias"] = np.zeros(classes)
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], name="flatten"),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    images, logits = ("image", ["batch", channels, height, across]), ("logits", ["batch", classes])
    return onnx_model(nodes, stored, images, logits, opset=opset)


def fitted(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The last layer fitted to the photos of class folders."""
    images, labels = photos(folder)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    features = session.run(["features"], {"image": images})[0].astype(np.float64)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    wanted = 8.0 * np.eye(len(CLASS_NAMES))[labels]
    normal = features.T @ features + 0.01 * np.eye(features.shape[1])
    solution = np.linalg.solve(normal, features.T @ wanted).astype(np.float32)
    for tensor in model.graph.initializer:
        if tensor.name == "head.weight":
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(solution[:-1].T), tensor.name))
        if tensor.name == "head.bias":
            tensor.CopyFrom(numpy_helper.from_array(solution[-1], tensor.name))
    return model


def photos(folder: Path) -> tuple[NDArray[np.float32], list[int]]:
    """All photos below class folders as a batch, and their labels."""
    found = [
        (path, label) for label, name in enumerate(CLASS_NAMES) for path in sorted((folder / name).iterdir())
    ]
    pixels = np.stack([np.asarray(Image.open(path).resize((SIDE, SIDE))) for path, _ in found])
    batch = ((pixels / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    return batch.astype(np.float32), [label for _, label in found]


def write_workspace(
    root: Path,
    model: onnx.ModelProto | Path,
    *,
    source: Path,
    names: tuple[str, ...] = CLASS_NAMES,
    preprocess: dict[str, Any] = PREPROCESS,
    **changed: Any,
) -> Path:
    """`krishi.yaml` over a model and the photos of `source/data`.

    changed: `calibration`, `validation`, `budget`.
    """
    root.mkdir(parents=True, exist_ok=True)
    checkpoint = model
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, checkpoint := root / "model.onnx")
    (root / "labels.json").write_text(json.dumps(names))
    data = {part: str(changed.get(part, source / "data" / part)) for part in ("calibration", "validation")}
    content = {
        "name": "plain",
        "model": {"checkpoint": str(checkpoint), "class_names": str(root / "labels.json")},
        "data": data,
        "preprocess": preprocess,
        "budget": {"max_accuracy_drop": 0.2, **changed.get("budget", {})},  # what a few dozen photos can show
    }
    (root / "krishi.yaml").write_text(json.dumps(content))
    return root


def prepare_folder(root: Path, *, per_class: int = 10, max_drop: float = 0.2) -> Path:
    """Photos, and a workspace over a network of any input size."""
    draw_photos(root / "data" / "calibration", per_class, seed=1)
    draw_photos(root / "data" / "validation", per_class, seed=2)
    model = fitted(network(), root / "data" / "calibration")
    return write_workspace(root, model, source=root, budget={"max_accuracy_drop": max_drop})
