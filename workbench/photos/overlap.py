"""Photos that stand in two parts of the data: the same file, or one that looks the same."""

from typing import TYPE_CHECKING, Literal

from workbench.photos.dataset import Dataset
from workbench.photos.likeness import NEAR_BITS, TURNS, Turn, nearest
from workbench.system.records import Record

if TYPE_CHECKING:
    from workbench.photos.likeness import Hashes

KEPT_PAIRS = 24  # in a run's record, and shown
OtherPart = Literal["train", "calibration"]


class PhotoPair(Record):
    """A validation photo and the one of the other part that it is, or looks like. paths: absolute.

    bits: distance of the hashes; None where the files are equal.
    """

    photo: str
    photo_sha256: str
    other: str
    other_sha256: str
    bits: int | None
    turn: Turn = ""

    def words(self) -> str:
        """`Rust/007.jpg is Rust/IMG_7.jpg, turned`."""
        photo, other = (
            "/".join(path.replace("\\", "/").split("/")[-2:]) for path in (self.photo, self.other)
        )
        if self.bits is None:
            return f"{photo} is {other}"
        return f"{photo} looks like {other}{', ' if self.turn else ''}{self.turn}"


class Overlap(Record):
    """Validation photos that are in `data.train` or `data.calibration` too. photos: of that part.

    same: files that are equal; alike: others that look the same. pairs: the first, equal files before others.
    """

    part: OtherPart
    photos: int
    same: int = 0
    alike: int = 0
    pairs: tuple[PhotoPair, ...] = ()

    @property
    def images(self) -> int:
        return self.same + self.alike


class Separation(Record):
    """How the parts of the data were held apart: every photo compared by content and by look.

    parts: those that were given, each with what it shares with the validation photos. alike: validation
    photos that look like others of them; these are selected or held out together. allowed: shared photos were
    accepted (`data.allow_overlap`). near_bits: the distance in bits from which photos look different.
    """

    parts: tuple[Overlap, ...] = ()
    alike: int = 0
    allowed: bool = False
    near_bits: int = NEAR_BITS

    @property
    def overlaps(self) -> tuple[Overlap, ...]:
        """Parts that share photos with the validation photos, the training's first."""
        return tuple(sorted((p for p in self.parts if p.images), key=lambda p: p.part != "train"))


def overlap(
    part: OtherPart, validation: Dataset, others: Dataset, looks: "Hashes", other_looks: "Hashes"
) -> Overlap:
    """looks, other_looks: `likeness.hashes` of both."""
    first = {content: row for row, content in reversed(list(enumerate(others.contents)))}
    bits, rows, turns = nearest(looks, other_looks)
    equal: list[PhotoPair] = []
    alike: list[PhotoPair] = []
    for row, content in enumerate(validation.contents):
        if (same := first.get(content)) is not None:
            equal.append(_pair(validation, row, others, same, None, ""))
        elif bits[row] < NEAR_BITS:
            alike.append(_pair(validation, row, others, int(rows[row]), int(bits[row]), TURNS[turns[row]]))
    alike.sort(key=lambda pair: pair.bits or 0)
    pairs = tuple((*equal, *alike)[:KEPT_PAIRS])
    return Overlap(part=part, photos=len(others), same=len(equal), alike=len(alike), pairs=pairs)


def _pair(
    validation: Dataset, row: int, others: Dataset, other: int, bits: int | None, turn: Turn
) -> PhotoPair:
    return PhotoPair(
        photo=str(validation.paths[row].absolute()),
        photo_sha256=validation.contents[row],
        other=str(others.paths[other].absolute()),
        other_sha256=others.contents[other],
        bits=bits,
        turn=turn,
    )
