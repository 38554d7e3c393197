"""Validation photos for selection and, held out, for certification.

The best of many candidates is selected partly by noise, so it is certified once on photos that had no part
in its selection.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.measure.records import NoneHeldOut, SharedPhotos, TooFewToSplit
from workbench.measure.stats import PairedDrop
from workbench.photos.dataset import Dataset
from workbench.photos.overlap import Separation

SHOWN = 3  # paths of shared photos


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
        """Are validation photos in the calibration or the training data too?"""
        return isinstance(self.uncertified, SharedPhotos)


def split(
    validation: Dataset, groups: Sequence[int], shared: SharedPhotos | None, *, max_drop: float
) -> Parts:
    """Split the photos of every class in halves, near-duplicates kept together; the same for ever.

    groups: of every photo, a number that its near-duplicates share (`likeness.groups`). All photos are for
    selection where some are `shared` with training or calibration, and where a half is too small to certify
    `max_drop` even for a model that loses nothing.
    """
    everything, numbers = tuple(range(len(validation))), tuple(groups)
    if shared is not None:
        return Parts(everything, (), shared, numbers)
    members: dict[int, list[int]] = {}
    for row, number in enumerate(numbers):
        members.setdefault(number, []).append(row)
    chosen: list[int] = []
    dealt = 0
    for label in sorted(set(validation.labels)):
        # One that looks the same in several classes goes with the first of them.
        mine = [group for group in members.values() if validation.labels[group[0]] == label]
        # The odd photo of a class goes to the part that has fewer photos so far.
        chosen += _half(mine, validation.contents, more=2 * len(chosen) <= dealt)
        dealt += sum(map(len, mine))
    certifying = set(everything) - set(chosen)
    halves = Parts(tuple(sorted(chosen)), tuple(sorted(certifying)), None, numbers)
    best = max(halves.least_bound(halves.selection), halves.least_bound(halves.certification))
    if best > max_drop:
        return Parts(everything, (), TooFewToSplit(images=len(validation), drop_upper=best), numbers)
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


def shared_photos(separation: Separation) -> SharedPhotos | None:
    """Why nothing is certified, the training's photos before the calibration's; None where it was allowed."""
    if separation.allowed or not separation.overlaps:
        return None
    found = separation.overlaps[0]
    paths = tuple(pair.photo for pair in found.pairs[:SHOWN])
    return SharedPhotos(images=found.images, paths=paths, part=found.part, alike=found.alike)
