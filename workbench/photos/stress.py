"""Photos as a field gives them: shaken, out of focus, dark, wet, sent on. Each stress has five severities.

They act on the decoded photo, before the preprocessing, and are scaled to its size. Chance is seeded by the
photo's content and the stress: the same photo is stressed alike for every variant, on every day, and a higher
severity is more of the same.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from workbench.errors import WorkbenchError, did_you_mean
from workbench.photos.contract import Photo, Preprocess
from workbench.photos.geometry import resized_size
from workbench.system.files import digest_of, sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Apply: TypeAlias = Callable[[Image.Image, float, np.random.Generator], Image.Image]

SEVERITIES = (1, 2, 3, 4, 5)
METHOD = "stress-1"  # raised when photos are stressed in another way
FINE = 8  # kernels are drawn so many times larger, and reduced
REFERENCE = 256  # pixels of the shorter side for which the sensor is described
ELECTRONS, READ_NOISE = 20_000, 2.0  # of such a pixel: at white in daylight; of reading it out
MESSENGER_SIDE, BLOCK = 1600, 8  # pixels; of a JPEG's blocks


@dataclass(frozen=True, slots=True)
class Stress:
    """levels: of the five severities; docs/stress.md has their units. whole: it acts on the photo at its own
    size."""

    apply: "Apply"
    levels: tuple[float, float, float, float, float]
    whole: bool = False


def apply_stresses(data: bytes, names: Iterable[str], severity: int, contract: Preprocess) -> list[Photo]:
    """The photo of these bytes under each of the stresses, for `crop_pixels`. Raises ImageError."""
    from workbench.photos.decode import decode, decode_for

    photo = _reduced(decode_for(data, contract), contract)
    content, found = sha256_bytes(data), []
    for name in names:
        stress, rng = STRESSES[name], _chance(content, name)
        image = stress.apply(decode(data) if stress.whole else photo.image, stress.levels[severity - 1], rng)
        whole = Photo(image, image.size, (0, 0, *image.size))
        found.append(_reduced(whole, contract) if stress.whole else replace(photo, image=image))
    return found


def _chance(content: str, stress: str) -> "np.random.Generator":
    import numpy as np

    return np.random.default_rng(int(digest_of([content, stress])[:16], 16))


def find_stresses(words: Sequence[str]) -> tuple[str, ...]:
    """The stresses that these words name: `dusk`, or `blur` for every one with that word in its name; all
    where there are none. Raises WorkbenchError."""
    for word in words:
        if not any(_names(word, name) for name in STRESSES):
            hint = did_you_mean(word, STRESSES) or f"there are {', '.join(STRESSES)}"
            raise WorkbenchError(f"`{word}` is no stress", hint=hint)
    return tuple(name for name in STRESSES if not words or any(_names(word, name) for word in words))


def _names(word: str, stress: str) -> bool:
    return word == stress or word in stress.split("-")


def _reduced(photo: Photo, contract: Preprocess) -> Photo:
    """At most twice the size that it is resized to, as a scaled decode gives it."""
    # A blur of 12 megapixels takes a second, and the network sees none of what is lost.
    from PIL import Image

    image, target = photo.image, resized_size(*photo.size, contract)
    scale = max(2 * wanted / side for wanted, side in zip(target, image.size, strict=True))
    if scale >= 1:
        return photo
    size = math.ceil(image.width * scale), math.ceil(image.height * scale)
    return Photo(image.resize(size, Image.Resampling.BOX, box=photo.box), photo.size, (0, 0, *size))


def _motion_blur(image: "Image.Image", length: float, rng: "np.random.Generator") -> "Image.Image":
    """The camera moves in a straight line, in any direction."""
    half, angle = length * min(image.size) / 2, rng.uniform(0, math.pi)
    across, down = half * math.cos(angle), half * math.sin(angle)
    return _convolved(
        image, half, lambda at, pen: pen.line((at(-across, -down), at(across, down)), 255, FINE)
    )


def _focus_blur(image: "Image.Image", radius: float, rng: "np.random.Generator") -> "Image.Image":
    """A point becomes a disc."""
    del rng
    r = radius * min(image.size)
    return _convolved(image, r, lambda at, pen: pen.ellipse((at(-r, -r), at(r, r)), 255))


def _convolved(image: "Image.Image", reach: float, draw: Callable[..., object]) -> "Image.Image":
    """The photo with every point spread over what `draw` draws, in linear light, as a lens mixes it.

    reach: of the drawing from its centre, in pixels. draw: takes a function from pixels around the centre to
    the canvas, and a pen.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    margin = math.ceil(reach) + 1
    side = 2 * margin + 1
    canvas = Image.new("L", (FINE * side, FINE * side))
    middle = FINE * side / 2
    draw(lambda x, y: (middle + FINE * x, middle + FINE * y), ImageDraw.Draw(canvas))
    kernel = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32)
    # Beyond its edges the photo goes on mirrored.
    edges = ((0, 0), (margin, margin), (margin, margin))
    padded = np.pad(_linear(image).transpose(2, 0, 1), edges, mode="symmetric")
    shape = tuple(
        32 * math.ceil(length / 32) for length in padded.shape[1:]
    )  # sizes that are transformed fast
    spectrum = np.fft.rfft2(padded, shape) * np.fft.rfft2(kernel / kernel.sum(), shape)
    spread = np.fft.irfft2(spectrum, shape)
    begin, (width, height) = 2 * margin, image.size
    return _encoded(spread[:, begin : begin + height, begin : begin + width].transpose(1, 2, 0))


