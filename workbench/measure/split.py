"""Validation photos for selection and, held out, for certification.

The best of many candidates is selected partly by noise, so it is certified once on photos that had no part
in its selection.
"""

from collections import Counter
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
    """Row numbers of the validation photos, ascending. uncertified: why all are for selection.

    groups: of every validation photo, a number that its near-duplicates share.
    """

    selection: tuple[int, ...]
    certification: tuple[int, ...]
    uncertified: NoneHeldOut | None = None
    groups: tuple[int, ...] = ()

    def independent(self, rows: Sequence[int]) -> float | None:
        """The photos that these count as: near-duplicates change their answers together, and count as one.

        The effective sample size of clusters of unequal size (L. Kish, "Survey Sampling", 1965, with full
        correlation within a cluster). None where no two are alike.
        """
        sizes = Counter(self.groups[row] for row in rows) if self.groups else Counter[int]()
        if max(sizes.values(), default=1) == 1:
            return None
        return len(rows) ** 2 / sum(size**2 for size in sizes.values())

    def least_bound(self, rows: Sequence[int]) -> float:
        """The upper bound of a drop that these would show for a variant that loses nothing."""
        return PairedDrop(0, 0, len(rows), self.independent(rows)).upper_bound() if rows else 1.0

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
    alike = [
        group
        for label in sorted(set(validation.labels))
        for group in groups_of([row for row in everything if validation.labels[row] == label], pixels)
    ]
    number = {row: index for index, group in enumerate(alike) for row in group}
    groups = tuple(number[row] for row in everything)
    known = set(calibration.contents if calibration is not None else ())
    photos = zip(validation.paths, validation.contents, strict=True)
    if shared := [str(path) for path, content in photos if content in known]:
        leak = SharedPhotos(images=len(shared), paths=tuple(shared[:SHOWN]))
        return Parts(everything, (), leak, groups)
    chosen: list[int] = []
    dealt = 0
    for label in sorted(set(validation.labels)):
        mine = [group for group in alike if validation.labels[group[0]] == label]
        # The odd photo of a class goes to the part that has fewer photos so far.
        chosen += _half(mine, validation.contents, more=2 * len(chosen) <= dealt)
        dealt += sum(map(len, mine))
    known = {validation.contents[row] for row in chosen}
    # A photo that stands in two classes must not be in both parts.
    certifying = {row for row in set(everything) - set(chosen) if validation.contents[row] not in known}
    halves = Parts(tuple(sorted(chosen)), tuple(sorted(certifying)), None, groups)
    best = max(halves.least_bound(halves.selection), halves.least_bound(halves.certification))
    if best > max_drop:
        return Parts(everything, (), TooFewToSplit(images=len(validation), drop_upper=best), groups)
    return halves


def _half(alike: Sequence[Sequence[int]], contents: Sequence[str], *, more: bool) -> list[int]:
    """About half of one class's photos, in whole groups of near-duplicates. more: also the odd photo."""
    # Groups are dealt out in the order of their contents' digests, each to the part that has fewer photos.
    mine: list[int] = []
    others = 0
    for group in sorted(alike, key=lambda group: min(contents[row] for row in group)):
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
