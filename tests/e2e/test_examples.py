"""The examples, as their READMEs say to run them: every command, in that order, in one copy of the folder."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from workbench.results.folder import runs
from workbench.system.child import child_environment

pytestmark = pytest.mark.e2e
pytest.importorskip("onnxruntime", reason="the examples are run on it")
pytest.importorskip("onnx", reason="the first example writes its network with it")

EXAMPLES = Path(__file__).parents[2] / "examples"
BRIEF = ("--rounds", "1", "--turns", "1", "--time-budget", "0.1", "--quiet")  # appended to `run`


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = shutil.ignore_patterns("data", "model", "photos", "results", "registry")
    return shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("examples") / "examples", ignore=made)


def follow(folder: Path, *without: str) -> dict[str, str]:
    """What each command of a README printed; those that begin with one of `without` are not run."""
    printed = {}
    for line in re.findall(r"^\$ (.+)$", (folder / "README.md").read_text(), re.MULTILINE):
        if line.startswith(without):
            continue
        words = shlex.split(line, comments=True)
        program = [sys.executable, "-m", "workbench"] if words[0] == "krishi-bench" else [sys.executable]
        more = BRIEF if words[:2] == ["krishi-bench", "run"] else ()
        done = subprocess.run(
            [*program, *words[1:], *more],
            cwd=folder,
            env=child_environment() | {"KRISHI_CACHE": str(folder.parents[1] / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 1), done.stderr
        printed[shlex.join(words)] = " ".join(done.stdout.split())
    return printed


@pytest.fixture(scope="module")
def onnx_example(examples: Path) -> dict[str, str]:
    return follow(examples / "onnx-from-elsewhere")


def test_an_onnx_file_from_elsewhere_is_measured_as_it_came(
    examples: Path, onnx_example: dict[str, str]
) -> None:
    folder = examples / "onnx-from-elsewhere"
    assert "class_names" in onnx_example["krishi-bench inspect model.onnx"]
    (run,) = runs(folder / "results")
    trials = {trial.variant: trial for trial in run.trials()}
    assert {name: trial.status for name, trial in trials.items()} == {"baseline": "ok", "int8": "ok"}
    accuracy = trials["baseline"].accuracy
    assert accuracy is not None and accuracy.top1 > 0.9
    separation = run.info().separation
    assert separation is not None and separation.overlaps == ()


def test_a_training_photo_among_those_of_a_csv_is_found(examples: Path, onnx_example: dict[str, str]) -> None:
    # The model is there, and a second run would show no more.
    printed = follow(examples / "csv-dataset", "python ../onnx-from-elsewhere", "krishi-bench run")
    shown = printed["krishi-bench advise recipe.yaml"]
    assert "1 of 48 validation photos are in data.train too, 0 by content and 1 by look (photos/IMG_" in shown
    assert "looks like photos/IMG_9999.jpg, turned)" in shown


def test_the_notebook_reads_the_run(
    examples: Path, onnx_example: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("pandas", "altair", "pyarrow"):
        pytest.importorskip(package)
    folder = examples / "notebook"
    monkeypatch.chdir(folder)
    cells = json.loads((folder / "results.ipynb").read_text())["cells"]
    space: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "results.ipynb", "exec"), space)
    best, chart = space["best"], space["chart"]
    assert best.variant in ("baseline", "int8")  # type: ignore[attr-defined]
    assert {row["variant"] for row in chart.to_dict()["datasets"].popitem()[1]} == {"baseline", "int8"}  # type: ignore[attr-defined]


def test_a_folder_of_transformers_needs_no_settings(examples: Path) -> None:
    if find_spec("transformers") is None or find_spec("torch") is None:
        pytest.skip("needs `pip install 'krishi-bench[cpu,transformers]'`")
    # To export it takes as long again as all the other examples; tests/model does that with others.
    printed = follow(examples / "transformers-classifier", "krishi-bench advise", "krishi-bench run")
    shown = printed["krishi-bench inspect model"]
    assert "ResNetForImageClassification" in shown
    assert "named healthy, rust, scab, yellow_leaf" in shown and "resize [64, 64]" in shown
    assert "krishi.yaml needs" in shown and "class_names" not in shown
