"""Classify photos with this folder's model, as its app should: Python with numpy, Pillow and ai-edge-litert.

    python reference.py              check the golden photos; exit 1 where an answer differs
    python reference.py PHOTO...     classify photos

What it does is what preprocess.json says, and what Classifier.kt does on the phone.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent


def resized_size(width: int, height: int, rule: dict[str, Any]) -> tuple[int, int]:
    """(width, height) that a photo of that size is resized to."""
    high, wide = rule["resize"]
    if rule["resize_mode"] == "squeeze":
        return wide, high
    by_height = (high * width > wide * height) == (rule["resize_mode"] == "shorter")
    if rule["rounding"] in ("torchvision", "transformers"):
        exact = (high * width / height, high) if by_height else (wide, wide * height / width)
        size = int(exact[0]), int(exact[1])
    elif rule["rounding"] == "albumentations":
        scale = high / height if by_height else wide / width
        size = round(width * scale), round(height * scale)
    else:
        ratio = height / high if by_height else width / wide
        size = round(width / ratio), round(height / ratio)
    return max(1, size[0]), max(1, size[1])


def crop_start(side: int, kept: int, rule: dict[str, Any]) -> int:
    """The first pixel of the centre; below 0 where so many are padded."""
    if rule["rounding"] == "transformers":
        return (side - kept) // 2
    if side < kept:
        return -((kept - side) // 2)
    return (side - kept) // 2 if rule["rounding"] == "albumentations" else round((side - kept) / 2)


def read_photo(path: Path, rule: dict[str, Any]) -> tuple[Image.Image, tuple[int, int], Any]:
    """The upright photo, its (width, height), and the part of it in pixels that it fills.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where `decode` is `scaled` and both sides stay at least twice what
    they are resized to.
    """
    image: Any = Image.open(path)
    orientation = image.getexif().get(0x0112, 1)
    sideways = orientation in (5, 6, 7, 8)
    width, height = image.size
    extent: tuple[float, float] = (width, height)
    if rule["decode"] == "scaled" and image.format == "JPEG":
        across, down = resized_size(*((height, width) if sideways else (width, height)), rule)
        if rule["one_side"]:
            across = down = rule["resize"][0]
        least = (2 * down, 2 * across) if sideways else (2 * across, 2 * down)
        if min(width // least[0], height // least[1]) >= 2:
            drafted = image.draft(None, least)
            extent = (drafted[1][2], drafted[1][3]) if drafted else extent
    upright = ImageOps.exif_transpose(image).convert("RGB")
    if sideways:
        width, height, extent = height, width, (extent[1], extent[0])
    # Where a side is no multiple of the fraction, the rest of the last pixel has turned with the photo.
    left = upright.width - extent[0] if orientation in (2, 3, 6, 7) else 0.0
    top = upright.height - extent[1] if orientation in (3, 4, 7, 8) else 0.0
    return upright, (width, height), (left, top, left + extent[0], top + extent[1])


def pixels_of(path: Path, rule: dict[str, Any]) -> Any:
    """(height, width, 3) uint8 pixels as the network sees them, before they are normalised."""
    image, whole, box = read_photo(path, rule)
    size = resized_size(*whole, rule)
    height, width = rule["crop"]
    left, top = crop_start(size[0], width, rule), crop_start(size[1], height, rule)
    cut = max(left, 0), max(top, 0), min(left + width, size[0]), min(top + height, size[1])
    if size != image.size:
        image = image.resize(size, Image.Resampling[rule["interpolation"].upper()], box=box)
    pixels = np.asarray(image.crop(cut))
    if pixels.shape[:2] != (height, width):
        padded = np.full((height, width, 3), rule["fill"], np.uint8)
        padded[cut[1] - top : cut[3] - top, cut[0] - left : cut[2] - left] = pixels
        pixels = padded
    return pixels if rule["channels"] == "RGB" else pixels[..., ::-1]


class AppModel:
    """The model of this folder."""

    def __init__(self, folder: Path = HERE) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.rule = json.loads((folder / "preprocess.json").read_text())
        self.labels = (folder / "labels.txt").read_text().splitlines()
        self.interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=1)
        self.interpreter.allocate_tensors()
        self.taken = self.interpreter.get_input_details()[0]
        self.given = self.interpreter.get_output_details()[0]

    def logits(self, pixels: Any) -> Any:
        """(classes,) of (height, width, 3) uint8 pixels."""
        mean, std = np.array(self.rule["mean"]), np.array(self.rule["std"])
        scale = (1.0 / (self.rule["white"] * std)).astype(np.float32)
        offset = (-mean / std).astype(np.float32)
        values = (pixels.astype(np.float32) * scale + offset)[None]
        if self.rule["input"]["layout"] == "NCHW":
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        self.interpreter.set_tensor(self.taken["index"], stored(values, self.taken))
        self.interpreter.invoke()
        found = self.interpreter.get_tensor(self.given["index"])[0]
        if found.dtype == np.float32:
            return found
        step, zero = self.given["quantization"]
        return (found.astype(np.float32) - np.float32(zero)) * np.float32(step)

    def probabilities(self, logits: Any) -> Any:
        if self.rule["outputs"] == "probabilities":
            positive = np.clip(logits.astype(np.float64), 0, None)
            return positive / positive.sum()
        powers = np.exp(logits.astype(np.float64) - logits.max())
        return powers / powers.sum()

    def classify(self, path: Path) -> tuple[str, float]:
        """The class of a photo, and its probability."""
        found = self.probabilities(self.logits(pixels_of(path, self.rule)))
        return self.labels[int(found.argmax())], float(found.max())


def stored(values: Any, end: dict[str, Any]) -> Any:
    """As the model's input takes them: float32, or rounded to integers."""
    if end["dtype"] is np.float32:
        return values
    step, zero = end["quantization"]
    limits = np.iinfo(end["dtype"])
    scaled = np.rint(values * np.float32(1 / step) + np.float32(zero))
    return np.clip(scaled, limits.min, limits.max).astype(end["dtype"])


def check(model: AppModel) -> int:
    """Hold the answers to those recorded in golden.json. Returns how many differ."""
    golden = json.loads((HERE / "golden.json").read_text())
    wrong = 0
    for item in golden["photos"]:
        path = HERE / item["file"]
        pixels = pixels_of(path, model.rule) if item["whole"] else np.asarray(Image.open(path))
        if not item["whole"] and model.rule["channels"] == "BGR":
            pixels = pixels[..., ::-1]
        logits = model.logits(pixels)
        off = float(np.abs(logits - np.asarray(item["logits"], np.float32)).max())
        label = model.labels[int(logits.argmax())]
        good = off <= golden["atol"] and label == item["label"]
        wrong += not good
        print(f"{'ok  ' if good else 'BAD '} {item['file']}: {label}, logits off by {off:.2g}")  # noqa: T201
    return wrong


def main() -> int:
    model = AppModel()
    if not sys.argv[1:]:
        return int(check(model) > 0)
    for name in sys.argv[1:]:
        label, probability = model.classify(Path(name))
        print(f"{name}: {label} {probability:.3f}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
