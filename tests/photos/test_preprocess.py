"""From bytes to the input of a network: every kind of photo, and everything that is not one."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from workbench.photos.contract import ImageError, Preprocess
from workbench.photos.decode import decode
from workbench.photos.preprocess import crop_pixels, normalize, preprocess

Encode = Callable[..., bytes]

STUDENT = Preprocess(
    resize=256, crop=224, rounding="albumentations", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
BEST_JPEG = {"quality": 100, "subsampling": 0}
SMALL = Preprocess(resize=16, crop=12, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture with some noise, as photos are for a resampler."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / (3 + c) + seed) * np.cos(y / (4 + c)) for c in range(3)]
    noisy = np.stack(waves, axis=-1) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def quarters() -> Image.Image:
    """Four colours, so that every way to turn it shows."""
    colours = np.array([[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 250, 250)]], np.uint8)
    return Image.fromarray(colours.repeat(4, axis=0).repeat(6, axis=1))


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises much more than follows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@contextmanager
def at_most_more_memory(size_bytes: int) -> Iterator[None]:
    """Raise MemoryError for allocations beyond that."""
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system does not say how much memory a process has")
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_lossless_photo_comes_back_pixel_for_pixel(encoded: Encode, form: str) -> None:
    original = picture(30, 20)
    back = decode(encoded(original, form, **({"lossless": True} if form == "WEBP" else {})))
    assert (back.mode, back.size) == ("RGB", (30, 20))
    assert np.array_equal(np.asarray(back), np.asarray(original))


def test_a_jpeg_is_what_pillow_decodes(encoded: Encode) -> None:
    data = encoded(picture(30, 20), "JPEG")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_photo_stands_upright_however_the_camera_was_held(
    encoded: Encode, form: str, orientation: int
) -> None:
    # What each orientation means, from the EXIF standard: where the first row and column really lie.
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    stored = np.asarray(quarters())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": BEST_JPEG, "PNG": {}, "WEBP": {"lossless": True}}[form]
    back = np.asarray(decode(encoded(quarters(), form, exif=exif, **options)))
    expected = undo[orientation](stored)
    assert back.shape == expected.shape
    assert np.abs(back.astype(int) - expected).max() <= 4


def test_an_orientation_that_means_nothing_is_ignored(encoded: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 42
    assert decode(encoded(quarters(), "PNG", exif=exif)).size == (12, 8)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(encoded: Encode, mode: str) -> None:
    form = "PNG" if mode in ("L", "1") else "JPEG"
    back = decode(encoded(quarters().convert(mode), form, **({} if form == "PNG" else BEST_JPEG)))
    expected = np.asarray(quarters().convert(mode).convert("RGB")).astype(int)
    assert back.mode == "RGB"
    assert np.abs(np.asarray(back).astype(int) - expected).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_not_blended(encoded: Encode, mode: str) -> None:
    image = quarters().convert(mode)
    image.putalpha(Image.new("L", image.size, 0))
    expected = quarters().convert(mode[:-1]).convert("RGB")
    assert np.array_equal(np.asarray(decode(encoded(image, "PNG"))), np.asarray(expected))


@pytest.mark.parametrize("transparency", [None, 1, bytes(range(256))])
def test_a_palette_becomes_its_colours(encoded: Encode, transparency: int | bytes | None) -> None:
    image = quarters().quantize(8)
    options = {} if transparency is None else {"transparency": transparency}
    back = decode(encoded(image, "PNG", **options))
    assert np.array_equal(np.asarray(back), np.asarray(image.convert("RGB")))


def test_sixteen_bit_gray_is_scaled_and_not_clipped(encoded: Encode) -> None:
    wide = np.linspace(0, 65535, 64 * 4).reshape(4, 64).astype(np.uint16)
    back = np.asarray(decode(encoded(Image.fromarray(wide), "PNG")))
    assert np.array_equal(back, np.repeat((wide // 256).astype(np.uint8)[..., None], 3, axis=-1))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(encoded: Encode, form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((200, 0, 0), (0, 200, 0))]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    assert decode(data).getpixel((4, 4)) == (200, 0, 0)


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_unsupported_whatever_pillow_can_read(encoded: Encode, form: str) -> None:
    assert refused(encoded(quarters(), form)).kind == "unsupported"


@pytest.mark.parametrize(
    ("data", "but"),
    [
        (b"hello", " but a text file"),
        (b"<html></html>", " but a web page"),
        (b"\x00" * 1000, ""),
        (b"\xff\xd8", ""),
    ],
)
def test_other_bytes_are_unsupported(data: bytes, but: str) -> None:
    error = refused(data)
    assert (error.kind, str(error)) == ("unsupported", f"not a JPEG, PNG or WebP image{but}")


@pytest.mark.parametrize(
    ("form", "length"), [("PNG", 8), ("PNG", 33), ("WEBP", 12), ("WEBP", 20), ("JPEG", 4)]
)
def test_a_photo_cut_in_its_header_is_broken_and_not_of_another_kind(
    encoded: Encode, form: str, length: int
) -> None:
    assert refused(encoded(quarters(), form)[:length]).kind == "broken"


def test_no_bytes_are_empty() -> None:
    assert refused(b"").kind == "empty"


@pytest.mark.parametrize(
    ("form", "part"), [("JPEG", 0.2), ("JPEG", 0.5), ("JPEG", 0.95), ("PNG", 0.5), ("WEBP", 0.5)]
)
def test_a_truncated_photo_is_broken(encoded: Encode, form: str, part: float) -> None:
    data = encoded(picture(200, 200), form)
    assert refused(data[: int(part * len(data))]).kind == "broken"


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (60_000, 1_000), (10_000, 10_000)])
def test_a_header_that_claims_too_much_is_refused_before_anything_is_decoded(width: int, height: int) -> None:
    data = png_claiming(width, height)
    with at_most_more_memory(100_000_000):  # decoding would ask for 240 MB at least
        assert refused(data).kind == "too-large"


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged metadata, which is not read
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_of_any_kind_gives_a_photo_or_an_image_error(encoded: Encode, data: st.DataObject) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    damaged = bytearray(encoded(quarters(), form, exif=exif))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(damaged)).mode == "RGB"
    except ImageError as error:
        assert str(error)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3), (37, 500), (500, 37), (16, 16), (17, 16)])
def test_any_shape_gives_the_square_the_network_takes(size: tuple[int, int]) -> None:
    pixels = crop_pixels(picture(*size), SMALL)
    assert (pixels.shape, pixels.dtype) == ((12, 12, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_strip_that_would_grow_to_gigabytes_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="more than 50 megapixels") as caught:
        crop_pixels(Image.new("RGB", size), STUDENT)
    assert caught.value.kind == "too-large"


@pytest.mark.parametrize("size", [(16, 16), (16, 30), (30, 16)])
def test_a_photo_of_the_right_size_is_cropped_and_not_resampled(size: tuple[int, int]) -> None:
    image = picture(*size)
    left, top = (size[0] - 12) // 2, (size[1] - 12) // 2  # both even
    assert np.array_equal(crop_pixels(image, SMALL), np.asarray(image)[top : top + 12, left : left + 12])


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_each_interpolation_is_pillows_of_that_name(name: str) -> None:
    image = picture(40, 40)
    contract = SMALL.model_copy(update={"interpolation": name, "crop": 16})
    expected = image.resize((16, 16), Image.Resampling[name.upper()])
    assert np.array_equal(crop_pixels(image, contract), np.asarray(expected))


@given(st.integers(0, 2**32 - 1))
def test_normalisation_is_the_formula_in_double_precision_within_a_millionth(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    batch = normalize(pixels, STUDENT)
    scaled = pixels.astype(np.float64) / 255
    expected = ((scaled - np.array(STUDENT.mean)) / np.array(STUDENT.std)).transpose(0, 3, 1, 2)
    assert (batch.dtype, batch.shape, batch.flags.c_contiguous) == (np.float32, (2, 3, 5, 7), True)
    assert np.abs(batch - expected).max() < 1e-6


def documented(image: Image.Image) -> np.ndarray:
    """The student's preprocessing, step by step as its README lists it: (3, 224, 224) float32."""
    image = image.convert("RGB")
    width, height = image.size
    shorter = min(width, height)
    if shorter != 256:
        size = (256, round(256 * height / width)) if width < height else (round(256 * width / height), 256)
        image = image.resize(size, Image.Resampling.BILINEAR)
    width, height = image.size
    left, top = (width - 224) // 2, (height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224))).astype(np.float32) / 255
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)
    std = np.array([0.229, 0.224, 0.225], dtype=np.float32)
    return ((pixels - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize(
    "size", [(256, 256), (256, 300), (640, 480), (480, 641), (100, 90), (1001, 257), (313, 777)]
)
def test_a_photo_is_prepared_as_the_student_was_trained(encoded: Encode, size: tuple[int, int]) -> None:
    image = picture(*size, seed=size[0])
    batch = preprocess(encoded(image, "PNG"), STUDENT)
    assert (batch.shape, batch.dtype) == ((1, 3, 224, 224), np.float32)
    assert np.abs(batch[0] - documented(image)).max() < 1e-6


@pytest.mark.parametrize("size", [(256, 256), (640, 480), (313, 777)])
def test_the_pixels_are_exactly_those_of_the_documented_steps(size: tuple[int, int]) -> None:
    image = picture(*size, seed=size[1])
    mean, std = np.array(STUDENT.mean), np.array(STUDENT.std)
    expected = np.rint((documented(image).transpose(1, 2, 0) * std + mean) * 255)
    assert np.array_equal(crop_pixels(image, STUDENT), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 17}, r"crop \(17\) must not be larger than resize \(16\)"),
        ({"std": (1.0, 0.0, 1.0)}, "greater than or equal to 0.000001"),
        ({"resize": 0}, "whole pixels from 1 to 4096, not 0"),
        ({"mean": (0.5, 0.5)}, "mean.2"),
        ({"interpolation": "cubic"}, "bicubic"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocess.model_validate({**SMALL.model_dump(), **change})
