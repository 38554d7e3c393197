"""A table of plain text that fits a width: long cells go over several lines, then columns are left out."""

import re
from collections.abc import Collection, Sequence
from itertools import zip_longest

GAP = "  "
LEAST = 10  # characters a line of a folded cell
# Where a cell is folded: after what joins its parts, and before what begins one.
PARTS = re.compile(r"(?<=[,/= ])|(?=[\[@])")

Rows = Sequence[Sequence[str]]


def text_table(
    rows: Rows, width: int, *, folds: Collection[int] = (), drops: Sequence[int] = (), least: int = LEAST
) -> list[str]:
    """Aligned lines of at most `width` characters, as far as the columns allow it.

    folds: columns whose cells may go over several lines of `least` characters or more. drops: columns that
    are left out where that does not suffice, in this order. Parts of cells are cut only where all that fails.
    """
    kept, left = list(range(len(rows[0]))), list(drops)
    while left and _total(_widths(rows, kept, folds, width, least)) > width:
        kept.remove(left.pop(0))
    widths = _widths(rows, kept, folds, width, least)
    if _total(widths) > width:
        widths = _widths(rows, kept, folds, width, least, cut=True)
    return [line for row in rows for line in _lines([row[column] for column in kept], widths)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _widths(
    rows: Rows, kept: Sequence[int], folds: Collection[int], width: int, least: int, *, cut: bool = False
) -> list[int]:
    """Of the columns that are kept. cut: parts of cells may be cut."""
    widths = [max(len(row[column]) for row in rows) for column in kept]
    lowest = {
        place: least if cut else max(least, *(_longest_part(row[column]) for row in rows))
        for place, column in enumerate(kept)
        if column in folds
    }
    while _total(widths) > width:
        narrowed = [place for place in lowest if widths[place] > lowest[place]]
        if not narrowed:
            break
        widths[max(narrowed, key=lambda place: widths[place])] -= 1
    return widths


def _longest_part(cell: str) -> int:
    return max(len(part.rstrip()) for part in PARTS.split(cell))


def _lines(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    columns = [folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [GAP.join(map(str.ljust, parts, widths)).rstrip() for parts in zip_longest(*columns, fillvalue="")]


def folded(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` characters, broken between its parts, or within a long one."""
    if len(text) <= width:
        return [text]
    lines = [""]
    for part in PARTS.split(text):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]
