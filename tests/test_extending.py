"""docs/extending.md: its step and its backend, put into a copy of the source and tried there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the step changes ONNX files, and the backend is onnx's")
pytest.importorskip("onnxruntime", reason="results are checked by running them")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def apply(block: str, root: Path) -> None:
    """Apply a diff, each hunk where its text is, whatever its line is by now."""
    header, *hunks = re.split(r"^@@\n", block, flags=re.MULTILINE)
    path = root / header.split("\n")[1].removeprefix("+++ b/")
    text = path.read_text()
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, (
            f"{path.relative_to(root)} has this {text.count(before)} times:\n{before}"
        )
        text = text.replace(before, after)
    path.write_text(text)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with all that the page adds."""
    root = tmp_path_factory.mktemp("extended")
    for part in ("workbench", "tests/steps", "tests/backends", "tests/data/edge"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "tests/edge.py"):
        shutil.copy(ROOT / file, root / file)
    for kind, block in BLOCK.findall((ROOT / "docs" / "extending.md").read_text()):
        if kind == "diff":
            apply(block, root)
            continue
        name, _, code = block.partition("\n")
        path = root / name.removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    return root


def run(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_step_and_the_backend_conform(extended: Path) -> None:
    told = run(
        extended,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "strip_docs or reference or union", "-rs"),
        *("tests/steps/test_conformance.py", "tests/backends/test_conformance.py"),
    )
    assert re.search(r"\b1\d passed", told)
    assert "skipped" not in told


USED = """
import json, pathlib, sys
from workbench.report.advice import explanation
from workbench.run.advice.explain import explain
from workbench.workspace.recipe import Recipe, parse
print(explanation(explain(*parse(pathlib.Path(sys.argv[1])))))
print(json.dumps(Recipe.model_json_schema()["$defs"]))
"""


def test_a_recipe_may_name_both(extended: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nsteps: [{use: strip_docs}]\nruntime: {backend: reference, threads: 1}\n")
    told = run(extended, "-c", USED, str(recipe))
    assert "\nstep strip_docs\n" in told
    assert "\nruntime reference\n" in told
    assert {"StripDocs", "ReferenceRuntime"} <= set(json.loads(told.splitlines()[-1]))
