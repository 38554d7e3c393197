"""A CSV of photos and their labels, as spreadsheets, pandas and people write them."""

import csv
import glob
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from workbench.errors import WorkbenchError, plural, some
from workbench.photos.folders import SUFFIXES, ClassNames, normal_form
from workbench.photos.signatures import HEAD, kind_of_file

DELIMITERS = ",;\t| "
# Names of the two columns, the surest first; compared without case, spaces and punctuation.
PATHS = (
    *("path", "filepath", "imagepath", "imgpath", "photopath", "file", "filename", "imagename", "imgname"),
    *("image", "img", "photo", "picture", "fname", "imagefile", "relativepath", "imageid", "name", "id"),
)
LABELS = (
    *("label", "class", "classname", "labelname", "category", "target", "species", "disease", "diagnosis"),
    *("labels", "y", "classid", "labelid", "classindex", "labelindex", "labelidx", "classidx", "categoryid"),
)
PARTS = frozenset({"split", "subset", "set", "fold", "partition", "phase", "usage", "isvalid", "istrain"})
NUMBERED = "labels are numbers, read as places in the order of the class names, from 0"
WANTED = "give a header line with the columns path,label: a photo's path, relative to the CSV, and its class"


def read_manifest(
    source: Path, classes: ClassNames, where: str, *, labelled: bool
) -> tuple[list[tuple[Path, int]], list[str]]:
    """The photos that a CSV lists with their labels, and notes. where: the field, for messages.

    labelled: False where labels do not matter; they are 0 then, and there need be no such column.
    Raises WorkbenchError with what stands there, where that cannot be understood.
    """
    text, notes = _text(source, where)
    rows, delimiter, found = _table(text, source, classes, labelled=labelled)
    if not rows:
        raise WorkbenchError(f"{where}: {source} is empty", hint=WANTED)
    if found is None:
        wanted = "a photo's path and its label" if labelled else "a photo's path"
        shown = some([cell.strip() for cell in rows[0][1]])
        raise WorkbenchError(f"{where}: {source}:{rows[0][0]} has {shown}, but not {wanted}", hint=WANTED)
    first, path_at, label_at = found
    header = rows[:first]
    width = len(header[-1][1] if header else rows[0][1])
    pairs, as_index = [], 0
    for line, cells in rows[first:]:
        place = f"{where}: {source}:{line}"
        if any(cell.strip() for cell in cells[width:]):
            raise WorkbenchError(
                f"{place}: this row has {plural(len(cells), 'cell')}, the first one {width}",
                hint=f"put a path or label that contains `{delimiter}` between double quotes",
            )
        cells = [*cells, *[""] * (width - len(cells))]
        path = _photo(source, cells[path_at], place)
        label, numbered = (0, False)
        if labelled and label_at is not None:
            label, numbered = _label(cells[label_at], classes, place)
        pairs.append((path, label))
        as_index += numbered
    if labelled and header:
        notes += _parts(source.name, rows[first - 1 :])
    if as_index:
        notes.append(f"{source.name}: {NUMBERED} (`{classes.names[0]}`)")
    return pairs, notes


def _text(source: Path, where: str) -> tuple[str, list[str]]:
    """The file's text, and a note where its encoding is a guess."""
    data = source.read_bytes()
    kind = kind_of_file(data[:HEAD])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif kind == "unknown file" and data[1:2] == b"\0":
        encoding = "utf-16-le"
    elif kind == "Git LFS pointer":
        raise WorkbenchError(f"{where}: {source} is a Git LFS pointer", hint="fetch it with `git lfs pull`")
    elif kind not in ("text file", "empty file"):
        what = " (of a spreadsheet, if it is one)" if kind == "ZIP archive" else ""
        raise WorkbenchError(
            f"{where}: {source} is not a text file: {'an' if kind[0] in 'aeiou' else 'a'} {kind}{what}",
            hint="save it as CSV in UTF-8, or give a folder of class folders",
        )
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding).removeprefix("\ufeff"), []
    except UnicodeDecodeError:
        if encoding != "utf-8-sig":
            raise WorkbenchError(f"{where}: {source} is not valid UTF-16", hint="save it in UTF-8") from None
    return data.decode("cp1252", errors="replace"), [f"{source.name} is not UTF-8: read as Windows-1252"]


Rows = list[tuple[int, list[str]]]


Columns = tuple[int, int, int | None]  # the first row of data, the places of path and label


def _table(
    text: str, source: Path, classes: ClassNames, *, labelled: bool
) -> tuple[Rows, str, Columns | None]:
    """The rows with the number of their line, by the delimiter that makes sense of them, and the columns."""
    tables = [(_rows(text, delimiter), delimiter) for delimiter in DELIMITERS]
    tables = [(rows, delimiter) for rows, delimiter in tables if rows]
    for rows, delimiter in tables:
        if (found := _columns_by_name(rows, classes, labelled=labelled)) is not None:
            return rows, delimiter, found
    for rows, delimiter in tables:
        if (found := _columns_by_content(rows, source, classes, labelled=labelled)) is not None:
            return rows, delimiter, found
    rows, delimiter = max(tables[:-1], key=lambda table: len(table[0][0][1]), default=([], ","))
    return rows, delimiter, None


def _rows(text: str, delimiter: str) -> Rows:
    lines = text.splitlines(keepends=True)
    if lines and re.fullmatch(r"sep=.\s*", lines[0]):  # Excel's
        lines[0] = "\n"
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error:
        return []


