"""Which altered copies of a photo are found by look, and how far apart different photos are.

    python benchmarks/likeness.py FOLDER [FOLDER ...] > docs/measured-likeness.md

FOLDER: photos at any depth. Every photo is altered in every way, and the copy looked for among all of them.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from workbench.photos.folders import Walk
from workbench.photos.likeness import BITS, NEAR_BITS, groups, hashes, nearest, small_copy
from workbench.photos.preprocess import pixels_of

Alter = Callable[[Image.Image], Image.Image]
Turn = Image.Transpose
DISTANCES = (16, 24, 32, 40, 48, 56, 64, 72)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, factor: float, squeeze: float = 1.0) -> Image.Image:
    size = round(image.width * factor), round(image.height * factor * squeeze)
    return image.resize(size, Image.Resampling.BICUBIC)


def cut(image: Image.Image, share: float) -> Image.Image:
    across, down = round(image.width * share), round(image.height * share)
    return image.crop((across, down, image.width - across, image.height - down))


def noisy(image: Image.Image, spread: float) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, spread, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def messenger(image: Image.Image) -> Image.Image:
    return jpeg(scaled(image, 0.5), 50)


ALTERED: dict[str, Alter] = {
    **{f"JPEG of quality {q}": partial(jpeg, quality=q) for q in (90, 60, 30, 10)},
    "half the size": partial(scaled, factor=0.5),
    "a quarter of the size": partial(scaled, factor=0.25),
    "half the size, JPEG 50, as messengers do": messenger,
    "squeezed to 4:3": partial(scaled, factor=1.0, squeeze=0.75),
    "turned by 90°": lambda image: image.transpose(Turn.ROTATE_90),
    "turned by 180°, half the size, JPEG 50": lambda image: messenger(image.transpose(Turn.ROTATE_180)),
    "mirrored": lambda image: image.transpose(Turn.FLIP_LEFT_RIGHT),
    "mirrored, half the size, JPEG 50": lambda image: messenger(image.transpose(Turn.FLIP_LEFT_RIGHT)),
    "mirrored and turned by 90°": lambda image: image.transpose(Turn.TRANSVERSE),
    "darker by 30 %": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "brighter by 20 %": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "contrast up by 30 %": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "black and white": lambda image: image.convert("L").convert("RGB"),
    "noise of 10 levels": partial(noisy, spread=10),
    **{
        f"{100 * share:.0f} % cut off on every side": partial(cut, share=share)
        for share in (0.01, 0.02, 0.05, 0.1)
    },
    "turned by 2°, corners black": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "turned by 5°, corners black": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
}


def small(images: Sequence[Image.Image]) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    def one(image: Image.Image) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=0)
        return pixels_of(buffer.getvalue(), small_copy())

    return np.stack([one(image) for image in images])


def closest_pairs(found: "np.ndarray[Any, np.dtype[np.int8]]") -> "np.ndarray[Any, np.dtype[np.int64]]":
    """The distance of every two photos, sorted."""
    rows = found.shape[1]
    least = np.full((rows, rows), BITS, np.float32)
    upright = found[0].astype(np.float32)
    for form in found:
        least = np.minimum(least, (BITS - upright @ form.astype(np.float32).T) / 2)
    return np.sort(np.minimum(least, least.T)[np.triu_indices(rows, 1)].astype(np.int64))


def tables(folders: Sequence[Path], sample: int) -> Iterator[str]:
    paths = sorted(path for folder in folders for path in Walk().photos(folder))
    data = [path.read_bytes() for path in paths]
    started = time.perf_counter()
    copies = np.stack([pixels_of(each, small_copy()) for each in data])
    decoded = time.perf_counter()
    found = hashes(copies)
    alike = groups(found, paths and [str(path) for path in paths])
    ended = time.perf_counter()
    distances = closest_pairs(found)
    pairs = len(distances)
    yield (
        f"{len(paths):,} photos, {pairs:,} pairs; decoding them small on one processor took "
        f"{decoded - started:.1f} s, comparing each with each in eight positions {ended - decoded:.1f} s. "
        f"Photos that look like one before them: {len(paths) - len(set(alike))}.\n"
    )
    yield "## Different photos\n"
    yield "| closer than, of 256 bits | pairs | of a million |\n| ---: | ---: | ---: |"
    for limit in DISTANCES:
        near = int(np.searchsorted(distances, limit))
        yield f"| {limit}{' (in use)' * (limit == NEAR_BITS)} | {near:,} | {1e6 * near / pairs:.2f} |"
    yield f"\nThe closest pairs: {', '.join(map(str, distances[:12]))} bits.\n"
    yield "## Altered copies\n"
    yield "| copy | found | nearest is the original | bits, median | 99 % | largest |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    chosen = np.linspace(0, len(paths) - 1, min(sample, len(paths))).astype(int)
    originals = [Image.open(paths[row]).convert("RGB") for row in chosen]
    for name, alter in ALTERED.items():
        bits, rows, _ = nearest(hashes(small([alter(image) for image in originals])), found)
        middle, most = np.quantile(bits, [0.5, 0.99])
        share, right = 100 * float((bits < NEAR_BITS).mean()), 100 * float((rows == chosen).mean())
        yield f"| {name} | {share:.1f} % | {right:.1f} % | {middle:.0f} | {most:.0f} | {bits.max()} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--sample", type=int, default=400, help="photos that are altered")
    options = parser.parse_args()
    print(f"Made by `benchmarks/likeness.py` on {datetime.now(UTC):%Y-%m-%d}.\n")
    for line in tables(options.folders, options.sample):
        print(line)


if __name__ == "__main__":
    main()
