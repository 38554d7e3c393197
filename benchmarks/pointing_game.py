"""Does the hottest point of a heat map lie on a lesion? The pointing game, on photos whose lesions are known.

    python benchmarks/pointing_game.py [--photos 40] [--out docs/measured-explain.md]

The bundled student is exported, and quantised to static INT8; of each, class activation maps and
occlusion maps are made of --photos validation photos of every class that has lesions. A photo counts
where its answer is right and some of its lesions lie in what the network sees. A hit is a hottest point
on a lesion, or within 15 pixels of one, the rule of J. Zhang et al., "Top-down Neural Attention by
Excitation Backprop" (IJCV 2018). Chance is the middle of every photo, and the share of the pixels in
view that would hit.

Then what a map costs: a call of the model, one of the same model with the maps as a second part of its
output, and a map from the photo's file to the PNG.
"""

import argparse
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageFilter

from workbench.backends import OrtRuntime, Session
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.backends.heat_map import CALLS, class_heat, occlusion_heat, split_maps
from workbench.backends.ort import backend as ort
from workbench.measure.stats import wilson
from workbench.model.graph.class_maps import with_class_maps
from workbench.model.graph.onnx_file import artifact_info
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.photos.decode import decode_for
from workbench.photos.geometry import crop_area
from workbench.photos.heat_picture import heat_png, spread_heat
from workbench.photos.preprocess import batch_of, crop_pixels
from workbench.steps import Photos, apply
from workbench.steps.int8.settings import StaticInt8
from workbench.steps.simplify import Simplify
from workbench.system import machine
from workbench.workspace.sample import CHECKPOINT, STUDENT
from workbench.workspace.sample.leaves import CLASS_NAMES, photo, photo_seed
from workbench.workspace.sample.lesions import lesions

NEAR = 15  # pixels
CONTRACT = Preprocess(resize=144, crop=128, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SICK = [(label, name) for label, name in enumerate(CLASS_NAMES) if not name.endswith("Healthy")]
RUNTIME = OrtRuntime(threads=1)
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass
class Score:
    """on: points on a lesion; near: within NEAR pixels. seconds: of each map, from the file to the PNG."""

    name: str
    on: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    near: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    photos: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def count(self, class_name: str, on: float, near: float) -> None:
        self.photos[class_name] += 1
        self.on[class_name] += on
        self.near[class_name] += near

    def row(self, calls: str) -> str:
        total = sum(self.photos.values())
        low, high = wilson(round(sum(self.near.values())), total)
        seconds = f"{1e3 * median(self.seconds):.1f}" if self.seconds else "–"
        return (
            f"| {self.name} | {total} | {sum(self.on.values()) / total:.1%} | "
            f"{sum(self.near.values()) / total:.1%} | {low:.1%} to {high:.1%} | {calls} | {seconds} |"
        )


def exported(folder: Path) -> dict[str, Path]:
    """The student in FP32 and in static INT8."""
    plain, simple, small = (folder / f"{name}.onnx" for name in ("fp32", "simple", "int8"))
    words = ["export", "--checkpoint", str(CHECKPOINT), "--factory", f"{STUDENT}:create_model", "--output"]
    words += [str(plain), "--input-shape", "1", "3", "128", "128", "--opset-version", "17"]
    subprocess.run([sys.executable, "-m", "workbench", *words], check=True, stdout=subprocess.DEVNULL)
    pixels = [
        crop_pixels(decode_for(photo(name, photo_seed("calib", number)), CONTRACT), CONTRACT)
        for name in CLASS_NAMES
        for number in range(10)
    ]
    np.save(folder / "calib.npy", np.stack(pixels))
    labels = tuple(label for label in range(len(CLASS_NAMES)) for _ in range(10))
    images = Images(folder / "calib.npy", labels, CONTRACT, "calibration")
    photos = Photos(CONTRACT, images, samples=batch_of(np.stack(pixels[::30]), CONTRACT, raw=False))
    apply(Simplify(use="simplify"), plain, simple, photos)
    apply(StaticInt8(use="static_int8"), simple, small, photos)
    return {"FP32": plain, "static INT8": small}


@dataclass(frozen=True)
class Explained:
    """A model, the same with its maps, and how to read those."""

    session: Session
    maps: Session
    grid: tuple[int, int]
    step: float

    def by_maps(self, pixels: Any, label: int) -> Any:
        outputs = self.maps.infer(batch_of(pixels[None], CONTRACT, raw=False))
        return class_heat(split_maps(outputs, len(CLASS_NAMES), self.grid, self.step)[1][0], label)

    def by_occlusion(self, pixels: Any, label: int) -> Any:
        return occlusion_heat(self.session.infer, pixels, CONTRACT, label, raw=False, outputs="logits")


def opened(path: Path, stack: ExitStack) -> Explained:
    made = with_class_maps(onnx.load(path), np.zeros((1, 3, 128, 128), np.float32))
    onnx.save(made.model, path.with_suffix(".maps.onnx"))

    def session(file: Path) -> Session:
        info: ArtifactInfo = artifact_info(file)
        return stack.enter_context(ort.session(Artifact(file.parent, info), RUNTIME))

    return Explained(session(path), session(path.with_suffix(".maps.onnx")), made.grid, made.step)


def near(mask: Mask) -> Mask:
    """The pixels within NEAR of the mask, in a square."""
    grown = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * NEAR + 1))
    return np.asarray(grown) > 0


