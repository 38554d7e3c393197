"""The example's workflow, run as GitHub would, once each way; and the fixture that it uses."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.builders import error_of
from workbench.pytest_plugin import Krishi, workspace_of
from workbench.results.gate import GateReport

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gate-in-ci"
STEPS = yaml.safe_load((EXAMPLE / ".github" / "workflows" / "gate.yml").read_text())["jobs"]["gate"]["steps"]


class Repository:
    """A copy of the example, and what its workflow did there. draw: of the variable DRAW."""

    def __init__(self, root: Path, draw: str) -> None:
        self.root, self.summary = root, root / "summary.md"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KRISHI_CACHE": str(root.parent / "cache"),
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "DRAW": draw,
            "ROUNDS": "2",  # no interval: what a gate says of times is for tests/results
            # The plugin as its entry point would register it, and no other.
            "PYTEST_ADDOPTS": "-p workbench.pytest_plugin -p no:cacheprovider",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        shutil.copytree(EXAMPLE, root)
        self.failed: str | None = None
        self.shown = ""
        for step in STEPS:
            if "run" in step and step["name"] != "install" and self.failed is None:
                self._run(step["name"], step["run"])

    def _run(self, name: str, script: str) -> None:
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(bash, cwd=self.root, env=self.environment, capture_output=True, text=True)
        self.shown += done.stdout + done.stderr
        assert done.returncode in (0, 1), self.shown
        self.failed = name if done.returncode else None

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "workbench", *words]
        return subprocess.run(line, cwd=self.root, env=self.environment, capture_output=True, text=True)

    def outcomes(self, junit: str) -> dict[str, list[str]]:
        root = ElementTree.parse(self.root / junit).getroot()
        return {str(case.get("name")): [part.tag for part in case] for case in root.iter("testcase")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def same(folder: Path) -> Repository:
    return Repository(folder / "same", "")


def test_the_workflow_passes_for_the_same_network(same: Repository) -> None:
    assert same.failed is None, same.shown
    assert same.outcomes("gate-files.xml") == {"test_the_model_answers_no_worse_and_is_no_larger": []}
    assert same.outcomes("gate-speed.xml") == {"latency>20%": ["skipped"]}
    assert "::warning title=krishi-bench gate latency>20%25%3A AMBIGUOUS::ship" in same.shown
    assert "2 rounds: an interval takes 6" in same.shown
    summary = same.summary.read_text()
    assert summary == (same.root / "gate.md").read_text()
    assert summary.startswith("### ✅ krishi-bench gate: leaf")
    timed = json.loads((same.root / "gate.json").read_text())["benchmarks"]
    assert [each["name"] for each in timed] == ["released.onnx", "ship"]


def test_its_folder_is_a_runs_and_never_the_latest(same: Repository) -> None:
    runs = sorted((same.root / "results" / "gates").iterdir())
    made = GateReport.model_validate_json((runs[-1] / "gate.json").read_bytes())
    assert (made.reference, made.candidates, made.rounds) == ("released.onnx", ("ship",), 2)
    shown = " ".join(same.command("compare", str(runs[-1])).stdout.split())
    assert "the baseline of this run is what a gate measured against: released.onnx" in shown
    latest = same.command("compare")
    assert latest.returncode == 2
    assert "holds no run yet" in latest.stderr


def test_the_workflow_fails_for_a_larger_network_before_anything_is_timed(folder: Path) -> None:
    wider = Repository(folder / "wider", "--wider")
    assert wider.failed == "accuracy and size"
    assert wider.outcomes("gate-files.xml") == {
        "test_the_model_answers_no_worse_and_is_no_larger": ["failure"]
    }
    assert "✗ ship       size>10%" in wider.shown
    assert "FAILED: ship: 1 condition of 2" in wider.shown
    assert not list(wider.root.glob("results/gates/*/latency.parquet"))


def test_the_fixture_puts_a_workspace_together_from_a_file_and_photos(tmp_path: Path) -> None:
    (tmp_path / "reference.onnx").touch()
    for name in ("scab", "rust"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    given = (tmp_path / "reference.onnx", tmp_path / "photos")
    made = workspace_of(tmp_path / "gate", *given, None, {"crop": 32})
    assert (made.model.checkpoint, made.validation, made.preprocess.crop) == (*given, 32)
    assert made.model.class_names is not None
    assert json.loads(made.model.class_names.read_text()) == ["rust", "scab"]
    made = workspace_of(tmp_path / "gate", *given, ["scab", "rust"], None)
    assert made.model.class_names is not None
    assert json.loads(made.model.class_names.read_text()) == ["scab", "rust"]
    error = error_of(lambda: Krishi(tmp_path).gate("model.onnx", data=given[1]))
    assert "`against` is an .onnx file" in error.message


def test_the_plugin_is_registered_and_loads_nothing_of_ours_before_it_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"krishi_bench": "workbench.pytest_plugin"}
    script = "import sys, workbench.pytest_plugin; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {
        name for name in done.stdout.split() if name.partition(".")[0] in ("workbench", "numpy", "pydantic")
    }
    assert loaded == {"workbench", "workbench.pytest_plugin"}
