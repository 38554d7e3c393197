"""Starting up, as a multiple of a bare interpreter: the table's ratios are relative to the fastest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

CLI = [sys.executable, "-m", "workbench"]


@pytest.fixture(scope="module")
def misspelt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "misspelt.yaml"
    path.write_text("name: misspelt\nsteps:\n  - use: static_in8\n")
    return path


@pytest.mark.benchmark(group="startup")
@pytest.mark.parametrize("what", ["bare interpreter", "--help", "misspelt recipe"])
def test_startup(benchmark: BenchmarkFixture, what: str, misspelt: Path) -> None:
    command = {
        "bare interpreter": [sys.executable, "-c", "pass"],
        "--help": [*CLI, "--help"],
        "misspelt recipe": [*CLI, "run", str(misspelt)],
    }[what]
    # Compiled modules are kept, as they are where the package is installed.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, env=environment), rounds=15, warmup_rounds=2
    )
