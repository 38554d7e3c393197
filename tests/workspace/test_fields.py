"""Every setting a person can write is described where it is defined."""

from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from workbench.photos.contract import Preprocess
from workbench.workspace.fields import described, models_in, summary
from workbench.workspace.recipe import Recipe
from workbench.workspace.workspace import WorkspaceFile


def models_below(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all that its fields hold."""
    inner = [found for field in model.model_fields.values() for found in models_in(field.annotation)]
    return [model, *(below for found in inner for below in models_below(found))]


MODELS = list(dict.fromkeys([*models_below(Recipe), *models_below(WorkspaceFile), Preprocess]))


def choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    return [value for inner in get_args(annotation) for value in choices(inner)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_has_a_description_that_names_its_choices(model: type[BaseModel]) -> None:
    assert summary(model)
    for name, field in described(model):
        assert field.description, name
        assert field.description[-1] == ".", name
        for value in choices(field.annotation):
            assert f"`{value}`" in field.description, (name, value)


def test_the_json_schema_shows_the_descriptions() -> None:
    schema = Recipe.model_json_schema()
    assert schema["properties"]["needs"]["description"] == Recipe.model_fields["needs"].description
    static = schema["$defs"]["StaticInt8"]["properties"]
    assert static["reduce_range"]["description"].startswith("7-bit weights")
    budget = WorkspaceFile.model_json_schema()["$defs"]["Budget"]["properties"]
    assert budget["max_size_mb"]["description"]
