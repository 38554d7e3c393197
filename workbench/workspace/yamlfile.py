"""Read YAML files with the line of every key and validate them against a model. An error names file, line and
field, and suggests a correction."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from workbench.errors import FieldProblem, Place, WorkbenchError, did_you_mean, some
from workbench.system.records import Parsed, dotted
from workbench.workspace.fields import models_in, tags_of

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain YAML data, and the line (from 1) of every key and item.

    files: of the places that another file gave (see `merged`); all others are in `path`.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[Place, int]
    files: Mapping[Place, Path] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """`file:line`, of the nearest key that exists."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.files.get(place, self.path)}:{self.lines.get(place, 1)}"


def read(path: Path, *, kind: str) -> Document:
    """Parse a YAML file whose top level is a mapping. Raises WorkbenchError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise WorkbenchError(f"{path} does not exist") from None
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise WorkbenchError(f"{path} is not a text file", hint=f"a {kind} is YAML in UTF-8") from None
    try:
        node = yaml.compose(text, _Loader)
        lines: dict[Place, int] = {}
        if node is not None:
            _collect_lines(path, node, (), lines)
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise _syntax_error(path, text, error) from None
    except RecursionError:
        raise WorkbenchError(f"{path} contains itself, or is nested too deeply to be a {kind}") from None
    if data is None:
        raise WorkbenchError(f"{path} is empty", hint=f"`krishi-bench schema {kind}` describes one")
    if not isinstance(data, dict):
        raise WorkbenchError(f"{path}:1: a {kind} is a mapping of keys, this is a {type(data).__name__}")
    return Document(path, data, lines)


def merged(child: Document, parent: Document) -> Document:
    """The child's keys over the parent's, each still knowing its file and line.

    Mappings are merged key by key; anything else is replaced whole, lists too. A null drops what the parent
    gives, as in a JSON merge patch (RFC 7386).
    """
    replaced: set[Place] = set()
    data = _merge(child.data, parent.data, (), replaced)
    inherited = {
        place: line
        for place, line in parent.lines.items()
        if not any(place[:length] in replaced for length in range(1, len(place) + 1))
    }
    files = {place: parent.files.get(place, parent.path) for place in inherited if place not in child.lines}
    return Document(child.path, data, {**inherited, **child.lines}, {**files, **child.files})


def _merge(child: dict[str, Any], parent: dict[str, Any], at: Place, replaced: set[Place]) -> dict[str, Any]:
    """`child` over `parent`; adds the places of the parent's values that are dropped to `replaced`."""
    result = dict(parent)
    for key, value in child.items():
        if isinstance(value, dict) and isinstance(parent.get(key), dict):
            result[key] = _merge(value, parent[key], (*at, key), replaced)
            continue
        replaced.add((*at, key))
        result[key] = value
        if value is None and key in parent:
            del result[key]
    return result


