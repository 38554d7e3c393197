"""Fit a `transformers` classifier briefly on real photos, so that accuracy means something.

    python benchmarks/fit.py --data DIR --teacher WORKSPACE --model mobilenet_v2 --out DIR [--minutes 13]

DIR has the class folders `calib/` and `val/`. The network starts from random weights (nothing is downloaded)
and learns from `calib` and a share of `val`; the rest of `val`, without near-duplicates of what it has seen,
is the validation data of the workspace that is written: the network as a `transformers` folder, as a
checkpoint with a factory, and as ONNX; the held-out photos as a CSV; krishi.yaml.

A few hundred photos are too few to learn 34 classes from their labels alone, so it learns from another
workspace's network what that one says about augmented and mixed views: L. Beyer et al., "Knowledge
distillation: A good teacher is patient and consistent", CVPR 2022.
"""

import argparse
import csv
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.model.source.model_source import load_model
from workbench.photos import dataset, likeness
from workbench.photos.contract import Preprocess
from workbench.photos.decode import decode
from workbench.photos.preprocess import crop_pixels, normalize
from workbench.workspace.workspace import load

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONTRACT = Preprocess(resize=146, crop=128, mean=MEAN, std=STD)  # 256 and 224, scaled to the last size
TEACHER_PX = 160
BATCH = 32
TEMPERATURE = 2.0
MIXED = 0.3  # of the batches
KEPT_EVERY = 0.1  # of the time


@dataclass(frozen=True, slots=True)
class Recipe:
    """peak: learning rate. half: bfloat16 makes it faster, on a CPU that computes in it. sizes: until this
    share of the time, at these pixels."""

    peak: float
    half: bool
    sizes: tuple[tuple[float, int], ...] = ((0.65, 96), (1.0, CONTRACT.crop))


RECIPES = {
    "mobilenet_v2": Recipe(3e-3, half=True),
    "efficientnet_b0": Recipe(3e-3, half=False),
    "resnet50": Recipe(1.5e-3, half=True, sizes=((0.6, 64), (0.85, 96), (1.0, CONTRACT.crop))),
}

FACTORY = '''"""The network beside this file as one that takes a tensor and gives a tensor."""

from pathlib import Path

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(Path(__file__).parent / "network")
        self.network = AutoModelForImageClassification.from_config(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=images).logits


def create_model() -> nn.Module:
    return Classifier()
'''


@dataclass(frozen=True, slots=True)
class Photos:
    """seen: paths and labels to learn from; held_out: to evaluate on."""

    names: tuple[str, ...]
    seen: list[tuple[Path, int]]
    held_out: list[tuple[Path, int]]
    calibration: Path


