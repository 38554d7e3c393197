"""What a page is made of: sections of blocks, which `templates/page.html` lays out."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Tone = Literal["plain", "lead", "warning"]


@dataclass(frozen=True, slots=True)
class Cell:
    """share: of the longest bar of its column, 0 to 1. target: the id of what it leads to. page: the address
    of another page, beside this one. marked: it stands out."""

    text: str
    share: float | None = None
    target: str | None = None
    page: str | None = None
    marked: bool = False


@dataclass(frozen=True, slots=True)
class DataTable:
    """texts: columns that hold words, the first ones; the others are figures. marked: rows that stand out."""

    kind: ClassVar[str] = "table"
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()
    texts: int = 1


@dataclass(frozen=True, slots=True)
class TextLines:
    """tone: `lead` for what matters most, `warning` for what must be mended."""

    kind: ClassVar[str] = "lines"
    lines: tuple[str, ...]
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class CommandLines:
    kind: ClassVar[str] = "commands"
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """spec: of Vega-Lite, with its data. table: the same figures, for those who cannot see the chart.

    picks: a click on a mark shows the card of its variant below the chart. unfolded: the table is open.
    """

    title: str
    spec: dict[str, Any]
    table: DataTable
    picks: bool = False
    unfolded: bool = False


@dataclass(frozen=True, slots=True)
class DrawnChart:
    """A chart as the page holds it. svg: for paper, and for readers without scripts."""

    kind: ClassVar[str] = "chart"
    id: str
    title: str
    svg: str
    table: DataTable
    picks: bool
    unfolded: bool


@dataclass(frozen=True, slots=True)
class ThumbnailPhoto:
    """A photo in a gallery. image: a JPEG as a data URL; None where its file is not there as it was.

    answers: who answered, what with which confidence, and whether that is right; the baseline first.
    """

    name: str
    truth: str
    image: str | None
    answers: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    kind: ClassVar[str] = "gallery"
    photos: tuple[ThumbnailPhoto, ...]


@dataclass(frozen=True, slots=True)
class TwoPhotos:
    """A validation photo and another like it. images: as in `ThumbnailPhoto`. how: how alike they are."""

    images: tuple[str | None, str | None]
    names: tuple[str, str]
    how: str


@dataclass(frozen=True, slots=True)
class PhotoPairs:
    kind: ClassVar[str] = "pairs"
    pairs: tuple[TwoPhotos, ...]


@dataclass(frozen=True, slots=True)
class VariantCard:
    """recipe: its text as YAML; None where the run did not keep it. everything: as of `compare --variant`."""

    id: str
    variant: str
    summary: str
    recipe: str | None
    commands: tuple[str, ...]
    everything: str


@dataclass(frozen=True, slots=True)
class CardList:
    kind: ClassVar[str] = "cards"
    cards: tuple[VariantCard, ...]


PageBlock = DataTable | TextLines | CommandLines | Chart | DrawnChart | Gallery | PhotoPairs | CardList


@dataclass(frozen=True, slots=True)
class PageSection:
    """key: part of its id, the same in every run. A section without blocks is left out."""

    key: str
    title: str
    blocks: tuple[PageBlock, ...]


def lines(*texts: str, tone: Tone = "plain") -> tuple[TextLines, ...]:
    """The texts that say something, as one block; none where none does."""
    shown = tuple(text for text in texts if text)
    return (TextLines(shown, tone),) if shown else ()


def table(
    caption: str, headings: tuple[str, ...], rows: list[tuple[str, ...]], *, texts: int = 1
) -> DataTable:
    """Without bars, links and marks."""
    return DataTable(caption, headings, tuple(tuple(map(Cell, row)) for row in rows), texts=texts)
