"""A workspace small enough to build and measure in seconds: four classes of plain-coloured leaves, and
a network with all that quantisation stumbles over (depthwise, gates, hard-swish, batch norm).

Its features are random; only its last layer is fitted, by least squares, which takes no time and is
always the same.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tests.builders import Once, checked

CLASS_NAMES = ("Corn_Healthy", "Corn_Rust", "Potato_Late_Blight", "Tomato_Leaf_Mold")
COLOURS = np.array([(60, 150, 50), (170, 100, 40), (90, 80, 60), (170, 180, 60)])
SIDE = 32
MEAN, STD = (0.45, 0.45, 0.3), (0.25, 0.25, 0.2)

STUDENT = """
from torch import nn


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 8, 1), nn.ReLU(),
            nn.Conv2d(8, channels, 1), nn.Hardsigmoid(),
        )

    def forward(self, x):
        return x * self.weigh(x)


def create_model(num_classes, width=16):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish(),
        nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Gate(width),
        nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes),
    )
"""


def draw_photos(folder: Path, per_class: int, seed: int) -> None:
    """Class folders of JPEGs: the class's colour, lit and speckled; now and then another's."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASS_NAMES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            seen = label if rng.random() > 0.08 else int(rng.integers(len(CLASS_NAMES)))
            height, width = rng.integers(36, 56, 2)
            colour = COLOURS[seen] * rng.uniform(0.85, 1.15) + rng.normal(0, 8, 3)
            pixels = colour + rng.normal(0, 20, (height, width, 3))
            photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            photo.save(folder / name / f"{number:03}.jpg", quality=90)


def write_student(folder: Path, seed: int = 0) -> None:
    """`student.py`, and `student.ckpt` in Lightning's layout, fitted to the photos of `data/calib`."""
    (folder / "student.py").write_text(STUDENT)
    torch.manual_seed(seed)
    model = create_model(folder)
    images, labels = _examples(folder / "data" / "calib")
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # the plain average: one pass is all it takes
                layer.weight.uniform_(0.5, 1.5)
        model.train()(images)
        model.eval()
        features = model[:-1](images)
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        wanted = 8 * torch.nn.functional.one_hot(labels).float()
        normal = features.T @ features + 0.1 * torch.eye(features.shape[1])
        solution = torch.linalg.solve(normal, features.T @ wanted)
        model[-1].weight.copy_(solution[:-1].T)
        model[-1].bias.copy_(solution[-1])
    torch.save(lightning_checkpoint(model), folder / "student.ckpt")


def create_model(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("tiny_student", folder / "student.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.create_model(len(CLASS_NAMES))


def load_model(folder: Path) -> Any:
    """The trained network, by nothing but torch."""
    state = torch.load(folder / "student.ckpt", weights_only=True)["state_dict"]
    model = create_model(folder)
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    return model.eval()


def lightning_checkpoint(model: Any) -> dict[str, object]:
    return {
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()},
        "hyper_parameters": {},
        "class_names": list(CLASS_NAMES),
        "model_config": {"num_classes": len(CLASS_NAMES), "input_height": SIDE, "input_width": SIDE},
        "preprocessing_stats": {"mean": MEAN, "std": STD, "resize_shorter_side": 36, "center_crop": SIDE},
        "pytorch-lightning_version": "2.4.0",
        "epoch": 1,
        "global_step": 40,
        "optimizer_states": [],
        "lr_schedulers": [],
        "callbacks": {},
        "loops": {},
    }


def _examples(folder: Path) -> tuple[Any, Any]:
    photos = [(path, label) for label, name in enumerate(CLASS_NAMES) for path in (folder / name).iterdir()]
    pixels = np.stack([np.asarray(Image.open(path).resize((SIDE, SIDE))) for path, _ in sorted(photos)])
    normal = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    labels = torch.tensor([label for _, label in sorted(photos)])
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32)), labels


@dataclass(frozen=True)
class Bench:
    """A workspace folder and the cache that its commands use."""

    root: Path
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KRISHI_CACHE": str(self.cache)}

    def command(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "workbench", *map(str, words)]

    def run(
        self, *words: str | Path, code: int = 0, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One command as a user types it, in the workspace's folder; it must end with `code`."""
        done = subprocess.run(
            self.command(*words), cwd=cwd or self.root, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *words: str | Path, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--format", "json", code=code).stdout)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """One command in a process group of its own, its stderr to be read."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def prepare_folder(root: Path, *, per_class: int = 10) -> None:
    """What a team has before it meets krishi-bench: photos, a checkpoint and the code of its network."""
    draw_photos(root / "data" / "calib", per_class, seed=1)
    draw_photos(root / "data" / "val", per_class, seed=2)
    write_student(root)


def write_workspace(
    folder: Path, source: Path, more: str = "", *, budget: dict[str, object] | None = None, **changed: object
) -> Path:
    """`krishi.yaml` in `folder` over what lies in `source`. budget: more of it; changed: other values for the
    keys below."""
    value: dict[str, object] = {
        "checkpoint": source / "student.ckpt",
        "factory": f"{source / 'student.py'}:create_model",
        "validation": source / "data" / "val",
        "calibration": source / "data" / "calib",
        **changed,
    }
    model = {key: str(value[key]) for key in value if key in ("checkpoint", "factory", "class_names")}
    data = {key: str(value[key]) for key in ("validation", "calibration")}
    limits = {"max_accuracy_drop": 0.2, **(budget or {})}  # what 40 photos can show
    text = f"model: {json.dumps(model)}\ndata: {json.dumps(data)}\nbudget: {json.dumps(limits)}\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "krishi.yaml").write_text(f"name: leaf\n{text}{more}")
    return folder / "krishi.yaml"


@dataclass(frozen=True)
class Student:
    """What several files of tests share: to read and export a checkpoint takes longer than most tests.

    source: photos, the checkpoint and the code of its network. built: a cache that holds its baseline.
    """

    source: Path
    built: Path

    def cache(self, folder: Path) -> Path:
        """A copy of the cache."""
        return Path(shutil.copytree(self.built, folder))


def shared_student(once: Once) -> Student:
    def make(folder: Path) -> None:
        prepare_folder(folder / "leaf")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KRISHI_CACHE", str(folder / "cache"))
            checked(write_workspace(folder / "workspace", folder / "leaf"), [])

    folder = once("student", make)
    return Student(folder / "leaf", folder / "cache")


def children_of(pid: int) -> list[int]:
    """The processes that it started, and those that they did."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tree_digest(folder: Path) -> str:
    """Of the names and contents of all files below."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def photos_of(folder: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """Every photo with its label, in the order of an evaluation: by class, then by path."""
    return [
        (path, label)
        for label, name in enumerate(class_names)
        for path in sorted((folder / name).iterdir(), key=str)
    ]


needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
