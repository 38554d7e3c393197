"""Which validation photos choose the winner, and which certify it.

Whoever chooses the best of many candidates on some photos has picked its luck on them too. So the photos
are split: one part chooses, the other, which chose nothing, certifies the winner once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import some
from workbench.measure.stats import PairedDrop
from workbench.photos.dataset import Dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


HASH_SIDE = 16  # a difference hash of 16 x 16 bits
# Of 256. A photo that was compressed again stays within about 20; a brighter or noisier copy may not, and is
# missed. Two leaves of one class of PlantVillage differ by 43 or more.
NEAR_BITS = 32


@dataclass(frozen=True, slots=True)
class Parts:
    """Row numbers of the validation photos, ascending.

    uncertified: why there is no certification part, or None. Without one, all photos choose.
    leak: because photos are in both the calibration and the validation data.
    """

    selection: tuple[int, ...]
    certification: tuple[int, ...]
    uncertified: str | None = None
    leak: bool = False


def split(
    validation: Dataset,
    pixels: "NDArray[np.uint8]",
    calibration: Dataset | None,
    *,
    max_drop: float,
) -> Parts:
    """Split the photos of every class in halves, near-duplicates kept together; the same for ever.

    pixels: (n, side, side, 3) uint8. max_drop: with so few photos that a half could not certify it even
    for a model that loses nothing, all of them choose and none certify.
    """
    everything = tuple(range(len(validation)))
    if calibration is not None and (shared := _shared(validation, calibration)):
        return Parts(everything, (), _leak(shared), leak=True)
    chosen: list[int] = []
    dealt = 0
    for label in sorted(set(validation.labels)):
        rows = [row for row in everything if validation.labels[row] == label]
        # The odd photo of a class goes to whichever part has fewer photos so far.
        chosen += _half(rows, validation.contents, pixels, more=2 * len(chosen) <= dealt)
        dealt += len(rows)
    known = {validation.contents[row] for row in chosen}
    # A photo that stands in two classes cannot be proved apart from itself.
    certifying = {row for row in set(everything) - set(chosen) if validation.contents[row] not in known}
    smaller = min(len(chosen), len(certifying))
    best = PairedDrop(0, 0, smaller).upper_bound() if smaller else 1.0
    if best > max_drop:
        return Parts(
            everything,
            (),
            f"{len(validation)} photos are too few to choose on one half and certify on the other "
            f"(a half could at best show a drop under {100 * best:.2f} points), so all of them chose",
        )
    return Parts(tuple(sorted(chosen)), tuple(sorted(certifying)))


def _shared(validation: Dataset, calibration: Dataset) -> list[str]:
    seen = set(calibration.contents)
    photos = zip(validation.paths, validation.contents, strict=True)
    return [str(path) for path, content in photos if content in seen]


def _leak(shared: Sequence[str]) -> str:
    return (
        f"{len(shared)} photos are in data.calibration and in data.validation "
        f"({some(shared, most=3, quote='')}), and accuracy on photos used for calibration certifies nothing"
    )


def _half(
    rows: Sequence[int], contents: Sequence[str], pixels: "NDArray[np.uint8]", *, more: bool
) -> list[int]:
    """About half of one class's photos, whole groups of near-duplicates at a time.

    Groups are dealt out in the order of their contents' digests, which no one chose, each to the part that
    has fewer; more: an odd photo goes to this part.
    """
    groups = sorted(groups_of(rows, pixels), key=lambda group: min(contents[row] for row in group))
    mine: list[int] = []
    others = 0
    for group in groups:
        if len(mine) < others or (len(mine) == others and more):
            mine += group
        else:
            others += len(group)
    return mine


def groups_of(rows: Sequence[int], pixels: "NDArray[np.uint8]") -> list[list[int]]:
    """Rows whose photos look the same, directly or through others; most rows stand alone."""
    import numpy as np

    hashes = np.stack([difference_hash(pixels[row]) for row in rows])
    leader = list(range(len(rows)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for index in range(len(rows)):
        distances = (hashes[index + 1 :] != hashes[index]).sum(axis=1)
        for other in np.flatnonzero(distances < NEAR_BITS):
            leader[find(index + 1 + int(other))] = find(index)
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(find(index), []).append(row)
    return list(groups.values())


def difference_hash(photo: "NDArray[np.uint8]") -> "NDArray[np.bool_]":
    """256 bits of a (side, side, 3) photo: is each cell of a 16 x 17 grid brighter than its left neighbour?

    N. Krawetz, "Kind of like that", 2013 (dHash): unmoved by compression, scale and small changes of light.
    """
    import numpy as np
    from PIL import Image

    grid = Image.fromarray(photo).convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(grid, dtype=np.int16)
    bits: NDArray[np.bool_] = (np.diff(cells, axis=1) > 0).ravel()
    return bits
