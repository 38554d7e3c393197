"""Validation photos for selection and, held out, for certification.

The best of many candidates is selected partly by noise, so it is certified once on photos that had no part
in its selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.measure.records import NoneHeldOut, SharedPhotos, TooFewToSplit
from workbench.measure.stats import PairedDrop
from workbench.photos.dataset import Dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


SHOWN = 3  # paths of shared photos
HASH_SIDE = 16  # a difference hash of 16 x 16 bits
# Of 256. A photo that was compressed again stays within about 20; a brighter or noisier copy may not, and is
# missed. Two leaves of one class of PlantVillage differ by 43 or more.
NEAR_BITS = 32


@dataclass(frozen=True, slots=True)
class Parts:
    """Row numbers of the validation photos, ascending. uncertified: why all are for selection."""

    selection: tuple[int, ...]
    certification: tuple[int, ...]
    uncertified: NoneHeldOut | None = None

    @property
    def leak(self) -> bool:
        """Are photos in both the calibration and the validation data?"""
        return isinstance(self.uncertified, SharedPhotos)


def split(
    validation: Dataset, pixels: "NDArray[np.uint8]", calibration: Dataset | None, *, max_drop: float
) -> Parts:
    """Split the photos of every class in halves, near-duplicates kept together; the same for ever.

    pixels: (n, side, side, 3) uint8. max_drop: where a half is too small to certify it even for a model that
    loses nothing, all photos are for selection.
    """
    everything = tuple(range(len(validation)))
    known = set(calibration.contents if calibration is not None else ())
    photos = zip(validation.paths, validation.contents, strict=True)
    if shared := [str(path) for path, content in photos if content in known]:
        return Parts(everything, (), SharedPhotos(images=len(shared), paths=tuple(shared[:SHOWN])))
    chosen: list[int] = []
    dealt = 0
    for label in sorted(set(validation.labels)):
        rows = [row for row in everything if validation.labels[row] == label]
        # The odd photo of a class goes to the part that has fewer photos so far.
        chosen += _half(rows, validation.contents, pixels, more=2 * len(chosen) <= dealt)
        dealt += len(rows)
    known = {validation.contents[row] for row in chosen}
    # A photo that stands in two classes must not be in both parts.
    certifying = {row for row in set(everything) - set(chosen) if validation.contents[row] not in known}
    smaller = min(len(chosen), len(certifying))
    best = PairedDrop(0, 0, smaller).upper_bound() if smaller else 1.0
    if best > max_drop:
        return Parts(everything, (), TooFewToSplit(images=len(validation), drop_upper=best))
    return Parts(tuple(sorted(chosen)), tuple(sorted(certifying)))


def _half(
    rows: Sequence[int], contents: Sequence[str], pixels: "NDArray[np.uint8]", *, more: bool
) -> list[int]:
    """About half of one class's photos, in whole groups of near-duplicates. more: also the odd photo."""
    # Groups are dealt out in the order of their contents' digests, each to the part that has fewer photos.
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
    """Rows grouped by photos that look the same, directly or through others."""
    import numpy as np

    hashes = np.stack([difference_hash(pixels[row]) for row in rows])
    label = np.arange(len(rows))
    for index, own in enumerate(hashes):
        near = label[:index][(hashes[:index] != own).sum(axis=1) < NEAR_BITS]
        # A photo that is near two groups makes them one.
        label[np.isin(label, near)] = label[index] = near.min(initial=index)
    groups: dict[int, list[int]] = {}
    for row, group in zip(rows, label.tolist(), strict=True):
        groups.setdefault(group, []).append(row)
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