def _collect_lines(path: Path, node: yaml.Node, place: Place, lines: dict[Place, int]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                twice = f"the key is given twice (first in line {lines[inner]})"
                raise WorkbenchError(f"{path}:{line}: {dotted(inner)}: {twice}")
            lines[inner] = line
            _collect_lines(path, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(path, value, (*place, index), lines)


def _syntax_error(path: Path, text: str, error: yaml.YAMLError) -> WorkbenchError:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark is not None else 1
    problem = getattr(error, "problem", None) or "not valid YAML"
    shown = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or "'\\t'" in problem:
        return WorkbenchError(f"{path}:{line}: a tab is used for indentation", hint="indent with spaces")
    hint = "the line above may be where it starts"
    if "escape" in problem:
        hint = "put what has a backslash between single quotes; in paths write `/`"
    return WorkbenchError(f"{path}:{line}: {problem}", hint=hint)


def validated(
    model: type[Parsed], data: dict[str, Any], document: Document, *, kind: str, at: Place | None = None
) -> Parsed:
    """`data` as a `model`. Raises WorkbenchError listing every problem with its line.

    at: the place all problems are reported at, for data that was computed from that key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found: list[tuple[str, str | None]] = []
        for detail in error.errors(include_url=False):
            place = _place_in(data, _location(detail), missing=detail["type"] == "missing")
            message, hint = _explain(model, detail)
            found.append((f"  {document.where(at or place)}: {dotted(place) or kind}: {message}", hint))
        # Of several problems each keeps its hint; the hint of a single one stands on its own.
        lines = [f"{line}; {hint}" if hint and len(found) > 1 else line for line, hint in found]
        text = f"{document.path} is not a valid {kind}\n" + "\n".join(lines)
        raise WorkbenchError(text, hint=found[0][1] if len(found) == 1 else None) from None


def _location(detail: Any) -> Place:
    context = detail.get("ctx", {})
    if isinstance(raised := context.get("error"), FieldProblem):
        return (*detail["loc"], *raised.at)
    if detail["type"] == "union_tag_invalid":
        return (*detail["loc"], context["discriminator"].strip("'"))
    return tuple(detail["loc"])


def _place_in(data: object, location: Place, *, missing: bool) -> Place:
    """pydantic's location without the union tags it puts between the keys.
    missing: the last part is a key that should be there, and not a tag."""
    place: list[str | int] = []
    for index, part in enumerate(location):
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, dict) and part in data):
            data = data[part]  # type: ignore[index]
        elif not missing or index < len(location) - 1:
            continue
        place.append(part)
    return tuple(place)


def _explain(model: type[BaseModel], detail: Any) -> tuple[str, str | None]:
    """An error of pydantic as a message and a hint."""
    location, context = detail["loc"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            known = _fields_at(model, location[:-1])
            hint = _home_of(model, location) or did_you_mean(str(location[-1]), known)
            return ("unknown key" if hint else f"unknown key (known: {', '.join(known)})"), hint
        case "missing":
            return "this key is required", None
        case "union_tag_not_found":
            return f"say which step it is: `{context['discriminator'].strip(chr(39))}: ...`", None
        case "literal_error" | "union_tag_invalid":
            known = re.findall(r"'([^']*)'", context.get("expected", context.get("expected_tags", "")))
            given = str(context.get("tag", detail["input"]))
            return f"`{given}` is not one of {', '.join(known)}", did_you_mean(given, known)
        case "value_error":
            return str(context["error"]), getattr(context["error"], "hint", None)
        case "string_type" if isinstance(detail["input"], int | float):
            said = f"{detail['msg'][0].lower()}{detail['msg'][1:]} (got {detail['input']!r})"
            return said, "write it in quotes, or YAML reads a number"
        case "tuple_type" | "list_type":
            return f"this must be a list, `[...]` (got {detail['input']!r})", None
        case "invalid_key":
            whole = type(detail["input"]) is int
            hint = "write decimals with a point, not with a comma" if whole else "put it in quotes"
            return f"`{detail['input']}` is no key", hint
        case "float_parsing" | "int_parsing" if hint := _plain_number(detail["input"]):
            return f"`{detail['input']}` is not a number", hint
        case "path_type":
            return f"this must be a path (got {detail['input']!r})", None
        case "dict_type" | "model_type" | "model_attributes_type" if detail["input"] is None:
            return "nothing stands below this key", "give its keys, indented, or remove the line"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"this must be a mapping of keys (got {detail['input']!r})", None
        case _:
            return f"{detail['msg'][0].lower()}{detail['msg'][1:]} (got {detail['input']!r})", None


def _plain_number(text: str) -> str | None:
    """How to write a number that came with a unit; None where it did not."""
    if (found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([^\d.]+)", text.strip())) is None:
        return None
    number, unit = found.groups()
    return (
        f"write a fraction: {float(number) / 100:g}" if unit == "%" else f"write the number alone: {number}"
    )


def _home_of(model: type[BaseModel], location: Place) -> str | None:
    """A hint where a key of this very name belongs in a section beside it, at the top of the file, or in
    another section."""
    *above, key = location
    if above and (homes := _sections_with(key, _models_at(model, above))):
        return f"`{key}` belongs below {some(homes, separator=' or ')}"
    if key in model.model_fields:
        return f"`{key}` belongs at the top of the file, not indented"
    homes = [home for home in _sections_with(key, [model]) if home not in above]
    return f"`{key}` belongs below {some(homes, separator=' or ')}" if homes else None


def _sections_with(key: str | int, models: Sequence[type[BaseModel]]) -> list[str]:
    """The keys of these models under which one of this name stands."""
    fields = [pair for member in models for pair in member.model_fields.items()]
    return [
        name
        for name, field in fields
        if any(key in inner.model_fields for inner in models_in(field.annotation))
    ]


def _fields_at(model: type[BaseModel], location: Place) -> list[str]:
    """The keys that are valid at a pydantic location."""
    members = _models_at(model, location)
    return [field.alias or name for member in members for name, field in member.model_fields.items()]


def _models_at(model: type[BaseModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a pydantic location."""
    members = [model]
    for part in location:
        if isinstance(part, int):
            continue
        fields = [m.model_fields[part] for m in members if part in m.model_fields]
        inner = [model for field in fields for model in models_in(field.annotation)]
        members = inner or [m for m in members if part in tags_of(m)] or members
    return members
