"""Class names in the order of the outputs: from a file of their own, or as programs keep them by weights."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.errors import WorkbenchError, some
from workbench.system.files import refuse_lfs_pointer

# What other programs call a list of class names, or the table of their numbers.
NAME_LISTS = ("class_names", "classes", "CLASSES")
NAME_TABLES = ("class_to_idx", "idx_to_class", "id2label", "label2id", "idx_to_label", "names")
HEADERS = frozenset({*NAME_LISTS, *NAME_TABLES, "name", "class", "label", "class_name", "labels"})
YAML, TABLES = (".yaml", ".yml"), (".csv", ".tsv")
WANTED = "write one name per line, or a JSON list, in the order of the network's outputs"


def listed(value: object) -> list[str] | None:
    """A list of names, or the names of a table in order; None for anything else."""
    if isinstance(value, Mapping):
        return ordered(value)
    names = value if isinstance(value, list) else []
    return names if len(names) > 1 and all(isinstance(name, str) for name in names) else None


def ordered(table: object) -> list[str] | None:
    """The names of a table from number to name, or from name to number, in order; None where the numbers
    are not those from 0 to the last."""
    numbered = _numbers(table)
    if numbered is None or set(numbered) != set(range(len(numbered))):
        return None
    return listed([numbered[index] for index in sorted(numbered)])


def _numbers(table: object) -> dict[int, object] | None:
    """A table by number, whichever side that is on."""
    if not isinstance(table, Mapping):
        return None
    pairs = list(table.items())
    if pairs and all(isinstance(value, int) for _, value in pairs):
        pairs = [(value, key) for key, value in pairs]
    try:
        numbered = {int(number): name for number, name in pairs}
    except (TypeError, ValueError):
        return None
    return numbered if len(numbered) == len(pairs) else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names from text with one per line, numbered or not, from CSV, JSON or YAML. Raises WorkbenchError."""
    text = _text(path)
    if text.lstrip().startswith(("[", "{")) or path.suffix.lower() in (*YAML, ".json"):
        return tuple(_of_data(path, text))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    table = next(filter(None, (_table(lines, delimiter) for delimiter in "\t;,:")), None)
    if table is not None:
        return tuple(_in_order(path, table))
    if path.suffix.lower() in TABLES:
        lines = _single_column(path, lines)
    if not lines:
        raise WorkbenchError(f"model.class_names: {path} holds no names", hint=WANTED)
    return tuple(lines)


def _text(path: Path) -> str:
    try:
        refuse_lfs_pointer(path, "model.class_names")
        data = path.read_bytes()
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except OSError as error:
        raise WorkbenchError(f"model.class_names: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WorkbenchError(
            f"model.class_names: {path} is not UTF-8 text", hint="save it in UTF-8"
        ) from error


def _of_data(path: Path, text: str) -> list[str]:
    """The names of JSON or YAML: a list, a table, or one of these below a key that usually holds them."""
    import yaml

    try:
        data = yaml.safe_load(text) if path.suffix.lower() in YAML else json.loads(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "YAML" if path.suffix.lower() in YAML else "JSON"
        raise WorkbenchError(f"model.class_names: {path} is not valid {kind}", hint=WANTED) from error
    known = [data[key] for key in (*NAME_LISTS, *NAME_TABLES) if isinstance(data, dict) and key in data]
    for value in (data, *known):
        if names := listed(value):
            return names
        numbered = _numbers(value) or {}
        if numbered and all(isinstance(name, str) for name in numbered.values()):
            return _in_order(path, numbered)
    raise WorkbenchError(f"model.class_names: {path} is not a list of names", hint=WANTED)


def _in_order(path: Path, numbered: Mapping[int, object]) -> list[str]:
    if names := ordered(numbered):
        return names
    found = some([str(number) for number in sorted(numbered)], quote="")
    raise WorkbenchError(
        f"model.class_names: {path} has the numbers {found}; outputs are numbered from 0, without gaps",
        hint=WANTED,
    )


def _table(lines: Sequence[str], delimiter: str) -> dict[int, str] | None:
    """Lines of a number and a name, in either order, below a header or not."""
    every = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    for rows in (every, every[1:]):
        if len(rows) < 2 or any(len(row) != 2 for row in rows):
            continue
        for number, name in ((0, 1), (1, 0)):
            if all(row[number].strip().isdecimal() for row in rows):
                table = {int(row[number]): row[name].strip() for row in rows}
                # `stage: 0` and `stage: 1` are names.
                return table if len(table) == len(set(table.values())) == len(rows) else None
    return None


def _single_column(path: Path, lines: Sequence[str]) -> list[str]:
    rows = list(csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    if rows and rows[0][0].strip().lower() in HEADERS:
        rows = rows[1:]
    if wide := next((row for row in rows if len(row) > 1), None):
        raise WorkbenchError(
            f"model.class_names: {path} has {some(wide)} in one row, and neither a number nor one name",
            hint=WANTED,
        )
    return [row[0].strip() for row in rows]
