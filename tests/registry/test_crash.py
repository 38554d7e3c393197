"""Whatever ends a writer at whatever step, the registry is valid and every alias old or new.

What happens is in tests/crashing.py, a program of one thread, so that it may fork.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import Once

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
OPERATIONS = ("promote", "publish", "point", "rollback", "gc", "lease")
WRITERS = ("promote", "rollback", "gc", "lease")  # a promotion publishes and points
FILLING = ("promote", "rollback", "gc")
DONE_BY = {"kill": OPERATIONS, "full": WRITERS, "forbidden": WRITERS, "disk": FILLING, "mount": WRITERS}
Lines = Callable[[str, str], list[str]]


def crash(*arguments: str | Path) -> list[str]:
    """The lines the program says, the last of them once it found nothing wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crashing", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def steps(lines: list[str]) -> int:
    return int(lines[-1].removeprefix("steps "))


@pytest.fixture(scope="module")
def lines_of(once: Once) -> Lines:
    """The lines that the program says of one operation. One process does all of a happening's,
    because its start takes longer than many of them."""

    def do_all(happening: str, folder: Path) -> None:
        folder.mkdir()
        lines = crash(happening, *DONE_BY[happening], folder / "registries")
        parts = re.split(r"^operation (\w+)\n", "\n".join(lines), flags=re.MULTILINE)[1:]
        for operation, said in zip(parts[::2], parts[1::2], strict=True):
            (folder / f"{operation}.txt").write_text(said)

    def lines(happening: str, operation: str) -> list[str]:
        folder = once(f"crash-{happening}", lambda folder: do_all(happening, folder))
        return (folder / f"{operation}.txt").read_text().splitlines()

    return lines


@pytest.fixture(scope="module")
def mount(once: Once) -> None:
    def ask(folder: Path) -> None:
        folder.mkdir()
        (folder / "said").write_text(crash("can-mount", "-")[0])

    if sys.platform != "linux" or (once("can-mount", ask) / "said").read_text() != "True":
        pytest.skip("mounting a disk takes root, or CAP_SYS_ADMIN")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_kill_9_at_every_step_leaves_a_valid_registry_and_it_can_be_done_again(
    operation: str, lines_of: Lines
) -> None:
    lines = lines_of("kill", operation)
    assert steps(lines) >= {"promote": 25, "publish": 20, "gc": 15}.get(operation, 5)
    assert lines[0] == "step 1.2.0"
    if operation in ("promote", "point", "rollback"):
        assert lines[-2] != "step 1.2.0"


@pytest.mark.parametrize("operation", WRITERS)
@pytest.mark.parametrize(
    ("happening", "message"), [("full", "No space left on device"), ("forbidden", "Read-only file system")]
)
def test_a_disk_that_fills_up_or_turns_read_only_at_any_step_is_one_clear_error(
    happening: str, message: str, operation: str, lines_of: Lines
) -> None:
    lines = lines_of(happening, operation)
    errors = [line for line in lines if line.startswith("told: ")]
    assert len(errors) == (steps(lines) - 1 if operation != "lease" else 0)
    assert all("cannot write" in line and line.endswith(f": {message}") for line in errors)


@pytest.mark.usefixtures("mount")
@pytest.mark.parametrize("operation", FILLING)
def test_on_a_disk_that_is_really_full_nothing_is_lost(operation: str, lines_of: Lines) -> None:
    lines = lines_of("disk", operation)
    # A collection gets its room from what it deletes first.
    assert steps(lines) >= {"promote": 4, "rollback": 1, "gc": 0}[operation]
    assert all(line.endswith(": No space left on device") for line in lines if line.startswith("told: "))


@pytest.mark.usefixtures("mount")
@pytest.mark.parametrize("operation", WRITERS)
def test_from_a_disk_that_is_really_read_only_versions_are_served_and_nothing_is_written(
    operation: str, lines_of: Lines
) -> None:
    lines = lines_of("mount", operation)
    assert lines[-1] == "steps 1"
    assert [line for line in lines if line.endswith(": Read-only file system")] or operation == "lease"


@pytest.mark.parametrize(
    ("race", "number", "before"),
    [("race", "2.0.0", "0.2.0 0.3.0 1.0.0 1.1.0 1.2.0 "), ("race-first", "1.0.0", "")],
)
def test_of_two_promotions_of_one_number_one_wins_and_the_other_is_refused(
    race: str, number: str, before: str, tmp_path: Path
) -> None:
    refused, won = sorted(crash(race, tmp_path))
    assert refused.startswith(f"refused: leaf {number} exists already")
    assert won == f"won {number} of {before}{number}"


def test_of_two_promotions_of_two_numbers_one_wins_the_alias_and_the_other_is_refused(tmp_path: Path) -> None:
    refused, won = sorted(crash("race-numbers", tmp_path))
    winner = won.split()[1]
    assert f"is published, but `production` moved to {winner} meanwhile" in refused
    assert won.endswith("1.2.0 2.5.0 2.6.0")


def test_collections_race_with_promotions_rollbacks_and_servers_and_harm_none(tmp_path: Path) -> None:
    lines = crash("race-gc", tmp_path)
    assert lines[-1] == "steps 25"
    assert "served" in lines
