"""Photos that look the same: compressed again, resized, turned, mirrored. Found by perceptual hashes.

docs/measured-likeness.md has what is found at which distance, and how far apart different leaves are.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from workbench.photos.contract import Preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.int8]
    Rows = NDArray[np.int64]

SIDE, KEPT = 32, 16  # pixels of a small copy; waves that are kept in each direction
BITS = KEPT * KEPT
NEAR_BITS = 40  # photos that differ in fewer look the same
GREY = (0.299, 0.587, 0.114)  # of red, green and blue
FLAT = 4.0  # levels of grey: a photo that varies less shows nothing to tell it by
BLOCK = 1024  # photos of either side that are compared at a time
Turn = Literal["", "turned", "mirrored", "turned and mirrored"]
# In the order of `hashes`: as it is or transposed, rows reversed or not, columns reversed or not.
TURNS: tuple[Turn, ...] = (
    "",
    "mirrored",
    "turned and mirrored",
    "turned",
    "turned and mirrored",
    "turned",
    "turned",
    "turned and mirrored",
)


def small_copy() -> Preprocess:
    """How the copies are made that `hashes` reads.

    The whole photo squeezed: a turned one has a turned copy, and no crop of a network's comes in.
    """
    return Preprocess(resize=(SIDE, SIDE), crop=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def hashes(copies: "NDArray[np.uint8]", *, turned: bool = True) -> "Hashes":
    """(8, n, BITS) of (n, side, side, 3) small copies: 1 or -1 each, 0 for photos of one colour.

    Of every photo as it is, turned and mirrored, in the order of TURNS; unless `turned`, the first. Each is
    what `imagehash.phash` gives of such a copy, but for a bit or so, as that rounds brightness: which of the
    long waves of brightness (discrete cosine transform) are above their median. side: KEPT at least.
    C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.
    """
    import numpy as np

    side, number = copies.shape[1], np.arange(KEPT)
    basis = np.cos(np.pi / side * number[:, None] * (np.arange(side) + 0.5)).astype(np.float32)
    # A mirrored photo has the same waves, the odd ones with the other sign: nothing is transformed again.
    odd = np.where(number % 2, -1, 1).astype(np.float32)
    signs = [rows * columns for rows in (1, odd[:, None]) for columns in (1, odd)]
    found = np.empty((8 if turned else 1, len(copies), BITS), np.int8)
    for start in range(0, len(copies), BLOCK):
        grey = copies[start : start + BLOCK].astype(np.float32) @ np.asarray(GREY, np.float32)
        waves = basis @ grey @ basis.T
        forms = [form * sign for form in (waves, waves.transpose(0, 2, 1)) for sign in signs]
        flat = grey.std(axis=(1, 2)) < FLAT
        for form, kept in zip(forms, found[:, start : start + BLOCK], strict=turned):
            values = form.reshape(len(grey), BITS)
            kept[...] = np.where(values > np.median(values, axis=1, keepdims=True), 1, -1)
            kept[flat] = 0
    return found


def nearest(photos: "Hashes", others: "Hashes") -> "tuple[Rows, Rows, Rows]":
    """Of each photo: the distance in bits to the nearest of the others, its row, and its index in TURNS.

    photos: turned; of the others the first form counts.
    """
    import numpy as np

    count = photos.shape[1]
    bits, rows, turns = np.full(count, BITS), np.zeros(count, np.int64), np.zeros(count, np.int64)
    for start, begin, distance in _blocks(photos, others):
        places, row = np.arange(distance.shape[1]), distance.min(axis=0).argmin(axis=1)
        turn = distance[:, places, row].argmin(axis=0)
        least, part = distance[turn, places, row], slice(start, start + len(row))
        better = least < bits[part]
        for kept, new in ((bits, least), (rows, row + begin), (turns, turn)):
            kept[part] = np.where(better, new, kept[part])
    return bits, rows, turns


def groups(photos: "Hashes", contents: Sequence[str]) -> tuple[int, ...]:
    """A number for every photo, shared by those that look the same, directly or through others.

    contents: a digest of each; equal ones are the same photo, of one colour too.
    """
    import numpy as np

    first: dict[str, int] = {}
    number = np.asarray([first.setdefault(content, row) for row, content in enumerate(contents)])
    for start, begin, distance in _blocks(photos, photos):
        for row, other in np.argwhere(distance.min(axis=0) < NEAR_BITS) + np.asarray([start, begin]):
            if number[row] != number[other]:
                number[number == number[row]] = number[other]
    return tuple(number.tolist())


def _blocks(photos: "Hashes", others: "Hashes") -> "Iterator[tuple[int, int, NDArray[np.int16]]]":
    """Row of the first photo, row of the first other, and (8, photos, others) distances in bits."""
    import numpy as np

    for start in range(0, photos.shape[1], BLOCK):
        block = photos[:, start : start + BLOCK].astype(np.float32)
        for begin in range(0, others.shape[1], BLOCK):
            same = block @ others[0, begin : begin + BLOCK].astype(np.float32).T
            yield start, begin, ((BITS - same) / 2).astype(np.int16)
