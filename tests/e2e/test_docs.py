"""What the documents say of the commands is true."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from workbench.cli import MODULES, app
from workbench.fleet.spec import FleetFile
from workbench.results.verdict import Row
from workbench.workspace.recipe import Recipe, shipped
from workbench.workspace.workspace import WorkspaceFile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "SKILL.md")]
DOCUMENTS = sorted([*PAGES, *(ROOT / "docs").glob("*.md")])


def helps_of_all() -> dict[str, str]:
    """The help of every command, "" for that of all, as a terminal of 100 columns shows it."""
    script = (
        "import sys\nfrom workbench.cli import main\n"
        "for command in sys.argv[1:]:\n    print('\\f' + command); main([*command.split(), '--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "", *MODULES],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "100", "PATH": ""},
        cwd=ROOT,
    )
    parts = [part.partition("\n") for part in done.stdout.split("\f")[1:]]
    return {name: "\n".join(map(str.rstrip, text.splitlines())).strip() for name, _, text in parts}


helps = pytest.fixture(helps_of_all, scope="module")


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", ["", *MODULES])
def test_the_help_of_every_command_is_the_one_in_the_documents(command: str, helps: dict[str, str]) -> None:
    assert f"```\n{helps[command]}\n```" in (ROOT / "docs" / "commands.md").read_text()


def test_every_command_there_is_is_in_the_readme() -> None:
    listed = re.findall(r"^\| `krishi-bench ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(listed) == set(MODULES)


def mentioned() -> list[str]:
    """Every krishi-bench command line in the documents, in a block or between backquotes."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        inline = re.findall(r"`(krishi-bench [^`\n]+)`", text)
        in_blocks = [line for block in blocks(document, "") for line in block.splitlines()]
        found += inline + [
            line.removeprefix("$ ") for line in in_blocks if re.match(r"(\$ )?krishi-bench ", line)
        ]
    return sorted(set(found))


@pytest.mark.parametrize("line", mentioned())
def test_every_command_line_in_the_documents_is_accepted(line: str) -> None:
    words = shlex.split(line.partition("#")[0])[1:]
    placeholders = {"NAME": "x", "&": ""}
    given = [placeholders.get(word, word) for word in words if placeholders.get(word, word)]
    if given in (["[cpu]"], []):
        pytest.skip("names the package, not the command")
    group: Any = get_command(app)
    with group.make_context("krishi-bench", given) as context:
        name, command, rest = group.resolve_command(context, given)
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("block", [b for d in DOCUMENTS for b in blocks(d, "yaml")])
def test_every_yaml_example_is_valid(block: str) -> None:
    data = yaml.safe_load(block)
    if "model" in data:
        WorkspaceFile.model_validate(data)
    elif "devices" in data:
        FleetFile.model_validate(data)
    elif "name" in data:
        Recipe.model_validate(data)
    else:
        Recipe.model_validate({"name": "part", **data})


def words_of(document: str) -> set[str]:
    """What stands between backquotes in a document, word by word."""
    inline = re.findall(r"`([^`\n]+)`", (ROOT / "docs" / document).read_text())
    return {word for text in inline for word in re.findall(r"[A-Za-z0-9_.-]+", text)}


def test_every_shipped_recipe_is_described() -> None:
    # The settings are in tables made from the code (tests/e2e/test_field_tables.py).
    assert {path.name for path in shipped().glob("*.yaml")} <= words_of("recipes.md")


def test_every_key_of_the_comparison_is_described() -> None:
    assert {field.name for field in dataclasses.fields(Row)} <= words_of("measuring.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target
