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
from workbench.results.records import RunInfo
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


def follow(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, str]:
    """What each command of a README printed, those that begin with `but` left out."""
    printed = {}
    for line in re.findall(r"^\$ (.+)$", (folder / "README.md").read_text(), re.MULTILINE):
        words = shlex.split(line, comments=True)
        if words[: len(but)] == list(but) and but:
            continue
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
        printed[shlex.join(words)] = done.stdout
    return printed


def run_of(folder: Path) -> RunInfo:
    (run,) = runs(folder / "results")
    return run.info()


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
    info = run_of(folder)
    assert info.separation is not None and info.separation.overlaps == ()


def test_a_training_photo_among_those_of_a_csv_is_found(examples: Path, onnx_example: dict[str, str]) -> None:
    folder = examples / "csv-dataset"
    printed = follow(folder, but=("python", "../onnx-from-elsewhere/make.py"))
    info = run_of(folder)
    assert info.separation is not None
    train, calibration = info.separation.parts
    assert (train.same, train.alike, calibration.images) == (0, 1, 0)
    assert [pair.turn for pair in train.pairs] == ["turned"]
    assert (info.leak, info.validation_images) == (True, 48)
    shown = " ".join(printed["krishi-bench run recipe.yaml"].split())
    assert "1 of 48 validation photos are in data.train too, 0 by content and 1 by look" in shown


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
    folder = examples / "transformers-classifier"
    follow(folder)
    (run,) = runs(folder / "results")
    accuracy = next(iter(run.trials())).accuracy
    assert accuracy is not None and accuracy.top1 > 0.9
    assert run.info().class_names == ("healthy", "rust", "scab", "yellow_leaf")