def _dusk(image: "Image.Image", stops: float, rng: "np.random.Generator") -> "Image.Image":
    """So many halvings of the light, of which the camera makes up for most; the noise of few photons shows.

    A pixel's photons follow from its share of the photo, so that noise is the same at any size.
    """
    import numpy as np

    white = ELECTRONS * 2**-stops * (REFERENCE / min(image.size)) ** 2
    counted = white * _linear(image)
    noise = rng.standard_normal(counted.shape, np.float32) * np.sqrt(counted + READ_NOISE**2)
    return _encoded((counted + noise) / white * 2 ** (-0.4 * stops))


def _overexposure(image: "Image.Image", stops: float, rng: "np.random.Generator") -> "Image.Image":
    """So many doublings of the light; what is brighter than white is lost."""
    del rng
    return _encoded(_linear(image) * 2**stops)


def _colour_cast(image: "Image.Image", strength: float, rng: "np.random.Generator") -> "Image.Image":
    """The light has a colour that the camera's white balance missed: warm, cold, green or purple."""
    import numpy as np

    angle = rng.uniform(0, 2 * math.pi)
    warm, purple = strength * math.cos(angle), strength * math.sin(angle) / 2
    gains = np.exp(np.array([warm, -purple, -warm], np.float32))
    linear, luminance = _linear(image), np.array([0.2126, 0.7152, 0.0722], np.float32)
    tinted = linear * gains
    return _encoded(tinted * ((linear @ luminance).mean() / max(1e-6, (tinted @ luminance).mean())))


def _rotation(image: "Image.Image", degrees: float, rng: "np.random.Generator") -> "Image.Image":
    """Around the centre, either way; beyond its edges the photo goes on mirrored."""
    import numpy as np
    from PIL import Image

    width, height = image.size
    margin = math.ceil((math.hypot(width, height) - min(width, height)) / 2)
    edges = ((margin, margin), (margin, margin), (0, 0))
    padded = Image.fromarray(np.pad(np.asarray(image), edges, mode="symmetric"))
    turned = padded.rotate(degrees * rng.choice([-1, 1]), Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + width, margin + height))


def _occlusion(image: "Image.Image", share: float, rng: "np.random.Generator") -> "Image.Image":
    """A leaf close to the lens, out of focus, reaches in over this share of the middle square."""
    import numpy as np

    angle, bend = rng.uniform(0, 2 * math.pi), rng.uniform(-0.5, 0.5)
    ripple, phase = rng.uniform(0.02, 0.05), rng.uniform(0, 2 * math.pi)

    def inside(x: "NDArray[np.float64]", y: "NDArray[np.float64]", tip: float) -> "NDArray[np.float64]":
        """How deep within the leaf; negative beside it. All in shorter sides from the photo's centre."""
        along = x * math.cos(angle) + y * math.sin(angle) - tip
        across = y * math.cos(angle) - x * math.sin(angle) - bend * along**2
        body = np.clip(along, 0, None)
        width = 0.45 * np.sqrt(body) + ripple * body * np.sin(14 * body + phase)
        return width - np.abs(across) - np.clip(-along, 0, None)

    grid = (np.arange(64) + 0.5) / 64 - 0.5
    low, high = -1.5, 1.0  # the tip comes in until it covers the share
    for _ in range(12):
        middle = (low + high) / 2
        covered = (inside(grid[None, :], grid[:, None], middle) > 0).mean()
        low, high = (middle, high) if covered > share else (low, middle)
    side = min(image.size)
    x = (np.arange(image.width) - image.width / 2)[None, :] / side
    y = (np.arange(image.height) - image.height / 2)[:, None] / side
    deep = inside(x, y, low)[..., None]
    pixels = np.asarray(image, np.float32)
    # As dark as what hangs in the shade, lighter towards its rim, where light comes through.
    leaf = 0.35 * pixels.mean(axis=(0, 1)) + np.array([22, 40, 14]) * (1.2 - np.clip(deep, 0, 0.4))
    cover = np.clip(0.5 + deep / 0.04, 0, 1)
    return _as_image(pixels * (1 - cover) + leaf * cover)