def play(models: dict[str, Explained], count: int) -> list[Score]:
    """One score for each way to choose a point."""
    scores: defaultdict[str, Score] = defaultdict(lambda: Score(""))
    for label, name in SICK:
        for number in range(count):
            seed = photo_seed("val", number)
            score_photo(models, photo(name, seed), lesions(name, seed), label, scores)
        print(f"{name}: {count} photos", file=sys.stderr)
    return list(scores.values())


def score_photo(
    models: dict[str, Explained], data: bytes, mask: Mask, label: int, scores: dict[str, Score]
) -> None:
    name, view = CLASS_NAMES[label], np.zeros_like(mask)
    left, top, right, bottom = (round(edge) for edge in crop_area(mask.shape[1], mask.shape[0], CONTRACT))
    view[top:bottom, left:right] = True
    if not (mask & view).any():
        return
    close = near(mask)

    def count(row: str, point: tuple[int, int] | None, seconds: float | None = None) -> None:
        scores[row].name = row
        on, by = (float(m[point] if point else m[view].mean()) for m in (mask, close))
        scores[row].count(name, on, by)
        scores[row].seconds += [seconds] if seconds is not None else []

    pixels = crop_pixels(decode_for(data, CONTRACT), CONTRACT)
    for title, model in models.items():
        if int(model.session.infer(batch_of(pixels[None], CONTRACT, raw=False)).argmax()) != label:
            continue
        for how, make in (("class activation map", model.by_maps), ("occlusion", model.by_occlusion)):
            count(f"{how}, {title}", *hottest(data, label, make))
    count("the middle of the photo", (mask.shape[0] // 2, mask.shape[1] // 2))
    count("any point, by chance", None)


def hottest(data: bytes, label: int, make: Callable[[Any, int], Any]) -> tuple[tuple[int, int], float]:
    """(row, column) in the photo, and the seconds that the map took."""
    started = time.perf_counter()
    decoded = decode_for(data, CONTRACT)
    heat = make(crop_pixels(decoded, CONTRACT), label)
    heat_png(heat, decoded, CONTRACT)
    seconds = time.perf_counter() - started
    spread = spread_heat(heat, decoded.size, CONTRACT, decoded.size)
    row, column = np.unravel_index(int(spread.argmax()), spread.shape)
    return (int(row), int(column)), seconds


def call_times(models: dict[str, Explained], turns: int = 300) -> list[str]:
    """Rows of the median milliseconds of a call without and with the maps, taken in turns."""
    batch, rows = batch_of(np.zeros((1, 128, 128, 3), np.uint8), CONTRACT, raw=False), []
    for title, model in models.items():
        times: dict[str, list[float]] = {"plain": [], "maps": []}
        for _ in range(turns):
            for key, session in (("plain", model.session), ("maps", model.maps)):
                started = time.perf_counter()
                session.infer(batch)
                times[key].append(1e3 * (time.perf_counter() - started))
        plain, maps = (median(times[key]) for key in ("plain", "maps"))
        ratio = median(b / a for a, b in zip(times["plain"], times["maps"], strict=True))
        rows.append(f"| {title} | {plain:.2f} | {maps:.2f} | {ratio:.2f} |")
    return rows


def page(scores: list[Score], times: list[str], count: int) -> str:
    here = machine.collect()
    maps = [score for score in scores if score.name.startswith(("class", "occlusion"))]
    classes = [
        f"| {name} | " + " | ".join(f"{s.near[name] / max(1, s.photos[name]):.0%}" for s in maps) + " |"
        for _, name in SICK
    ]
    return "\n".join(
        [
            "# Heat maps, measured",
            "",
            f"Made by `python benchmarks/pointing_game.py --photos {count}`, {datetime.now(UTC):%Y-%m-%d},",
            f"on {here.cpu}, one thread; other programs used the machine too.",
            "Photos and network are those of the bundled sample: drawn leaves, whose lesions are known to",
            "the program that draws them.",
            "",
            "## The pointing game",
            "",
            "Does the hottest point of the map of the class that was answered lie on a lesion, or within "
            f"{NEAR} pixels of one (of 192)?",
            "",
            "| point | photos | on a lesion | near one | 95 % | calls | ms a map |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(score.row(calls_of(score.name)) for score in scores),
            "",
            "Photos count where the answer is right and a lesion lies in what the network sees.",
            "Points near a lesion, by class:",
            "",
            "| class | " + " | ".join(score.name for score in maps) + " |",
            "| --- |" + " ---: |" * len(maps),
            *classes,
            "",
            "## What a map costs",
            "",
            "Median milliseconds of a call: of the model that answers, and of the file with the maps.",
            "",
            "| model | answers | with maps | ratio |",
            "| --- | ---: | ---: | ---: |",
            *times,
            "",
        ]
    )


def calls_of(name: str) -> str:
    return "1" if name.startswith("class") else str(CALLS) if name.startswith("occlusion") else "–"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=40, help="of each class")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        models = {name: opened(path, stack) for name, path in exported(Path(folder)).items()}
        text = page(play(models, given.photos), call_times(models), given.photos)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
