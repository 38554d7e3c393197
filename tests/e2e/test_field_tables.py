"""The tables of settings in the documents are those that the code makes."""

import pkgutil
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from docs.field_tables import MARKED, fields_table, filled, members_table
from workbench.workspace.fields import described, models_in
from workbench.workspace.recipe import Recipe
from workbench.workspace.workspace import WorkspaceFile

ROOT = Path(__file__).parents[2]
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if MARKED.search(path.read_text())]


class Circle(BaseModel):
    """A round thing.

    Its source.
    """

    use: Literal["circle"]
    radius: int = Field(description="In mm.")
    color: str | None = Field(None, description="`red | blue`; none by default.")


class Square(BaseModel):
    """A thing with
    four sides."""

    use: Literal["square"]
    sides: tuple[int, ...] = Field((1, 2), description="In mm.")
    color: str | None = Field(None, description="`red | blue`; none by default.")


Shape = Annotated[Circle | Square, Field(discriminator="use")]


def test_a_model_has_a_row_for_each_field() -> None:
    assert fields_table(Circle) == (
        "| key | default | meaning |\n"
        "| --- | --- | --- |\n"
        "| `radius` | required | In mm. |\n"
        "| `color` |  | `red \\| blue`; none by default. |\n"
    )


def test_a_union_has_a_row_for_each_field_with_the_models_that_have_it() -> None:
    assert fields_table(Shape) == (
        "| key | default | use | meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| `radius` | required | circle | In mm. |\n"
        "| `color` |  |  | `red \\| blue`; none by default. |\n"
        "| `sides` | `[1, 2]` | square | In mm. |\n"
    )


def test_the_members_of_a_union_are_listed_with_what_they_do() -> None:
    assert members_table(Shape) == (
        "| use | what it does |\n"
        "| --- | --- |\n"
        "| `circle` | A round thing. |\n"
        "| `square` | A thing with four sides. |\n"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_tables_of_a_page_are_those_of_the_code(page: Path) -> None:
    text = page.read_text()
    assert filled(text) == text, "run `python -m docs.field_tables docs/*.md`"


@pytest.mark.parametrize("model", [Recipe, WorkspaceFile])
def test_every_section_of_a_file_has_a_table(model: type[BaseModel]) -> None:
    places = MARKED.findall((ROOT / "docs/recipes.md").read_text())
    tables = [pkgutil.resolve_name(place) for _, kind, place, _ in places if kind == "fields"]
    shown = {found for table in tables for found in models_in(table)}
    sections = {found for field in model.model_fields.values() for found in models_in(field.annotation)}
    assert {model, *(section for section in sections if [*described(section)])} <= shown
