"""Synthetic photographs of leaves: twelve classes named like a plant-disease data set.

Each shows a leaf on some ground, lit from one side, with the lesions of its disease, taken by a middling
camera. Severity runs from barely visible to heavy, so some photos are hard for people too.

A field is a (height, width) float32 array over the photo, a canvas a (height, width, 3) float32 array
of RGB in 0..1 (it may leave that range before it is developed). Leaf coordinates: half a leaf is 1 long.
"""

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Field = NDArray[np.float32]
Canvas = Field
Mask = NDArray[np.bool_]
Rgb = tuple[float, float, float]
Ramp = tuple[tuple[float, Rgb, float], ...]  # (distance in lesion radii, colour, opacity), by distance

SIDE_PX: Final = 192
SHAPES: Final = ((SIDE_PX, SIDE_PX),) * 8 + ((SIDE_PX, 256), (256, SIDE_PX))  # (height, width), one drawn
FAR: Final = 9.0  # a distance in lesion radii at which no ramp paints anything

Split = Literal["train", "calib", "val"]
FIRST_SEED: Final[dict[Split, int]] = {"train": 0, "calib": 1_000_000, "val": 2_000_000}


@dataclass(frozen=True, slots=True)
class Plant:
    """The healthy leaf of a plant."""

    aspect: float  # half-width / half-length
    lobes: int
    lobe_depth: float  # fraction of the radius
    teeth: int
    tooth_depth: float
    veins: Literal["pinnate", "palmate", "parallel"]
    side_veins: float  # veins per half-length (pinnate) or across the blade (parallel)
    green: Rgb