def _rain_drops(image: "Image.Image", drops: float, rng: "np.random.Generator") -> "Image.Image":
    """So many drops on the lens; each shows the scene small, upside down and blurred."""
    import numpy as np
    from PIL import ImageFilter

    side, (width, height) = min(image.size), image.size
    scene = np.asarray(image.filter(ImageFilter.GaussianBlur(0.012 * side)), np.float32)
    pixels = np.array(image, np.float32)
    # All are drawn, so that the first are the same at every severity.
    places = rng.uniform(0, 1, (int(max(STRESSES["rain-drops"].levels)), 3))
    for left, top, size in places[: int(drops)]:
        radius = side * (0.03 + 0.07 * size**2)
        x0, y0 = left * width, top * height
        rows = np.arange(max(0, int(y0 - radius)), min(height, int(y0 + radius) + 1))
        columns = np.arange(max(0, int(x0 - radius)), min(width, int(x0 + radius) + 1))
        x, y = ((columns - x0) / radius)[None, :], ((rows - y0) / radius)[:, None]
        from_centre = np.hypot(x, y)
        # A lens turns the scene around, and takes in more of it towards the rim.
        wide = 2.5 * radius * (1 + from_centre**2)
        seen = scene[
            np.clip(y0 - y * wide, 0, height - 1).astype(int),
            np.clip(x0 - x * wide, 0, width - 1).astype(int),
        ]
        light = 1.05 + 0.25 * y - 0.45 * np.clip(from_centre - 0.6, 0, None)
        glint = 90 * np.exp(-((x + 0.35) ** 2 + (y + 0.4) ** 2) / 0.03)
        cover = np.clip((1 - from_centre) / 0.2, 0, 1)[..., None]
        part = np.ix_(rows, columns)
        pixels[part] = pixels[part] * (1 - cover) + (seen * light[..., None] + glint[..., None]) * cover
    return _as_image(pixels)


def _messenger(image: "Image.Image", quality: float, rng: "np.random.Generator") -> "Image.Image":
    """The photo is sent: at most 1,600 pixels, then a JPEG with half the colour resolution."""
    from PIL import Image, ImageOps

    from workbench.photos.decode import decode

    del rng
    small = image.copy()
    small.thumbnail((MESSENGER_SIDE, MESSENGER_SIDE), Image.Resampling.LANCZOS)
    # A photo that is a JPEG already, and not made smaller, would be cut into the same blocks again: at some
    # qualities that does much harm, at lower ones none. From a camera it comes larger, its blocks are gone.
    margin = BLOCK // 2
    buffer = io.BytesIO()
    ImageOps.expand(small, margin, 128).save(buffer, "JPEG", quality=int(quality), subsampling="4:2:0")
    received = decode(buffer.getvalue())
    return received.crop((margin, margin, margin + small.width, margin + small.height))


@cache
def _light() -> "tuple[NDArray[np.float32], NDArray[np.uint8]]":
    """sRGB's levels as linear light, 0 to 1, and back from 65,536 steps of it (IEC 61966-2-1)."""
    import numpy as np

    levels, steps = np.arange(256) / 255, np.arange(65536) / 65535
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    encoded = np.where(steps <= 0.0031308, 12.92 * steps, 1.055 * steps ** (1 / 2.4) - 0.055)
    return linear.astype(np.float32), np.rint(255 * encoded).astype(np.uint8)


def _linear(image: "Image.Image") -> "NDArray[np.float32]":
    """(height, width, 3), 0 to 1."""
    import numpy as np

    found: NDArray[np.float32] = _light()[0][np.asarray(image)]
    return found


def _encoded(linear: "NDArray[np.floating]") -> "Image.Image":
    import numpy as np
    from PIL import Image

    return Image.fromarray(_light()[1][(65535 * np.clip(linear, 0, 1)).astype(np.uint16)])


def _as_image(pixels: "NDArray[np.floating]") -> "Image.Image":
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


STRESSES: Mapping[str, Stress] = {
    "motion-blur": Stress(_motion_blur, (0.01, 0.02, 0.035, 0.055, 0.08)),
    "focus-blur": Stress(_focus_blur, (0.004, 0.008, 0.013, 0.019, 0.026)),
    "dusk": Stress(_dusk, (2, 3.5, 5, 6, 7)),
    "overexposure": Stress(_overexposure, (0.5, 0.9, 1.3, 1.7, 2.1)),
    "colour-cast": Stress(_colour_cast, (0.06, 0.12, 0.2, 0.28, 0.38)),
    "rotation": Stress(_rotation, (5, 10, 20, 30, 45)),
    "occlusion": Stress(_occlusion, (0.05, 0.1, 0.17, 0.25, 0.35)),
    "rain-drops": Stress(_rain_drops, (4, 8, 14, 22, 32)),
    "messenger": Stress(_messenger, (70, 60, 50, 40, 30), whole=True),
}
