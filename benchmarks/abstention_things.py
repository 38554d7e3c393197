"""Pictures that show no leaf, for `abstention.py`: drawn ones, and cuts of photos of other things."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from workbench.workspace.sample.leaves import PLANTS, grow_leaf, light, noise, paint_ground

Picture: TypeAlias = Image.Image
SIDE = 256
WORDS = ("invoice", "tomato seed", "is due on", "30 November;", "please pay", "1,250 rupees", "to", "00417")


def colour(rng: Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def flat(rng: Generator) -> Picture:
    """One colour, or one that fades into another: a hand on the lens, a wall, a sky."""
    ends = np.array([colour(rng), colour(rng)], dtype=np.float32)
    ramp = np.linspace(0, rng.uniform(0, 1), SIDE, dtype=np.float32)[:, None, None]
    field = ends[0] + ramp * (ends[1] - ends[0]) + rng.normal(0, rng.uniform(0, 6), (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))


def static(rng: Generator) -> Picture:
    """Noise without structure."""
    return Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def texture(rng: Generator) -> Picture:
    """Two colours mixed by a smooth random field, finer or coarser: cloth, stone, water."""
    cells = rng.uniform(3, 60, 2)
    mix = np.clip(0.5 + 0.4 * noise(rng, (SIDE, SIDE), *cells), 0, 1)[..., None]
    one, two = (np.array(colour(rng), dtype=np.float32) for _ in range(2))
    return Image.fromarray((one + mix * (two - one)).astype(np.uint8))


def pattern(rng: Generator) -> Picture:
    """Stripes or checks: tiles, a fence, a shirt."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    turn, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
    along = np.floor((x * np.cos(turn) + y * np.sin(turn)) / period)
    across = np.floor((y * np.cos(turn) - x * np.sin(turn)) / period) if rng.uniform() < 0.5 else 0
    colours = np.array([colour(rng), colour(rng)], dtype=np.uint8)
    return Image.fromarray(colours[((along + across) % 2).astype(int)])


def drawing(rng: Generator) -> Picture:
    """Circles, rectangles, polygons and lines on one colour."""
    picture = Image.new("RGB", (SIDE, SIDE), colour(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 12))):
        points = [(float(x), float(y)) for x, y in rng.uniform(0, SIDE, (int(rng.integers(3, 7)), 2))]
        (left, top), (right, bottom) = np.sort(rng.uniform(0, SIDE, (2, 2)), axis=0).tolist()
        kind = int(rng.integers(4))
        if kind == 0:
            pen.ellipse((left, top, right, bottom), fill=colour(rng))
        elif kind == 1:
            pen.rectangle((left, top, right, bottom), fill=colour(rng))
        elif kind == 2:
            pen.polygon(points, fill=colour(rng))
        else:
            pen.line(points, fill=colour(rng), width=int(rng.integers(1, 9)))
    return picture


def text(rng: Generator) -> Picture:
    """A page of text, as a screenshot or a form has it."""
    dark = rng.uniform() < 0.3
    picture = Image.new("RGB", (SIDE, SIDE), (24, 24, 28) if dark else (250, 250, 246))
    pen, size = ImageDraw.Draw(picture), int(rng.integers(9, 26))
    font = ImageFont.load_default(size)
    for line in range(SIDE // (size + 4)):
        words = " ".join(rng.choice(WORDS, int(rng.integers(2, 12))))
        ink = (230, 230, 230) if dark else (20, 20, 20)
        pen.text((8, 4 + line * (size + 4)), words, fill=ink, font=font)
    return picture


def ground(rng: Generator) -> Picture:
    """The grounds of the bundled sample with no leaf on them: soil, planks, paper, cloth, blurred green."""
    leaf = grow_leaf(rng, next(iter(PLANTS.values())), (SIDE, SIDE))
    canvas = light(rng, paint_ground(rng, replace(leaf, mask=np.zeros_like(leaf.mask))))
    picture = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(abs(rng.normal(0, 0.9))))


DRAWN: dict[str, Callable[[Generator], Picture]] = {
    "one colour": flat,
    "noise": static,
    "textures": texture,
    "stripes and checks": pattern,
    "drawings": drawing,
    "text": text,
    "grounds without a leaf": ground,
}


def cuts(folder: Path, count: int) -> Iterator[Picture]:
    """Square cuts of the photos in a folder, in turns, a third of the shorter side or larger."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    rng = default_rng(7)
    photos = [Image.open(path).convert("RGB") for path in paths]
    for number in range(count):
        photo = photos[number % len(photos)]
        side = int(min(photo.size) * rng.uniform(0.34, 1))
        left, top = (int(rng.uniform(0, length - side + 1)) for length in photo.size)
        yield photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def pictures(kind: str, count: int) -> Iterator[Picture]:
    """The same for ever."""
    for number in range(count):
        yield DRAWN[kind](default_rng([number, sorted(DRAWN).index(kind)]))