def _columns_by_name(rows: Rows, classes: ClassNames, *, labelled: bool) -> Columns | None:
    """By the header. Of several columns of labels that with most names of classes, as the numbers beside them
    may be in another order; of the others the surest."""
    names = _plain(rows[0][1])
    path = next((names.index(name) for name in PATHS if name in names), None)
    labels = [names.index(name) for name in LABELS if name in names]
    if path is None or (labelled and not labels):
        return None

    def named(at: int) -> int:
        return sum(classes.label("".join(cells[at : at + 1])) is not None for _, cells in rows[1:])

    return 1, path, max(labels, key=named, default=None)


def _plain(header: Sequence[str]) -> list[str]:
    return [re.sub(r"[\W_]", "", cell.lower()) for cell in header]


def _parts(name: str, rows: Rows) -> list[str]:
    """A note where a column says which rows are for training and which are not. rows: from the header on."""
    for at, title in enumerate(_plain(rows[0][1])):
        values = Counter("".join(cells[at : at + 1]).strip() for _, cells in rows[1:])
        if title in PARTS and len(values) > 1:
            counted = ", ".join(f"{count} {value or 'empty'}" for value, count in values.most_common(4))
            return [
                f"{name}: the column `{rows[0][1][at].strip()}` ({counted}) is not read: every row counts"
            ]
    return []


def _columns_by_content(rows: Rows, source: Path, classes: ClassNames, *, labelled: bool) -> Columns | None:
    """Without a header, or with one in other words, what stands below tells the columns."""
    for first, (_, cells) in enumerate(rows[:2]):
        places = range(len(cells))
        path = next((at for at in places if next(_places(source, cells[at]), None)), None)
        if path is None and labelled:  # it may be missing, which is said later
            path = next((at for at in places if Path(cells[at].strip()).suffix.lower() in SUFFIXES), None)
        labels = [at for at in places if at != path and _label_of(cells[at], classes) is not None]
        named = [at for at in labels if classes.label(cells[at]) is not None]
        if path is not None and (labels or not labelled):
            known = _alike(rows[first:], named or labels, classes) if labelled else labels
            return (first, path, next(iter(known), None)) if known or not labelled else None
    return None


def _alike(rows: Rows, places: list[int], classes: ClassNames) -> list[int]:
    """The columns with a label in every row. None of them where two differ: either may be the label, as in a
    table with a column of 0 and 1 for each class."""
    columns = {
        at: [
            found and found[0]
            for _, cells in rows
            for found in [_label_of("".join(cells[at : at + 1]), classes)]
        ]
        for at in places
    }
    whole = [at for at in places if None not in columns[at]]
    return (whole or places) if all(columns[at] == columns[whole[0]] for at in whole) else []


def _label_of(cell: str, classes: ClassNames) -> tuple[int, bool] | None:
    """The label, and whether it was a number. A class may be called by a number, which comes first."""
    if (label := classes.label(cell)) is not None:
        return label, False
    number = re.fullmatch(r"\s*(\d+)(?:\.0*)?\s*", cell)
    if number and int(number[1]) < len(classes.names):
        return int(number[1]), True
    return None


def _label(cell: str, classes: ClassNames, place: str) -> tuple[int, bool]:
    if (found := _label_of(cell, classes)) is not None:
        return found
    if not cell.strip():
        raise WorkbenchError(
            f"{place}: this row has no label", hint="write the photo's class, or remove the row"
        )
    raise WorkbenchError(
        f"{place}: `{cell.strip()}` is no class of the model",
        hint=classes.hint(cell, "labels are class names, or their numbers from 0"),
    )


def _places(source: Path, cell: str) -> Iterator[Path]:
    """Files that a path may mean: as it stands, with slashes turned, with accents in the other form."""
    forms: Sequence[Callable[[str], str]] = (
        lambda text: text,
        str.strip,
        lambda text: text.strip().replace("\\", "/"),
        lambda text: normal_form(text.replace("\\", "/")),
        lambda text: unicodedata.normalize("NFD", text.strip().replace("\\", "/")),
    )
    for form in forms:
        if cell.strip() and "\0" not in cell and (path := source.parent / form(cell)).is_file():
            yield path


def _photo(source: Path, cell: str, place: str) -> Path:
    if not cell.strip():
        raise WorkbenchError(
            f"{place}: this row names no photo", hint="write the photo's path, or remove the row"
        )
    if (found := next(_places(source, cell), None)) is not None:
        return found
    path = source.parent / cell.strip()
    if path.is_symlink():
        problem = f"is a link to {path.readlink()}, which does not exist"
    else:
        problem = "is a folder" if path.is_dir() else "does not exist"
    if elsewhere := re.match(r"\s*(\w[\w+.-]+://|[A-Za-z]:[\\/])", cell):
        url = elsewhere[1].endswith("//")
        problem = "is a URL" if url else "is a path of Windows"
    shown = cell.strip() if elsewhere else path
    raise WorkbenchError(f"{place}: {shown} {problem}", hint=_remedy(source, cell.strip(), problem))


def _remedy(source: Path, cell: str, problem: str) -> str:
    """What to do about a path that leads nowhere."""
    if problem == "is a URL":
        return "photos are read from disk: fetch them, and give their paths, relative to the CSV"
    path = source.parent / cell
    if more := sorted(path.parent.glob(f"{glob.escape(path.name)}.*")):
        return f"give whole names: did you mean `{more[0].name}`?"
    other = next((folder for folder in source.resolve().parents[1:] if (folder / cell).is_file()), None)
    return "paths are relative to the CSV" + (f"; this one is to {other}: put the CSV there" if other else "")
