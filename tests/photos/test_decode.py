"""Photos decoded at a fraction of their size, and the limits of time and memory."""

import io
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workbench.photos import dataset
from workbench.photos.contract import MAX_SIDE, ImageError, Preprocess
from workbench.photos.decode import MAX_SCANS, _scans, decode, decode_for
from workbench.photos.preprocess import crop_pixels, pixels_of, preprocess

Encode = Callable[..., bytes]

SCALED = Preprocess(resize=36, crop=32, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))
FULL = SCALED.model_copy(update={"decode": "full"})
ORIENTATION = 0x0112
PNG_HEADER = 33  # bytes: the signature and IHDR


def landscape(width: int, height: int) -> Image.Image:
    """Soft hills of colour over slopes: no part looks like another, and a shift by a pixel shows."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = y / height, x / width
    planes = (40 + 200 * x, 40 + 200 * y, 128 + 60 * np.sin(9 * x) * np.cos(7 * y))
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def noisy(width: int, height: int) -> Image.Image:
    grain = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return Image.fromarray((np.asarray(landscape(width, height)) + grain).clip(0, 255).astype(np.uint8))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(one.astype(int) - other))


def quiet(done: int, total: int) -> None:
    """Ignore progress."""


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


def png_with(extra: bytes) -> bytes:
    buffer = io.BytesIO()
    landscape(20, 10).save(buffer, "PNG")
    return buffer.getvalue()[:PNG_HEADER] + extra + buffer.getvalue()[PNG_HEADER:]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def tiff(*entries: tuple[int, int, int, int], order: str = "<", size: int = 0) -> bytes:
    """An EXIF block of (tag, type, count, value) entries, the value as a 32-bit number."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}LH", 8, len(entries))
    block = head + b"".join(struct.pack(f"{order}HHLL", *entry) for entry in entries) + bytes(4)
    return block + bytes(max(0, size - len(block)))


# Decoding at a fraction


