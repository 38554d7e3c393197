"""Tables of settings for the documents, made from the descriptions of the fields.

A page holds them between two markers, and `python -m docs.field_tables PAGE...` rewrites them:

    <!-- fields: workbench.model.export.settings:Export -->
    <!-- end -->

`fields` gives a row to every field of a model; of a union of models too, with a column of those that have it.
`members` gives a row to every model of a union.
"""

import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from workbench.workspace.fields import as_yaml, described, models_in, summary, tag_of, tags_of

MARKED = re.compile(r"(<!-- (fields|members): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every table between its markers made from the code."""
    tables = {"fields": fields_table, "members": members_table}
    return MARKED.sub(
        lambda found: found[1] + tables[found[2]](pkgutil.resolve_name(found[3])) + found[4], page
    )


def fields_table(annotation: Any) -> str:
    """Key, default and meaning of each field of a model or of a union of models."""
    models = models_in(annotation)
    owners: dict[tuple[str, str, str], list[str]] = {}
    for model in models:
        for name, field in described(model):
            row = (f"`{_key(name, field)}`", _default(field), field.description or "")
            owners.setdefault(row, []).extend(tags_of(model))
    if len(models) == 1:
        environment = all(field.validation_alias for _, field in described(models[0]))
        header = ["variable" if environment else "key", "default", "meaning"]
        return _table(header, [list(row) for row in owners])
    everything = [tag for model in models for tag in tags_of(model)]
    rows = [
        [key, default, "" if tags == everything else ", ".join(tags), meaning]
        for (key, default, meaning), tags in owners.items()
    ]
    return _table(["key", "default", tag_of(models[0]), "meaning"], rows)


def members_table(annotation: Any) -> str:
    """The models of a union by their tags, with the first paragraph of their docstrings."""
    models = models_in(annotation)
    rows = [[f"`{tag}`", summary(model)] for model in models for tag in tags_of(model)]
    return _table([tag_of(models[0]), "what it does"], rows)


def _key(name: str, field: FieldInfo) -> str:
    """The field's name, or the environment variable of a field of pydantic-settings."""
    return field.validation_alias if isinstance(field.validation_alias, str) else name


def _default(field: FieldInfo) -> str:
    """Empty where the description has to say what the default means."""
    if field.is_required():
        return "required"
    value = field.default
    return "" if value in (None, "", (), {}) or isinstance(value, BaseModel) else f"`{as_yaml(value)}`"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