PLANTS: Final = {
    "Apple": Plant(0.62, 0, 0.0, 44, 0.035, "pinnate", 4.0, (0.25, 0.42, 0.16)),
    "Corn": Plant(0.40, 0, 0.0, 0, 0.0, "parallel", 11.0, (0.30, 0.48, 0.17)),
    "Grape": Plant(0.95, 5, 0.20, 34, 0.06, "palmate", 0.0, (0.31, 0.47, 0.17)),
    "Potato": Plant(0.76, 0, 0.0, 0, 0.0, "pinnate", 3.2, (0.22, 0.40, 0.18)),
    "Squash": Plant(0.95, 5, 0.10, 26, 0.04, "palmate", 0.0, (0.27, 0.44, 0.18)),
    "Tomato": Plant(0.56, 9, 0.20, 18, 0.04, "pinnate", 3.4, (0.25, 0.42, 0.16)),
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf lying in one photo."""

    unit_px: float  # pixels in one leaf unit
    depth: Field  # 0 on the margin, 1 on the midrib, negative outside
    mask: Field  # coverage, 0..1
    veins: Field  # 0..1


def noise(rng: Generator, shape: tuple[int, int], down: float, across: float | None = None) -> Field:
    """A smooth random field of mean 0 and deviation about 1, with this many cells down and across."""
    coarse = rng.standard_normal((max(2, round(down)), max(2, round(across or down))), dtype=np.float32)
    fine = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32) * np.float32(1.3)


def grow_leaf(rng: Generator, plant: Plant, shape: tuple[int, int]) -> Leaf:
    """Lay a leaf of random size, turn, tilt and curl near the middle of a photo of this (height, width)."""
    unit_px = SIDE_PX * rng.uniform(0.38, 0.57)
    # Leaf coordinates of every pixel: u along the midrib (-1 stalk, 1 tip), v across it.
    turn = rng.uniform(-math.pi, math.pi)
    y = np.arange(shape[0], dtype=np.float32)[:, None] - shape[0] * rng.uniform(0.43, 0.57)
    x = np.arange(shape[1], dtype=np.float32) - shape[1] * rng.uniform(0.43, 0.57)
    u: Field = np.asarray((x * math.cos(turn) + y * math.sin(turn)) / unit_px, np.float32)
    tilted_px = unit_px * rng.uniform(0.8, 1.1)
    v: Field = np.asarray((y * math.cos(turn) - x * math.sin(turn)) / tilted_px, np.float32)
    v += rng.uniform(-0.15, 0.15) * u * u
    u += 0.03 * noise(rng, shape, 5)
    v += 0.03 * noise(rng, shape, 5)
    if plant.veins == "parallel":  # a blade that runs through the photo
        blade = plant.aspect * rng.uniform(0.8, 1.5) * (1 - 0.15 * u)
        depth = 1 - np.abs(v) / blade
        margin_px = depth * blade * unit_px
    else:
        angle, radius = np.arctan2(v, u), np.hypot(u, v)
        table = _outline(rng, plant)
        edge = table[((angle + math.pi) * ((table.size - 1) / math.tau)).astype(np.intp)]
        depth = 1 - radius / edge
        margin_px = (edge - radius) * unit_px
    mask = np.clip(margin_px + 0.5, 0, 1)
    return Leaf(unit_px, depth.astype(np.float32), mask.astype(np.float32), _veins(rng, plant, u, v, unit_px))


def _outline(rng: Generator, plant: Plant) -> Field:
    """Radius of the leaf in leaf units at 2048 angles from -pi to pi, 0 being the tip."""
    angle = np.linspace(-math.pi, math.pi, 2048)
    aspect = plant.aspect * rng.uniform(0.88, 1.12)
    radius = aspect / np.hypot(aspect * np.cos(angle), np.sin(angle))
    radius *= 1 + 0.16 * np.exp(-((angle / 0.30) ** 2))
    if plant.veins == "palmate":
        radius *= 1 - 0.45 * np.exp(-(((math.pi - np.abs(angle)) / 0.28) ** 2))
    # Lobes and teeth are spread by arc length of an ellipse, else they crowd at the tip.
    along = np.arctan2(np.sin(angle) / aspect, np.cos(angle))
    lobes = (0.5 - 0.5 * np.cos(plant.lobes * along)) ** 2
    radius *= 1 - plant.lobe_depth * rng.uniform(0.7, 1.3) * lobes
    radius *= 1 - plant.tooth_depth * ((plant.teeth * np.abs(along) / math.tau) % 1)
    for wave in range(2, 6):
        radius *= 1 + rng.normal(0, 0.012) * np.cos(wave * angle + rng.uniform(0, math.tau))
    return radius.astype(np.float32)


def _veins(rng: Generator, plant: Plant, u: Field, v: Field, unit_px: float) -> Field:
    """The part of each pixel that is vein, 0..1."""
    thin = 1.1 / unit_px
    midrib = np.clip(1.6 - np.abs(v) / (thin * (1.7 - 0.7 * u)), 0, 1)
    if plant.veins == "parallel":
        rest = 0.35 * (0.5 + 0.5 * np.cos(v * (plant.side_veins * math.tau))) ** 4
    elif plant.veins == "palmate":
        angle = np.arctan2(v, u + 0.55)
        reach = np.hypot(v, u + 0.55)
        step = math.radians(36)
        rest = np.clip(1.4 - reach * np.abs(np.sin(angle - step * np.round(angle / step))) / thin, 0, 1)
    else:
        phase = (u - 0.75 * np.abs(v)) * plant.side_veins + np.where(v > 0, 0.4, 0) + rng.uniform()
        off = np.abs(phase - np.round(phase)) / plant.side_veins
        rest = 0.8 * np.clip(1.5 - off / thin, 0, 1) * np.clip(np.abs(v) * 40, 0, 1)
    return np.asarray(np.maximum(midrib, rest), dtype=np.float32)


def paint_leaf(rng: Generator, canvas: Canvas, leaf: Leaf, green: Rgb) -> None:
    """Fill the canvas with the healthy blade: its green, its veins, the unevenness of its surface."""
    shape = leaf.depth.shape
    tint = np.asarray(green) * rng.uniform(0.80, 1.20) + rng.normal(0, 0.018, 3)
    tint[0] += rng.uniform(-0.04, 0.06)  # from blue-green to yellow-green, as age and nitrogen have it
    bumps = 1 + 0.06 * noise(rng, shape, 7) + 0.05 * noise(rng, shape, 26)
    canvas[:] = tint.astype(np.float32) * bumps[..., None]
    pale = np.asarray([0.16, 0.17, 0.09], np.float32) * rng.uniform(0.2, 1.0)
    canvas += leaf.veins[..., None] * pale
    yellowing = np.clip(1 - leaf.depth * 5, 0, 1) * rng.uniform(-0.2, 0.9)
    canvas += np.clip(yellowing, 0, 1)[..., None] * np.asarray([0.10, 0.05, -0.02], np.float32)


def spots(
    rng: Generator, leaf: Leaf, count: int, radius: tuple[float, float], ragged: float, at: Mask | None = None
) -> Field:
    """Distance of each pixel to the nearest of `count` random spots, in radii of that spot (FAR if far).

    radius: smallest and largest, in leaf units. ragged: how far from round. at: allowed centres.
    """
    nearest = np.full(leaf.depth.shape, FAR, np.float32)
    allowed = np.flatnonzero(leaf.depth > 0.04 if at is None else at)
    if not allowed.size:
        return nearest
    rows, columns = (each.tolist() for each in np.divmod(rng.choice(allowed, count), leaf.depth.shape[1]))
    # Squared, small radii are the common ones; no spot is below the camera's resolution.
    sizes = radius[0] + (radius[1] - radius[0]) * rng.uniform(0, 1, count) ** 2
    sizes_px = np.maximum(sizes * leaf.unit_px, 1.0).tolist()
    for row, column, radius_px in zip(rows, columns, sizes_px, strict=True):
        stretch, reach = rng.uniform(0.75, 1.33), math.ceil(3 * radius_px)
        top, left = max(0, row - reach), max(0, column - reach)
        window = nearest[top : row + reach + 1, left : column + reach + 1]
        y = (np.arange(top, top + window.shape[0], dtype=np.float32) - row) * (stretch / radius_px)
        x = (np.arange(left, left + window.shape[1], dtype=np.float32) - column) / (stretch * radius_px)
        np.minimum(window, np.sqrt((y * y)[:, None] + (x * x)[None, :]), out=window)
    # Bumps as wide as half a large spot, or a blotch would have the outline of a sponge.
    bumps = min(max(SIDE_PX / (radius[1] * leaf.unit_px), 8), 40)
    return nearest + ragged * noise(rng, leaf.depth.shape, 1.5 * bumps)


def paint(canvas: Canvas, distance: Field, ramp: Ramp, strength: float) -> None:
    """Blend the ramp's colours over the canvas wherever `distance` is short enough."""
    stops = [stop for stop, _, _ in ramp]
    near = distance < stops[-1]
    at = distance[near]
    alpha = np.interp(at, stops, [strength * opacity for _, _, opacity in ramp])[:, None]
    colour = np.stack([np.interp(at, stops, [rgb[c] for _, rgb, _ in ramp]) for c in range(3)], axis=1)
    canvas[near] += (alpha * (colour - canvas[near])).astype(np.float32)


def blend(canvas: Canvas, alpha: NDArray[np.floating], colour: Rgb) -> None:
    """Lay one colour over the canvas with an opacity per pixel (clipped to 0..1)."""
    canvas += np.clip(alpha, 0, 1)[..., None] * (np.asarray(colour, np.float32) - canvas)


def between(rng: Generator, severity: float, low: float, high: float) -> int:
    """A count that grows with severity, at least 1."""
    return max(1, int(rng.poisson(low + (high - low) * severity)))


# Each disease paints its symptoms on a healthy blade; severity is 0 (all but invisible) to 1.


def cedar_rust(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """A few bright yellow-orange discs with a red rim and dark specks in the middle."""
    distance = spots(rng, leaf, between(rng, severity, 1, 13), (0.035, 0.05 + 0.05 * severity), 0.15)
    orange, red, yellow = (0.86, 0.50, 0.08), (0.66, 0.25, 0.08), (0.80, 0.68, 0.16)
    ramp = ((0.0, (0.45, 0.20, 0.06), 0.9), (0.3, orange, 0.95), (0.7, orange, 0.95), (0.95, red, 0.8))
    paint(canvas, distance, (*ramp, (1.2, yellow, 0.55), (1.6, yellow, 0.0)), 0.45 + 0.55 * severity)


def scab(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """Olive to sooty, velvety blotches with feathered edges, often along the veins."""
    veins = (leaf.veins > 0.3) & (leaf.depth > 0.05)
    distance = spots(rng, leaf, between(rng, severity, 2, 16), (0.04, 0.08 + 0.09 * severity), 0.38, veins)
    olive, soot = (0.24, 0.23, 0.08), (0.13, 0.12, 0.06)
    ramp: Ramp = ((0.0, soot, 0.85), (0.6, olive, 0.8), (1.0, olive, 0.5), (1.6, olive, 0.0))
    paint(canvas, distance, ramp, 0.4 + 0.6 * severity)


def common_rust(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """Many small cinnamon pustules scattered over the blade, each in a thin pale ring."""
    distance = spots(rng, leaf, between(rng, severity, 12, 150), (0.012, 0.034), 0.1)
    cinnamon, pale = (0.56, 0.25, 0.07), (0.62, 0.60, 0.25)
    ramp: Ramp = ((0.0, (0.40, 0.15, 0.05), 1.0), (0.8, cinnamon, 0.95), (1.2, pale, 0.5), (1.8, pale, 0.0))
    paint(canvas, distance, ramp, 0.55 + 0.45 * severity)


def black_rot(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """Tan to brown discs with a sharp, nearly black rim and a ring of black dots inside."""
    distance = spots(rng, leaf, between(rng, severity, 2, 16), (0.03, 0.06 + 0.07 * severity), 0.08)
    tan, brown, rim = (0.60, 0.42, 0.24), (0.45, 0.26, 0.12), (0.13, 0.06, 0.04)
    ramp: Ramp = ((0.0, tan, 0.95), (0.6, brown, 0.95), (0.82, rim, 0.95), (1.0, rim, 0.9), (1.2, rim, 0.0))
    paint(canvas, distance, ramp, 0.6 + 0.4 * severity)


def late_blight(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """Large water-soaked blotches that run in from the margin, dark, with a pale green front."""
    margin = np.zeros(leaf.depth.shape, np.bool_)
    # In the inner three quarters of the photo its only blotch is not cut off.
    down, across = (side // 8 for side in leaf.depth.shape)
    margin[down:-down, across:-across] = True
    margin &= (leaf.depth > 0) & (leaf.depth < 0.22)
    size = 0.13 + 0.36 * severity
    distance = spots(rng, leaf, between(rng, severity, 0.6, 3.5), (0.6 * size, size), 0.24, margin)
    soaked, brown, front = (0.13, 0.15, 0.08), (0.22, 0.15, 0.09), (0.50, 0.54, 0.30)
    ramp: Ramp = ((0.0, brown, 0.92), (0.55, brown, 0.9), (0.85, soaked, 0.85), (1.05, soaked, 0.6))
    paint(canvas, distance, (*ramp, (1.2, front, 0.4), (1.5, front, 0.0)), 0.55 + 0.45 * severity)
    if rng.uniform() < 0.4:  # in damp weather the front carries white mould
        mould = np.exp(-(((distance - 1.05) / 0.12) ** 2)) * (0.3 + 0.3 * noise(rng, leaf.depth.shape, 60))
        blend(canvas, mould * severity, (0.82, 0.84, 0.80))


def early_blight(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """Brown targets: concentric rings inside a yellow halo."""
    distance = spots(rng, leaf, between(rng, severity, 1, 8), (0.05, 0.10 + 0.10 * severity), 0.10)
    brown, dark, yellow = (0.42, 0.28, 0.13), (0.19, 0.12, 0.06), (0.72, 0.66, 0.16)
    ramp: Ramp = ((0.0, dark, 0.95), (0.25, brown, 0.95), (0.9, brown, 0.92), (1.0, dark, 0.85))
    paint(canvas, distance, (*ramp, (1.15, yellow, 0.75), (2.0, yellow, 0.0)), 0.5 + 0.5 * severity)
    rings = np.clip(np.sin(distance * math.tau * rng.uniform(2.2, 3.4)), 0, 1) * (distance < 1)
    blend(canvas, rings * (0.3 + 0.4 * severity), dark)


def bacterial_spot(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """Many tiny, almost black, greasy spots, each with a narrow yellow halo; crowded in patches."""
    crowded = (leaf.depth > 0.03) & (noise(rng, leaf.depth.shape, 4) > -0.3)
    distance = spots(
        rng, leaf, between(rng, severity, 8, 80), (0.013, 0.024 + 0.016 * severity), 0.1, crowded
    )
    dark, yellow = (0.13, 0.09, 0.05), (0.66, 0.62, 0.18)
    ramp: Ramp = ((0.0, dark, 0.95), (0.85, dark, 0.9), (1.25, yellow, 0.6), (2.4, yellow, 0.0))
    paint(canvas, distance, ramp, 0.5 + 0.5 * severity)


def powdery_mildew(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """White, diffuse, floury patches that run together."""
    shape = leaf.depth.shape
    patches = noise(rng, shape, 6) + 0.5 * noise(rng, shape, 14) - 1.3 + 1.8 * severity
    floury = 0.75 + 0.12 * noise(rng, shape, 90)
    blend(canvas, np.clip(0.6 * patches, 0, 0.85) * floury * (0.45 + 0.55 * severity), (0.86, 0.87, 0.84))


def mosaic_virus(rng: Generator, canvas: Canvas, leaf: Leaf, severity: float) -> None:
    """Islands of dark green in light yellow-green, kept apart by the veins."""
    shape = leaf.depth.shape
    islands = np.tanh(0.9 * (noise(rng, shape, 18) + 0.6 * noise(rng, shape, 30) + 1.2 * leaf.veins))
    blend(canvas, (0.5 - 0.6 * islands) * (0.10 + 0.6 * severity), (0.60, 0.64, 0.24))
    canvas *= (1 - np.clip(islands, 0, 1) * (0.05 + 0.25 * severity))[..., None]


Disease = Callable[[Generator, Canvas, Leaf, float], None]
DISEASES: Final[dict[str, Disease]] = {
    "Apple_Cedar_Rust": cedar_rust,
    "Apple_Scab": scab,
    "Corn_Common_Rust": common_rust,
    "Grape_Black_Rot": black_rot,
    "Potato_Healthy": lambda *_: None,
    "Potato_Late_Blight": late_blight,
    "Squash_Powdery_Mildew": powdery_mildew,
    "Tomato_Bacterial_Spot": bacterial_spot,
    "Tomato_Early_Blight": early_blight,
    "Tomato_Healthy": lambda *_: None,
    "Tomato_Late_Blight": late_blight,
    "Tomato_Mosaic_Virus": mosaic_virus,
}
CLASS_NAMES: Final[tuple[str, ...]] = tuple(sorted(DISEASES))

# Backgrounds: two colours, mixed in cells of two sizes (down, across).
GROUNDS: Final = (
    ((0.20, 0.14, 0.09), (0.47, 0.36, 0.25), (9, 9), (64, 64)),  # soil
    ((0.72, 0.71, 0.68), (0.93, 0.92, 0.90), (3, 3), (70, 70)),  # paper
    ((0.35, 0.24, 0.15), (0.66, 0.51, 0.35), (14, 2), (90, 4)),  # planks
    ((0.38, 0.39, 0.41), (0.60, 0.61, 0.62), (5, 5), (96, 96)),  # concrete
    ((0.07, 0.14, 0.05), (0.38, 0.52, 0.20), (6, 6), (10, 10)),  # other leaves, out of focus
    ((0.10, 0.11, 0.14), (0.24, 0.25, 0.30), (4, 4), (80, 80)),  # dark cloth
)


def paint_ground(rng: Generator, leaf: Leaf) -> Canvas:
    """The ground behind the leaf, with the leaf's soft shadow on it."""
    shape = leaf.depth.shape
    dark, light, coarse, fine = GROUNDS[rng.integers(len(GROUNDS))]
    mix = 0.5 + 0.22 * noise(rng, shape, *coarse) + 0.12 * noise(rng, shape, *fine)
    shade = np.asarray(dark, np.float32)
    canvas: Canvas = shade + np.clip(mix, 0, 1)[..., None] * (np.asarray(light, np.float32) - shade)
    drop = (int(rng.integers(-7, 8)), int(rng.integers(-7, 8)))
    small = Image.fromarray(np.roll(leaf.mask, drop, (0, 1))).reduce(8)
    shadow = np.asarray(small.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), dtype=np.float32)
    canvas *= 1 - rng.uniform(0.1, 0.55) * shadow[..., None]
    return canvas


def weather(rng: Generator, canvas: Canvas, leaf: Leaf) -> None:
    """Paint soil crumbs, scars, dust and glare, as any leaf has them, sick or not."""
    if rng.uniform() < 0.5:
        crumb = (0.30, 0.22, 0.14)
        crumbs = spots(rng, leaf, int(rng.integers(1, 10)), (0.010, 0.032), 0.25)
        paint(canvas, crumbs, ((0.0, crumb, 0.9), (0.9, crumb, 0.7), (1.3, crumb, 0.0)), rng.uniform(0.4, 1))
    if rng.uniform() < 0.3:
        scar = (0.46, 0.38, 0.22)
        edge = spots(rng, leaf, int(rng.integers(1, 4)), (0.04, 0.13), 0.3, np.abs(leaf.depth) < 0.05)
        paint(canvas, edge, ((0.0, scar, 0.8), (0.8, scar, 0.6), (1.1, scar, 0.0)), rng.uniform(0.3, 1))
    if rng.uniform() < 0.4:
        shape = leaf.depth.shape
        glare = noise(rng, shape, 5) + 0.2 * noise(rng, shape, 24) - rng.uniform(0.8, 1.8)
        blend(canvas, np.clip(0.2 * glare, 0, 0.4), (0.92, 0.95, 0.96))


def light(rng: Generator, canvas: Canvas) -> Canvas:
    """Light from one side, a colour cast, the wrong exposure and a darker rim."""
    y = np.linspace(-1, 1, canvas.shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, canvas.shape[1], dtype=np.float32)
    side, slope = rng.uniform(0, math.tau), rng.uniform(0, 0.35)
    lamp = 1 + slope * (x * math.cos(side) + y * math.sin(side)) - rng.uniform(0, 0.18) * (x * x + y * y)
    warmth, tint = rng.normal(0, 0.09), rng.normal(0, 0.035)
    cast = np.asarray([1 + warmth, 1 + tint, 1 - warmth], np.float32)
    exposure = np.float32(1.35 * 2 ** rng.normal(0, 0.38))
    lit = np.maximum(canvas * lamp[..., None] * (cast * exposure), 0)
    return np.asarray((lit / (lit + 0.55)) ** 1.45 * 1.55, dtype=np.float32)  # a film's shoulder and toe


def develop(rng: Generator, canvas: Canvas) -> bytes:
    """The canvas as a phone's JPEG, with lens blur and sensor noise."""
    picture = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    blur_px = abs(rng.normal(0, 0.9)) if rng.uniform() < 0.85 else rng.uniform(1.5, 2.8)
    if blur_px > 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(blur_px))
    grain = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.gamma(2.0, 2.2))
    noisy = np.clip(np.asarray(picture, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=int(rng.integers(45, 93)))
    return file.getvalue()


def photo(class_name: str, seed: int) -> bytes:
    """One photograph as JPEG, the same bytes for the same (class_name, seed) on the same libraries.

    192 x 192 pixels, one in five 256 x 192 or 192 x 256. KeyError for a name not in CLASS_NAMES.
    """
    disease, plant = DISEASES[class_name], PLANTS[class_name.partition("_")[0]]
    rng = default_rng(int.from_bytes(hashlib.sha256(f"{class_name}/{seed}".encode()).digest()))
    leaf = grow_leaf(rng, plant, SHAPES[rng.integers(len(SHAPES))])
    canvas = paint_ground(rng, leaf)
    blade = np.empty_like(canvas)
    paint_leaf(rng, blade, leaf, plant.green)
    disease(rng, blade, leaf, 0.1 + 0.9 * rng.beta(1.3, 1.2))
    weather(rng, blade, leaf)
    mask = leaf.mask
    if rng.uniform() >= 0.75:  # insects ate holes
        holes = spots(rng, leaf, int(rng.integers(1, 5)), (0.03, 0.10), 0.25)
        mask = mask * np.clip((holes - 1) * 6, 0, 1)
    canvas += mask[..., None] * (blade - canvas)
    return develop(rng, light(rng, canvas))


def photo_seed(split: Split, index: int) -> int:
    """Seed of the index-th photo of a split; no two splits share one."""
    if not 0 <= index < 1_000_000:
        raise ValueError(f"a split has at most 1,000,000 photos of a class, so there is no photo {index}")
    return FIRST_SEED[split] + index