@pytest.mark.parametrize(
    ("size", "factor"), [((72, 90), 1), ((143, 160), 1), ((144, 160), 2), ((300, 290), 4), ((576, 900), 8)]
)
def test_a_large_jpeg_is_exactly_what_libjpeg_decodes_at_a_fraction(
    encoded: Encode, size: tuple[int, int], factor: int
) -> None:
    data = encoded(noisy(*size), "JPEG")
    expected = Image.open(io.BytesIO(data))
    expected.draft(None, (2 * SCALED.resize, 2 * SCALED.resize))
    photo = decode_for(data, SCALED)
    assert np.array_equal(np.asarray(photo.image), np.asarray(expected))
    assert photo.image.size == tuple(-(-side // factor) for side in size)
    assert (photo.size, photo.box) == (size, (0, 0, size[0] / factor, size[1] / factor))


@pytest.mark.parametrize("size", [(144, 160), (301, 290), (577, 900), (1500, 1000)])
def test_what_is_scaled_differs_little_from_what_is_not(encoded: Encode, size: tuple[int, int]) -> None:
    data = encoded(noisy(*size), "JPEG", quality=90)
    apart = difference(pixels_of(data, SCALED), pixels_of(data, FULL))
    assert 0 < apart.mean() < 1.5
    assert apart.max() < 16


@settings(max_examples=120, deadline=None)
@given(
    st.integers(72, 700), st.integers(72, 700), st.integers(1, 8), st.sampled_from(["bilinear", "bicubic"])
)
def test_scaling_moves_nothing_whatever_the_size_and_the_orientation(
    encoded: Encode, width: int, height: int, orientation: int, interpolation: str
) -> None:
    data = encoded(landscape(width, height), "JPEG", quality=95, exif=turned(orientation))
    scaled = SCALED.model_copy(update={"interpolation": interpolation})
    full = scaled.model_copy(update={"decode": "full"})
    photo = decode_for(data, scaled)
    assert photo.size == decode(data).size == ((height, width) if orientation > 4 else (width, height))
    one, other = (pixels_of(data, contract).astype(int) for contract in (scaled, full))
    # The slopes rise by up to 200 / 36, five and a half a pixel: a fifth of a pixel would show.
    assert np.abs((one - other).mean(axis=(0, 1))).max() < 1
    assert np.abs(one - other).mean() < 1.1


@pytest.mark.parametrize(
    ("size", "form", "change"),
    [
        ((143, 400), "JPEG", {}),
        ((256, 256), "JPEG", {"resize": 256, "crop": 224}),
        ((600, 600), "PNG", {}),
        ((600, 600), "WEBP", {}),
        ((600, 600), "JPEG", {"interpolation": "nearest"}),
    ],
)
def test_where_nothing_is_to_be_scaled_both_ways_are_one(
    encoded: Encode, size: tuple[int, int], form: str, change: dict[str, object]
) -> None:
    data = encoded(noisy(*size), form)
    scaled, full = (contract.model_copy(update=change) for contract in (SCALED, FULL))
    assert np.array_equal(pixels_of(data, scaled), pixels_of(data, full))


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
def test_other_colour_spaces_are_scaled_too(encoded: Encode, mode: str) -> None:
    data = encoded(landscape(400, 300).convert(mode), "JPEG", quality=95)
    assert decode_for(data, SCALED).image.size == (100, 75)
    assert difference(pixels_of(data, SCALED), pixels_of(data, FULL)).mean() < 1.5


@pytest.mark.parametrize("way", ["scaled", "full"])
def test_the_evaluations_cached_pixels_are_those_the_server_computes(
    encoded: Encode, tmp_path: Path, way: str
) -> None:
    contract = SCALED.model_copy(update={"decode": way})
    data = [
        encoded(noisy(500 + 91 * n, 400), "JPEG", exif=turned(orientation))
        for n, orientation in enumerate((1, 3, 6))
    ]
    (tmp_path / "photos" / "rust").mkdir(parents=True)
    for n, photo in enumerate(data):
        (tmp_path / "photos" / "rust" / f"{n}.jpg").write_bytes(photo)
    found = dataset.scan(tmp_path / "photos", ("rust",), field="data.validation")
    images = dataset.load(found, contract, tmp_path / "cache", field="data.validation", progress=quiet)
    for raw in (False, True):
        rows = dataset.Images(images.path, images.labels, contract, images.digest, raw).rows(range(3))
        for row, photo in zip(rows, data, strict=True):
            assert np.array_equal(row, preprocess(photo, contract, raw=raw))


def test_the_two_ways_to_decode_are_cached_apart(encoded: Encode, tmp_path: Path) -> None:
    (tmp_path / "rust").mkdir()
    (tmp_path / "rust" / "a.jpg").write_bytes(encoded(noisy(500, 400), "JPEG"))
    found = dataset.scan(tmp_path, ("rust",), field="f")
    one, other = (
        dataset.load(found, contract, tmp_path, field="f", progress=quiet) for contract in (SCALED, FULL)
    )
    assert one.path != other.path
    assert not np.array_equal(one.pixels(), other.pixels())


def test_an_image_that_is_decoded_already_is_cropped_as_it_is(encoded: Encode) -> None:
    data = encoded(noisy(500, 400), "JPEG")
    assert np.array_equal(crop_pixels(decode(data), SCALED), pixels_of(data, FULL))


# Orientation


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["SHORT", "LONG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_the_one_pillow_reads(order: str, kind: str, orientation: int) -> None:
    code, shift = {"SHORT": (3, 16 if order == ">" else 0), "LONG": (4, 0)}[kind]
    exif = tiff((0x010F, 2, 4, 0), (ORIENTATION, code, 1, orientation << shift), order=order)
    data = png_with(chunk(b"eXIf", exif))
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.getexif()[ORIENTATION] == orientation
    assert decode(data).size == ((10, 20) if orientation > 4 else (20, 10))


def test_where_exif_does_not_say_xmp_does() -> None:
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    assert decode(png_with(chunk(b"iTXt", xmp))).size == (10, 20)
    upright = chunk(b"eXIf", tiff((ORIENTATION, 3, 1, 1)))
    assert decode(png_with(chunk(b"iTXt", xmp) + upright)).size == (20, 10)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"II*\0\x08\0\0\0" + tail))
def test_damaged_exif_is_no_reason_to_refuse_a_photo(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(decode(png_with(chunk(b"eXIf", exif))).size) == {20, 10}


# What a photo may cost


def test_a_side_above_the_limit_is_refused_from_the_header_of_any_format(encoded: Encode) -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        data = encoded(Image.new("L", (MAX_SIDE + 1, 2)), form)
        error = refused(data)
        assert (error.kind, str(error)) == (
            "too-large",
            "the image has 12001 x 2 pixels, more than 12000 pixels a side",
        )
        assert decode(encoded(Image.new("L", (2, MAX_SIDE)), form)).size == (2, MAX_SIDE)


def test_a_webp_that_claims_a_huge_canvas_is_refused_before_there_is_room_made_for_it() -> None:
    canvas = struct.pack("<L", 0) + (16383).to_bytes(3, "little") * 2
    body = b"WEBP" + b"VP8X" + struct.pack("<L", len(canvas)) + canvas
    assert refused(b"RIFF" + struct.pack("<L", len(body)) + body).kind == "too-large"


def with_scans(encode: Encode, count: int) -> bytes:
    """A progressive JPEG whose last scan comes `count` times more."""
    data = encode(landscape(40, 40), "JPEG", progressive=True)
    tables = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda"))
    return data[:-2] + data[tables:-2] * count + data[-2:]


def test_a_jpeg_of_thousands_of_scans_is_refused(encoded: Encode) -> None:
    assert decode(with_scans(encoded, 0)).size == decode(with_scans(encoded, 60)).size == (40, 40)
    error = refused(with_scans(encoded, 3000))
    assert (error.kind, str(error)) == ("too-large", "the image has more than 100 scans")


def test_scans_are_counted_as_libjpeg_counts_them(encoded: Encode) -> None:
    data = with_scans(encoded, 7)
    start = data.index(b"\xff\xda")
    assert _scans(data, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")) == data.count(
        b"\xff\xda"
    )
    hidden = segment(0xFE, b"\xff\xda" * 3) + b"\xff\xff\xda\x00\x02" + b"\xff\xd9" + b"\xff\xda"
    assert _scans(hidden, 0) == 2
    assert _scans(segment(0xFE, b"") * 100_000, 0) > MAX_SCANS


@pytest.mark.parametrize("progressive", [False, True])
def test_what_looks_like_scans_behind_a_photo_or_in_its_comments_is_none(
    encoded: Encode, progressive: bool
) -> None:
    data = encoded(landscape(40, 40), "JPEG", progressive=progressive)
    film = b"\xff\xda\x00\x02" * 1000
    data = data[:2] + segment(0xFE, film) + data[2:] + film
    assert decode(data).size == (40, 40)


@pytest.mark.parametrize(
    "exif",
    [
        tiff(size=8 << 20),
        tiff(*[(tag, 7, (8 << 20) - 100, 20) for tag in range(1000, 61_000)], size=8 << 20),
        b"Exif\0\0" * 1_400_000,
    ],
    ids=["large", "sixty thousand tags of 8 MB each", "nothing but prefixes"],
)
def test_a_huge_exif_block_costs_next_to_nothing(encoded: Encode, exif: bytes) -> None:
    webp = encoded(landscape(20, 10), "WEBP", exif=exif)
    jpeg = encoded(landscape(20, 10), "JPEG")
    jpeg = jpeg[:2] + segment(0xE1, b"Exif\0\0" + exif[:65_000]) * 50 + jpeg[2:]
    for data in (png_with(chunk(b"eXIf", exif)), webp, jpeg):
        began = time.process_time()
        assert decode(data).size == (20, 10)
        assert time.process_time() - began < 1  # 15 ms here


@pytest.mark.parametrize(
    "part",
    [segment(0xE1, b"Exif\0\0a"), segment(0xFE, b""), b"\xff", b"\xff\xd8" + bytes(20)],
    ids=["EXIF", "comments", "fill", "junk"],
)
def test_a_jpeg_of_a_million_parts_is_refused_soon(encoded: Encode, part: bytes) -> None:
    data = encoded(landscape(20, 10), "JPEG")
    began = time.process_time()
    error = refused(data[:2] + part * 500_000 + data[2:])
    assert (error.kind, str(error)) == ("too-large", "the image is made of too many parts")
    assert time.process_time() - began < 2  # 60 ms here


def test_a_png_of_a_million_parts_is_refused_and_one_of_a_part_for_each_row_is_not() -> None:
    assert refused(png_with(chunk(b"aaAa", b"") * 200_000)).kind == "too-large"
    whole = io.BytesIO()
    Image.new("L", (8, MAX_SIDE)).save(whole, "PNG", compress_level=0)
    head, packed = whole.getvalue()[:PNG_HEADER], zlib.compress(bytes(9 * MAX_SIDE), 0)
    rows = [chunk(b"IDAT", packed[at : at + 9]) for at in range(0, len(packed), 9)]
    assert decode(head + b"".join(rows) + chunk(b"IEND", b"")).size == (8, MAX_SIDE)


def test_of_a_jpeg_with_several_pictures_the_first_counts(encoded: Encode) -> None:
    frames = [Image.new("RGB", (40, 20), color) for color in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    red, _, blue = np.asarray(decode(data))[5, 5]
    assert red > 200 and blue < 50


def test_bombs_and_good_photos_in_many_threads_do_not_disturb_each_other(encoded: Encode) -> None:
    """No thread changes the warning filters, which all share."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    good = encoded(noisy(200, 160), "JPEG")
    expected = pixels_of(good, SCALED)
    filters = list(warnings.filters)

    def one(n: int) -> bool:
        if n % 2:
            return np.array_equal(pixels_of(good, SCALED), expected)
        return refused(bomb).kind == "too-large"

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(200)))
    assert warnings.filters == filters
