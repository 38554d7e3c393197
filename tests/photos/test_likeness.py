"""Photos that look the same, and those that do not."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.photos.dataset import Dataset
from workbench.photos.likeness import BITS, NEAR_BITS, SIDE, TURNS, groups, hashes, nearest
from workbench.photos.overlap import KEPT_PAIRS, Overlap, PhotoPair, Separation, overlap

FULL = 96
Turned = Image.Transpose


def photo(seed: int) -> Image.Image:
    """Blurred spots, unlike those of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((FULL, FULL), Image.Resampling.BICUBIC)


def looks(images: Sequence[Image.Image]) -> np.ndarray:
    return hashes(np.stack([np.asarray(image.resize((SIDE, SIDE))) for image in images]))


PHOTOS = [photo(seed) for seed in range(40)]


def jpeg(image: Image.Image, quality: int = 60) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


ALTERED: list[tuple[str, Callable[[Image.Image], Image.Image]]] = [
    ("", lambda image: image),
    ("", jpeg),
    ("", lambda image: image.resize((40, 40), Image.Resampling.BICUBIC)),
    ("", lambda image: image.resize((80, 40))),
    ("", lambda image: image.point(lambda level: 0.8 * level)),
    ("mirrored", lambda image: image.transpose(Turned.FLIP_LEFT_RIGHT)),
    ("turned and mirrored", lambda image: image.transpose(Turned.FLIP_TOP_BOTTOM)),
    ("turned", lambda image: image.transpose(Turned.ROTATE_90)),
    ("turned", lambda image: jpeg(image.transpose(Turned.ROTATE_180))),
    ("turned", lambda image: image.transpose(Turned.ROTATE_270).resize((50, 50))),
    ("turned and mirrored", lambda image: image.transpose(Turned.TRANSPOSE)),
    ("turned and mirrored", lambda image: image.transpose(Turned.TRANSVERSE)),
]


@pytest.mark.parametrize(("turn", "alter"), ALTERED)
def test_altered_copies_are_found_and_their_turn_is_named(
    turn: str, alter: Callable[[Image.Image], Image.Image]
) -> None:
    bits, rows, turns = nearest(looks([alter(image) for image in PHOTOS[:12]]), looks(PHOTOS))
    assert bits.max() < NEAR_BITS
    assert rows.tolist() == list(range(12))
    assert {TURNS[index] for index in turns} == {turn}


def test_different_photos_are_no_near_duplicates() -> None:
    assert groups(looks(PHOTOS), list(map(str, range(40)))) == tuple(range(40))
    bits, _, _ = nearest(looks(PHOTOS[:20]), looks(PHOTOS[20:]))
    assert bits.min() > NEAR_BITS


def test_photos_alike_through_others_are_one_group() -> None:
    first, second = PHOTOS[1], PHOTOS[2]
    chain = [second, first, jpeg(first), jpeg(first.transpose(Turned.ROTATE_90))]
    found = groups(looks(chain), list("abcd"))
    assert (len(set(found[1:])), found[0] == found[1]) == (1, False)


def test_photos_of_one_colour_look_like_no_other_but_equal_files_are_the_same_photo() -> None:
    plain = [Image.new("RGB", (FULL, FULL), (grey, grey, grey)) for grey in (10, 11, 200, 10)]
    assert groups(looks(plain), ["a", "b", "c", "a"]) == (0, 1, 2, 0)
    assert nearest(looks(plain), looks(plain))[0].min() == BITS // 2


def test_many_photos_are_compared_as_few_are() -> None:
    # More than one block on both sides.
    many = np.random.default_rng(0).integers(0, 256, (1500, 16, 16, 3), dtype=np.uint8)
    found = hashes(many)
    bits, rows, turns = nearest(found, hashes(many[::-1], turned=False))
    assert (bits.max(), turns.max()) == (0, 0)
    assert rows.tolist() == list(range(1499, -1, -1))


def dataset(contents: Sequence[str], folder: str) -> Dataset:
    paths = tuple(Path(f"/{folder}/rust/{number}.jpg") for number in range(len(contents)))
    return Dataset(paths, (0,) * len(contents), tuple(contents), "digest")


def test_the_photos_of_two_parts_are_compared_by_content_first() -> None:
    others = [PHOTOS[9], PHOTOS[1], jpeg(PHOTOS[2].transpose(Turned.ROTATE_90))]
    got = overlap("train", dataset("abcd", "val"), dataset("xby", "train"), looks(PHOTOS[:4]), looks(others))
    assert (got.part, got.photos, got.same, got.alike, got.images) == ("train", 3, 1, 1, 2)
    same, alike = got.pairs
    assert same.words() == "rust/1.jpg is rust/1.jpg"
    assert alike.words() == "rust/2.jpg looks like rust/2.jpg, turned"
    assert (same.photo, same.other, alike.photo_sha256, alike.other_sha256) == (
        "/val/rust/1.jpg", "/train/rust/1.jpg", "c", "y",
    )  # fmt: skip
    assert alike.bits is not None and 0 < alike.bits < NEAR_BITS


def test_the_first_pairs_are_kept_and_all_are_counted() -> None:
    photos, many = looks([PHOTOS[0]] * 60), [str(number) for number in range(60)]
    got = overlap("calibration", dataset(many, "val"), dataset(["x"], "calib"), photos, looks(PHOTOS[:1]))
    assert (got.alike, len(got.pairs)) == (60, KEPT_PAIRS)


def test_the_training_comes_first_and_clean_parts_do_not_overlap() -> None:
    pair = PhotoPair(photo="a", photo_sha256="", other="b", other_sha256="", bits=None)
    parts = [Overlap(part=part, photos=5, same=1, pairs=(pair,)) for part in ("calibration", "train")]
    assert [one.part for one in Separation(parts=tuple(parts)).overlaps] == ["train", "calibration"]
    assert Separation(parts=(Overlap(part="train", photos=5),)).overlaps == ()
