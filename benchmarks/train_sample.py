"""Train the bundled student: `python benchmarks/train_sample.py`.

One thread and fixed seeds, so that the same libraries give the same weights. Prints a line per epoch and
writes a checkpoint in PyTorch Lightning's layout that `torch.load(weights_only=True)` accepts.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench.photos.contract import Preprocess
from workbench.photos.decode import decode
from workbench.photos.preprocess import crop_pixels, normalize
from workbench.workspace.sample import CHECKPOINT, VAL_PER_CLASS
from workbench.workspace.sample.leaves import CLASS_NAMES, Split, photo, photo_seed
from workbench.workspace.sample.student import create_model

Pixels = NDArray[np.uint8]  # (n, H, W, 3) RGB
Labels = NDArray[np.int64]  # (n,) class indices

CONTRACT = Preprocess(resize=144, crop=128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
UNCUT = CONTRACT.model_copy(update={"crop": CONTRACT.resize})  # leaves room for random crops
BATCH = 64
LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING = 3e-3, 2e-2, 0.05


def load(split: Split, per_class: int, contract: Preprocess) -> tuple[Pixels, Labels]:
    """The first photos of every class of a split: (n, crop, crop, 3) pixels and (n,) class indices."""
    pixels = [
        crop_pixels(decode(photo(name, photo_seed(split, index))), contract)
        for name in CLASS_NAMES
        for index in range(per_class)
    ]
    return np.stack(pixels), np.arange(len(CLASS_NAMES)).repeat(per_class)


def augment(batch: Tensor, rng: torch.Generator) -> Tensor:
    """Random resized crop, turn, flip and colour jitter: (n, 3, 144, 144) to (n, 3, 128, 128)."""
    n = len(batch)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=rng)

    zoom, turn = uniform(0.75, 1.0), uniform(-0.4, 0.4)
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    flips = uniform(-1, 1, 2).sign()
    shift = uniform(-1, 1, 2) * (1 - zoom)[:, None]
    rows = [torch.stack([cos, -sin], 1) * flips, torch.stack([sin, cos], 1) * flips]
    transform = torch.cat([torch.stack(rows, 1), shift[:, :, None]], dim=2)
    grid = nn.functional.affine_grid(transform, [n, 3, CONTRACT.crop, CONTRACT.crop], align_corners=False)
    cut = nn.functional.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)
    jittered = cut * uniform(0.85, 1.15, 3, 1, 1) + uniform(-0.2, 0.2, 1, 1, 1)
    return jittered.contiguous(memory_format=torch.channels_last)


def epoch_steps(photos: int) -> int:
    """Optimiser steps in an epoch; the last batch may be a short one."""
    return math.ceil(photos / BATCH)


def fit(model: nn.Module, pixels: Pixels, labels: Labels, epochs: int, seed: int) -> Iterator[float]:
    """Train in place, handing over the mean loss of each epoch as it ends.

    pixels: (n, 144, 144, 3). labels: (n,) class indices.
    """
    rng = torch.Generator().manual_seed(seed)
    steps = epochs * epoch_steps(len(labels))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(epochs):
        losses = []
        order = torch.randperm(len(labels), generator=rng).numpy()
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            logits = model(augment(torch.from_numpy(normalize(pixels[chosen], CONTRACT)), rng))
            truth = torch.from_numpy(labels[chosen])
            loss = nn.functional.cross_entropy(logits, truth, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses)


@torch.inference_mode()
def confusion(model: nn.Module, pixels: Pixels, labels: Labels) -> NDArray[np.int64]:
    """How often class i (row) was taken for class j (column): (classes, classes) counts."""
    model.eval()
    counts = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
    for start in range(0, len(labels), BATCH):
        logits = model(torch.from_numpy(normalize(pixels[start : start + BATCH], CONTRACT)))
        np.add.at(counts, (labels[start : start + BATCH], logits.argmax(1).numpy()), 1)
    return counts


def lightning_checkpoint(model: nn.Module, epochs: int, steps: int, seed: int) -> dict[str, object]:
    """The trained model as Lightning lays a checkpoint out, in plain types, so that weights_only loads it."""
    return {
        "epoch": epochs - 1,
        "global_step": steps,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()},
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hyper_parameters": {"num_classes": len(CLASS_NAMES), "learning_rate": LEARNING_RATE, "seed": seed},
        "class_names": list(CLASS_NAMES),
        "model_config": {
            "architecture": "krishi-student",
            "factory": "student.py:create_model",
            "num_classes": len(CLASS_NAMES),
            "input_channels": 3,
            "input_height": CONTRACT.crop,
            "input_width": CONTRACT.crop,
        },
        "preprocessing_stats": {
            "mean": list(CONTRACT.mean),
            "std": list(CONTRACT.std),
            "resize_shorter_side": CONTRACT.resize,
            "center_crop": CONTRACT.crop,
            "interpolation": CONTRACT.interpolation,
            "color": "RGB",
            "scale": 1 / 255,
        },
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the sample student.")
    parser.add_argument(
        "--output", type=Path, default=CHECKPOINT, help="where the checkpoint goes (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument(
        "--per-class", type=int, default=600, help="training photos of each class (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the photos, train, report top-1 and recall on the val split, write the checkpoint."""
    args = arguments(argv)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    started = time.perf_counter()
    print(f"drawing {len(CLASS_NAMES) * args.per_class} training photos", flush=True)
    pixels, labels = load("train", args.per_class, UNCUT)
    model = create_model(len(CLASS_NAMES))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast
    for epoch, loss in enumerate(fit(model, pixels, labels, args.epochs, args.seed), 1):
        elapsed_s = time.perf_counter() - started
        print(f"epoch {epoch}/{args.epochs}  loss {loss:.3f}  {elapsed_s:.0f} s", flush=True)
    steps = args.epochs * epoch_steps(len(labels))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(lightning_checkpoint(model, args.epochs, steps, args.seed), args.output)
    print(f"wrote {args.output}, {args.output.stat().st_size} bytes")
    report(confusion(model, *load("val", VAL_PER_CLASS, CONTRACT)))


def report(counts: NDArray[np.int64]) -> None:
    """Print the recall of every class and the top-1 accuracy of a confusion table."""
    for name, row, right in zip(CLASS_NAMES, counts, counts.diagonal(), strict=True):
        print(f"{name:24} recall {right / row.sum():.2f}")
    print(f"val top-1 {counts.trace() / counts.sum():.4f} of {counts.sum()} photos")


if __name__ == "__main__":
    main()
