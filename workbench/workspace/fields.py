"""Read the docstrings of the models of a file and the descriptions of their fields."""

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

TAGS = ("use", "backend")  # the fields that choose a model of a union


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, in its unions and containers."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]


def tag_of(model: type[BaseModel]) -> str:
    """The field that chooses a model in its union: `use`; "" for a model outside of unions."""
    return next((name for name in TAGS if name in model.model_fields), "")


def tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of that field: `static_int8`."""
    tag = tag_of(model)
    return typing.get_args(model.model_fields[tag].annotation) if tag else ()


def summary(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring, on one line."""
    return " ".join(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].split())


def described(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that a person sets, by name; the tags are left out."""
    return ((name, field) for name, field in model.model_fields.items() if name not in TAGS)


def as_yaml(value: object) -> str:
    """A setting's value as YAML writes it, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    return str(value)