def main() -> None:
    parser = argparse.ArgumentParser(description="fit a classifier for benchmarks/peers.py")
    parser.add_argument("--data", type=Path, required=True, help="has calib/ and val/, of class folders")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of a krishi.yaml")
    parser.add_argument("--model", choices=sorted(RECIPES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=13.0, help="of processor time")
    parser.add_argument("--share", type=float, default=0.3, help="of val/ that is learnt from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from what --out holds, half as boldly")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    photos = divide(options.data, options.share)
    say(f"{len(photos.seen)} photos to learn from, {len(photos.held_out)} held out")
    network = channels_last(build(options.model, photos.names))
    if options.resume:
        kept = torch.load(options.out / "network.ckpt", weights_only=True)["state_dict"]
        network.load_state_dict({name.removeprefix("network."): value for name, value in kept.items()})
    teacher = load_model(load(options.teacher / "krishi.yaml").model, len(photos.names))
    prepare(options.out, photos, network)
    fit(network, teacher, photos, options)
    network.eval()
    keep(options.out, network, photos.names)
    export(network, options.out / "model.onnx")
    say(f"top-1 on the {len(photos.held_out)} held-out photos: {100 * top1(network, photos.held_out):.2f} %")


def divide(data: Path, share: float) -> Photos:
    """All of calib/ and `share` of each class of val/ to learn from, near-duplicates never on both sides."""
    names = tuple(sorted(path.name for path in (data / "val").iterdir() if path.is_dir()))
    known = dataset.scan(data / "calib", names, field="calib")
    asked = dataset.scan(data / "val", names, field="val")
    seen = list(zip(known.paths, known.labels, strict=True))
    held_out: list[tuple[Path, int]] = []
    rng = random.Random(0)
    for label in range(len(names)):
        rows = [row for row, own in enumerate(asked.labels) if own == label]
        copies = np.stack([pixels(asked.paths[row], likeness.small_copy()) for row in rows])
        alike: dict[int, list[int]] = {}
        for row, number in zip(
            rows, likeness.groups(likeness.hashes(copies), [asked.contents[row] for row in rows]), strict=True
        ):
            alike.setdefault(number, []).append(row)
        groups = list(alike.values())
        rng.shuffle(groups)
        taken = 0
        for group in groups:
            target = seen if taken < share * len(rows) else held_out
            taken += len(group)
            target += [(asked.paths[row], label) for row in group]
    return Photos(names, seen, held_out, (data / "calib").resolve())


def pixels(path: Path, contract: Preprocess) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return crop_pixels(decode(path.read_bytes()), contract)


def build(model: str, names: Sequence[str]) -> nn.Module:
    """The published architecture at random weights."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    network: nn.Module
    numbers = {name: number for number, name in enumerate(names)}
    labels: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": numbers}
    if model == "resnet50":
        network = transformers.ResNetForImageClassification(transformers.ResNetConfig(**labels))
    elif model == "mobilenet_v2":
        # Its own default, 0.8, is for a million photos.
        config = transformers.MobileNetV2Config(classifier_dropout_prob=0.2, **labels)
        network = transformers.MobileNetV2ForImageClassification(config)
    else:
        # The defaults are those of B7.
        config = transformers.EfficientNetConfig(
            width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=CONTRACT.crop,
            dropout_rate=0.2, drop_connect_rate=0.1, **labels,
        )  # fmt: skip
        network = transformers.EfficientNetForImageClassification(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Two of these networks carry TensorFlow's momentum, which means the opposite in torch: the
            # statistics would be those of the last batch.
            module.momentum = 0.03
        elif isinstance(module, nn.Conv2d):
            # Two of them start from weights far smaller than the steps of an optimiser.
            height, width = module.kernel_size
            nn.init.normal_(
                module.weight, std=math.sqrt(2 * module.groups / (height * width * module.out_channels))
            )
    return network


def fit(network: nn.Module, teacher: nn.Module, photos: Photos, options: argparse.Namespace) -> None:
    """One cycle of AdamW over the minutes of processor time, whatever else the machine does."""
    recipe = RECIPES[options.model]
    peak = recipe.peak / 2 if options.resume else recipe.peak
    optimizer = torch.optim.AdamW(weight_groups(network), lr=peak)
    channels_last(teacher)
    images = [(decode(path.read_bytes()), label) for path, label in photos.seen]
    rng = random.Random(0)
    kept, steps = 0.0, 0
    losses: list[float] = []
    for views, labels in endless(images, rng):
        done = time.process_time() / (60 * options.minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = peak * one_cycle(done)
        px = next(px for until, px in recipe.sizes if done <= until)
        loss = distilled(network, teacher, views, labels, px, half=recipe.half)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        steps, losses = steps + 1, [*losses[-50:], float(loss.detach())]
        if done > kept + KEPT_EVERY:
            kept = done
            keep(options.out, network, photos.names)
            epochs = steps * BATCH / len(images)
            say(f"{100 * done:.0f} %, {epochs:.1f} epochs, {px} px, loss {np.mean(losses):.3f}, "
                f"top-1 {100 * top1(network, photos.held_out[::5]):.1f} %")  # fmt: skip


def channels_last(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def weight_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for kernels and matrices only, not for biases and normalisation."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]


def one_cycle(done: float, warm_up: float = 0.05) -> float:
    return (
        done / warm_up if done < warm_up else (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2
    )


def endless(images: list[tuple[Image.Image, int]], rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of normalised (BATCH, 3, TEACHER_PX, TEACHER_PX) views and their labels, in random order."""
    contract = Preprocess(resize=TEACHER_PX, crop=TEACHER_PX, mean=MEAN, std=STD)
    while True:
        order = rng.sample(range(len(images)), len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = [images[row] for row in order[start : start + BATCH]]
            views = normalize(np.stack([view(image, rng) for image, _ in chosen]), contract)
            batch = jittered(torch.from_numpy(views))
            if rng.random() < MIXED:
                batch = torch.lerp(batch, batch.flip(0), rng.uniform(0.1, 0.5))
            yield (
                batch.contiguous(memory_format=torch.channels_last),
                torch.tensor([own for _, own in chosen]),
            )


def view(image: Image.Image, rng: random.Random) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """40 to 100 % of the photo's area, turned and mirrored."""
    width, height = image.size
    area, aspect = rng.uniform(0.4, 1.0) * width * height, math.exp(rng.uniform(-0.22, 0.22))
    w, h = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    cut = image.resize((TEACHER_PX,) * 2, Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    array = np.rot90(np.asarray(cut), rng.randrange(4))
    return array[:, ::-1] if rng.random() < 0.5 else array


def jittered(batch: Tensor) -> Tensor:
    """Brightness, contrast and saturation of each photo changed by up to a quarter."""
    brightness, contrast, saturation = ((torch.rand(3, len(batch), 1, 1, 1) - 0.5) * 0.5 + 1).unbind()
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    batch = (batch - mean) * contrast + mean + (brightness - 1) * 2
    gray = batch.mean(dim=1, keepdim=True)
    return torch.lerp(gray, batch, saturation)


def distilled(
    network: nn.Module, teacher: nn.Module, views: Tensor, labels: Tensor, px: int, *, half: bool
) -> Tensor:
    """How far the network at `px` pixels is from the teacher, and a little from the labels."""
    with torch.no_grad():
        target = F.softmax(teacher(views) / TEMPERATURE, dim=1)
    small = F.interpolate(views, size=(px, px), mode="bilinear", antialias=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = network(pixel_values=small).logits
    answer = F.log_softmax(logits.float() / TEMPERATURE, dim=1)
    divergence = F.kl_div(answer, target, reduction="batchmean") * TEMPERATURE**2
    return divergence + 0.1 * F.cross_entropy(logits.float(), labels, label_smoothing=0.1)


def top1(network: nn.Module, photos: Sequence[tuple[Path, int]]) -> float:
    training = network.training
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(photos), 64):
            some = photos[start : start + 64]
            batch = normalize(np.stack([pixels(path, CONTRACT) for path, _ in some]), CONTRACT)
            answer = network(pixel_values=torch.from_numpy(batch)).logits.argmax(dim=1).tolist()
            right += sum(own == said for (_, own), said in zip(some, answer, strict=True))
    network.train(training)
    return right / len(photos)


def prepare(folder: Path, photos: Photos, network: Any) -> None:
    """All of the workspace but the weights."""
    (folder / "network").mkdir(parents=True, exist_ok=True)
    network.config.save_pretrained(folder / "network")
    side = {"height": CONTRACT.crop, "width": CONTRACT.crop}
    processor = {
        "do_resize": True, "size": {"shortest_edge": CONTRACT.resize}, "resample": 2, "do_center_crop": True,
        "crop_size": side, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": MEAN, "image_std": STD, "image_processor_type": "MobileNetV2ImageProcessor",
    }  # fmt: skip
    (folder / "network" / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    (folder / "factory.py").write_text(FACTORY)
    with (folder / "held_out.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([path.resolve(), photos.names[label]] for path, label in photos.held_out)
    workspace = {
        "name": folder.name.replace("_", "-"),
        "model": {"checkpoint": "network.ckpt", "factory": "factory.py:create_model"},
        "data": {"calibration": str(photos.calibration), "validation": "held_out.csv"},
        "budget": {"max_accuracy_drop": 0.01, "objective": "latency"},
    }
    (folder / "krishi.yaml").write_text(yaml.safe_dump(workspace, sort_keys=False))


def keep(folder: Path, network: Any, names: Sequence[str]) -> None:
    """The weights as they are now: a fit that is stopped leaves a model that can be used."""
    network.save_pretrained(folder / "network")
    checkpoint = {
        "state_dict": {f"network.{key}": value.contiguous() for key, value in network.state_dict().items()},
        "class_names": list(names),
        "model_config": {
            "num_classes": len(names), "input_height": CONTRACT.crop, "input_width": CONTRACT.crop,
        },
        "preprocessing_stats": {
            "mean": list(MEAN), "std": list(STD), "resize_shorter_side": CONTRACT.resize,
            "center_crop": CONTRACT.crop, "interpolation": CONTRACT.interpolation,
        },
    }  # fmt: skip
    temporary = folder / "network.tmp"
    torch.save(checkpoint, temporary)
    os.replace(temporary, folder / "network.ckpt")


def export(network: nn.Module, target: Path) -> None:
    """ONNX of opset 18 with a free batch, in one file."""
    from workbench.model.export.export import export_onnx
    from workbench.model.export.settings import Export

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network(pixel_values=images).logits
            return logits

    samples = np.random.default_rng(0).normal(size=(2, 3, CONTRACT.crop, CONTRACT.crop)).astype(np.float32)
    export_onnx(Classifier().eval(), Export(), target, (1, 3, CONTRACT.crop, CONTRACT.crop), samples)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
