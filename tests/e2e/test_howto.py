"""The how-to pages: a command there is one that a test runs, or the page says what it needs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("howto-*.md"))
# Followed command by command: tests/e2e/test_tutorial.py, tests/e2e/test_examples.py.
FOLLOWED = [ROOT / "docs" / "tutorial.md", *(ROOT / "examples").glob("*/README.md")]


def commands(text: str) -> list[str]:
    """What stands after `$ ` in a document, without comments."""
    return [line.partition("#")[0].strip() for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE)]


RUN = {command for page in FOLLOWED for command in commands(page.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_run_by_a_test_or_says_what_it_needs(page: Path) -> None:
    tested, _, marked = page.read_text().partition("**Needs**")
    assert commands(tested + marked)
    assert set(commands(tested)) <= RUN
