"""The networks of `zoo.py`, each saved as a workspace as a user would have it.

    python benchmarks/zoo_networks.py timm:resnet18 FOLDER

Nothing is downloaded: weights are random, batch norms have the statistics of photos, and the last layer is
scaled so that the answers to the photos differ. A photo's label is the network's own answer.
"""

import colorsys
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = [f"leaf_{number:02}" for number in range(17)]
VALIDATION, CALIBRATION = 32, 16
SPREAD = 3.0  # standard deviation of a logit over the photos
SCALED = 64  # pixels of the networks of transformers

TIMM = (
    "resnet18",
    "densenet121",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small_050",
    "efficientnet_b0",
    "tf_efficientnetv2_b0",
    "regnety_002",
    "ghostnet_100",
    "repvgg_a0",
    "mobileone_s0",
    "fastvit_t8",
    "repvit_m0_9",
    "levit_128s",
    "efficientformerv2_s0",
    "convnext_atto",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
)
# The name before `Config` and `ForImageClassification`, and what makes it small.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "MobileNetV2": {"depth_multiplier": 0.5},
    "ResNet": {"embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 2, 1]},
    "EfficientNet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    "RegNet": {
        "embedding_size": 16,
        "hidden_sizes": [24, 56, 152, 368],
        "depths": [1, 1, 4, 7],
        "groups_width": 8,
    },
    "ConvNextV2": {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]},
    "MobileViT": {"hidden_sizes": [64, 80, 96], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320]},
    "Segformer": {"decoder_hidden_size": 64},
    "ViT": {
        "patch_size": 8,
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 192,
    },
    "Swin": {"patch_size": 2, "embed_dim": 32, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4},
    "Dinov2": {"patch_size": 8, "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3},
}
NAMES = (*(f"timm:{name}" for name in TIMM), *(f"transformers:{name}" for name in TRANSFORMERS))


def main() -> None:
    import torch

    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.manual_seed(0)
    library, _, short = name.partition(":")
    network, settings, side, mean, std = _timm(short) if library == "timm" else _transformers(short)
    photos = [_photo(np.random.default_rng(seed)) for seed in range(VALIDATION + CALIBRATION)]
    images = _tensor(photos, side, mean, std)
    _settle(network, images[:16])
    answers = _spread_answers(network, images)
    _save_photos(folder, photos, answers)
    if library == "timm":
        state = {"state_dict": network.state_dict(), "class_names": CLASSES}
        torch.save(state, folder / "student.ckpt")
    else:
        network.save_pretrained(folder / "student")
    lines = [f"model: {json.dumps(settings)}", "data: {validation: val, calibration: calib}"]
    if library != "timm":
        stated = {"resize": side, "crop": side, "mean": mean, "std": std}
        lines.append(f"preprocess: {json.dumps(stated)}")
    (folder / "krishi.yaml").write_text("\n".join(lines) + "\n")
    print(json.dumps({"side": side, "parameters": sum(p.numel() for p in network.parameters())}))


def _timm(name: str) -> tuple["nn.Module", dict[str, Any], int, list[float], list[float]]:
    import timm

    network = timm.create_model(name, pretrained=False, num_classes=len(CLASSES))
    config = timm.data.resolve_data_config({}, model=network)
    settings = {"checkpoint": "student.ckpt", "factory": f"timm:{name}"}
    return network, settings, config["input_size"][1], list(config["mean"]), list(config["std"])


def _transformers(name: str) -> tuple[Any, dict[str, Any], int, list[float], list[float]]:
    import transformers

    labels = dict(enumerate(CLASSES))
    small = {"image_size": SCALED, "id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    config = getattr(transformers, f"{name}Config")(**small, **TRANSFORMERS[name])
    network = getattr(transformers, f"{name}ForImageClassification")(config)
    return network, {"checkpoint": "student"}, SCALED, [0.5] * 3, [0.5] * 3


def _settle(network: "nn.Module", images: "Tensor") -> None:
    """Batch norms as training leaves them: statistics of photos, and weights that are not 1 and 0."""
    import torch
    from torch import nn

    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.uniform_(norm.bias, -0.2, 0.2)
    with torch.no_grad():
        network.train()(images)
    network.eval()


def _spread_answers(network: "nn.Module", images: "Tensor") -> list[int]:
    """Scale the last layers of the network so that its logits spread over the photos; its answers."""
    import torch

    with torch.no_grad():
        logits = _logits(network, images)
        centre, scale = logits.mean(0), logits.std(0).clamp_min(1e-12)
        for layer in _last_layers(network):  # two, averaged, where the network is distilled
            layer.weight *= (SPREAD / scale)[:, None]
            layer.bias.copy_((layer.bias - centre) * SPREAD / scale)
    return [int(answer) for answer in ((logits - centre) / scale).argmax(1)]


def _tensor(photos: list[Image.Image], side: int, mean: list[float], std: list[float]) -> "Tensor":
    import torch

    pixels = np.stack([np.asarray(photo.resize((side, side), Image.Resampling.BILINEAR)) for photo in photos])
    return torch.from_numpy((pixels / 255 - np.array(mean)) / np.array(std)).float().permute(0, 3, 1, 2)


def _logits(network: "nn.Module", images: "Tensor") -> "Tensor":
    import torch

    outputs = [network(part) for part in images.split(8)]
    return torch.cat([getattr(output, "logits", output) for output in outputs])


def _last_layers(network: "nn.Module") -> "Iterator[nn.Linear]":
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features == len(CLASSES):
            yield module


def _photo(random: np.random.Generator) -> Image.Image:
    """A leaf of sorts: a coloured ellipse with spots on a coloured ground."""
    rows, columns = np.mgrid[0:256, 0:256] / 256
    ground, leaf, spot = (
        np.array(colorsys.hsv_to_rgb(random.uniform(), random.uniform(0.2, 1), random.uniform(0.2, 1)))
        for _ in range(3)
    )
    canvas = ground + 0.3 * (rows * random.normal() + columns * random.normal())[..., None]
    shapes = [(leaf, 0.5, 0.5, random.uniform(0.2, 0.45), random.uniform(0.2, 0.45))]
    shapes += [(spot, *random.uniform(0.2, 0.8, 2), *random.uniform(0.02, 0.1, 2)) for _ in range(8)]
    for colour, y, x, height, width in shapes:
        canvas[((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1] = colour
    noisy = canvas + random.normal(0, 0.03, canvas.shape)
    return Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8))


def _save_photos(folder: Path, photos: list[Image.Image], answers: list[int]) -> None:
    for number, (photo, answer) in enumerate(zip(photos, answers, strict=True)):
        part = "val" if number < VALIDATION else "calib"
        place = folder / part / CLASSES[answer]
        place.mkdir(parents=True, exist_ok=True)
        photo.save(place / f"{number:03}.jpg", quality=95)


if __name__ == "__main__":
    main()
