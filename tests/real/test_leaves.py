"""The whole path on the real student and real photos: what evaluation says is what the server answers.

A subset of the photos, so that it takes a minute; all of them are for `benchmarks/` and for people.
"""

import argparse
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.tiny import Bench, photos_of
from workbench.results.folder import RunFolder, runs
from workbench.results.records import TrialResult

pytestmark = pytest.mark.real

SHARED = Path(__file__).parents[2].parent / "shared"
STUDENT, LEAVES = SHARED / "models" / "leaf_student", SHARED / "data" / "leaves"

pytest.importorskip("torch", reason="the path begins with a torch checkpoint")
if not (STUDENT / "student.ckpt").is_file() or not (LEAVES / "val").is_dir():
    pytest.skip(f"the real student and photos are not at {SHARED}", allow_module_level=True)

PER_CLASS = 8
CLASS_NAMES = tuple(json.loads((STUDENT / "labels.json").read_text()))
WORKSPACE = f"""
name: leaf-student
model:
  checkpoint: {STUDENT / "student.ckpt"}
  factory: {STUDENT / "student.py"}:create_model
  class_names: {STUDENT / "labels.json"}
data: {{calibration: {LEAVES / "calib"}, validation: val}}
"""
RECIPES = {
    "fp32": "{name: fp32, export: {exporter: torchscript, opset: 13}}",
    "int8-static": """
name: int8-static
steps:
  - use: simplify
  - use: static_int8
    calibration: {method: percentile, images: 68}
""",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("real") / "leaf-student"
    for name in CLASS_NAMES:
        (root / "val" / name).mkdir(parents=True)
        photos = sorted((LEAVES / "val" / name).iterdir())
        for photo in photos[:: len(photos) // PER_CLASS][:PER_CLASS]:
            (root / "val" / name / photo.name).symlink_to(photo)
    (root / "recipes").mkdir()
    for name, text in RECIPES.items():
        (root / "recipes" / f"{name}.yaml").write_text(text)
    (root / "krishi.yaml").write_text(WORKSPACE)
    return Bench(root, root.parent / "cache")


@pytest.fixture(scope="module")
def run_folder(bench: Bench) -> RunFolder:
    bench.run("run", "recipes", "--rounds", "6", "--turns", "3", "--time-budget", "20", "--quiet")
    (folder,) = runs(bench.root / "results")
    return folder


@pytest.fixture(scope="module")
def trials(run_folder: RunFolder) -> dict[str, TrialResult]:
    return {trial.variant: trial for trial in run_folder.trials()}


@pytest.fixture(scope="module")
def promoted(bench: Bench, run_folder: RunFolder) -> dict[str, Any]:
    """Static INT8; forced, for so few photos may not show that it keeps to the budget."""
    answer: dict[str, Any] = bench.json("promote", "--variant", "int8-static", "--force", "a test")
    return answer


@pytest.fixture(scope="module")
def client(bench: Bench, promoted: dict[str, Any]) -> Iterator[httpx.Client]:
    with serving(bench) as client:
        deadline = time.monotonic() + 30
        while (answer := client.get("/readyz")).status_code != 200:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)
        yield client


@contextmanager
def serving(bench: Bench) -> Iterator[httpx.Client]:
    """`krishi-bench serve` on the free port that it names on stderr."""
    process = subprocess.Popen(
        bench.command("serve", "--port", "0"),
        cwd=bench.root,
        env={**bench.environment, "KRISHI_DRAIN_DELAY": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = next(line for line in process.stderr if "listening on http" in line)
    # Nobody else reads this pipe, and a full one would stop the server.
    reader = threading.Thread(target=process.stderr.read)
    reader.start()
    try:
        with httpx.Client(base_url=re.findall(r"http://[\d.:]+", line)[0], timeout=30) as client:
            yield client
    finally:
        process.terminate()
        code = process.wait(20)
        reader.join()
        process.stderr.close()
    assert code == 0


def krishi_sahayak(folder: Path) -> Path:
    """The student as KrishiSahayak 2.0 saves its own: a Lightning shell with the loss beside the network, the
    preprocessing among the hyper-parameters, and a namespace with a path."""
    import torch

    own = torch.load(STUDENT / "student.ckpt", weights_only=True)
    stats = {"image_size": [224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    content = {
        "epoch": 36,
        "global_step": 8112,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {**own["state_dict"], "loss_fn.weight": torch.ones(len(CLASS_NAMES))},
        "class_names": list(CLASS_NAMES),
        "hyper_parameters": {
            "learning_rate": 3e-3,
            "scheduler_params": {},
            "data": argparse.Namespace(root=Path("data/leaves")),
            "model_config": {"backbone_name": "leaf", "streams": {"rgb": {"channels": 3}}, "fusion": None},
            "preprocessing_stats": stats,
        },
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def test_the_student_in_the_layout_of_krishi_sahayak_is_inspected_and_exported(
    bench: Bench, tmp_path: Path
) -> None:
    checkpoint = krishi_sahayak(tmp_path)
    facts = bench.json("inspect", f"{checkpoint}")
    assert facts["class_names"] == list(CLASS_NAMES)
    assert facts["groups"][0]["place"] == "state_dict"
    assert facts["stand_ins"] == ["argparse.Namespace", "pathlib.PosixPath"]
    assert facts["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    factory = f"{STUDENT / 'student.py'}:create_model"
    files = ["--checkpoint", f"{checkpoint}", "--factory", factory, "--output", f"{tmp_path / 'm.onnx'}"]
    done = bench.run("export", *files, "--opset-version", "13", "--quiet")
    assert "weights taken from `state_dict.model`\nleft aside `loss_fn.weight`\n" in done.stdout
    assert "34 classes" in done.stdout


def test_the_student_is_as_accurate_as_it_was_trained_to_be(trials: dict[str, TrialResult]) -> None:
    for name in ("baseline", "fp32"):
        trial = trials[name]
        assert trial.status in ("ok", "pruned"), trial.reason
        assert trial.accuracy is not None and trial.parity is not None
        assert trial.accuracy.images == PER_CLASS * len(CLASS_NAMES) == 272
        assert trial.accuracy.top1 > 0.93
        assert trial.parity.max_rel < 1e-4
        assert trial.parity.top1_agreement == 1
    assert (trials["baseline"].opset, trials["fp32"].opset) == (18, 13)


def test_static_int8_is_smaller_and_loses_little(trials: dict[str, TrialResult]) -> None:
    trial, baseline = trials["int8-static"], trials["baseline"]
    assert trial.status in ("ok", "pruned"), trial.reason
    assert trial.precision == "int8"
    assert (trial.size_bytes or 0) < 0.4 * (baseline.size_bytes or 0)
    assert trial.accuracy is not None
    assert trial.accuracy.losses - trial.accuracy.gains <= 0.03 * trial.accuracy.images


def test_stressed_photos_cost_the_student_more_than_quantisation_does(
    bench: Bench, trials: dict[str, TrialResult]
) -> None:
    assert trials["int8-static"].accuracy is not None
    only = ["--variant", "int8-static", "--severity", "3", "--only", "focus-blur,messenger", "--limit", "68"]
    blur, messenger = bench.json("stress", *only, "--quiet")["rows"]
    assert (blur["stress"], messenger["stress"], blur["images"]) == ("focus-blur", "messenger", 68)
    assert blur["baseline_top1"] < messenger["baseline_top1"]
    assert messenger["baseline_top1"] > 0.85
    assert abs(messenger["drop"]) < 0.08


def test_all_are_timed_against_the_baseline(bench: Bench, run_folder: RunFolder) -> None:
    rows = bench.json("compare")["rows"]
    assert [row["variant"] for row in rows] == ["baseline", "fp32", "int8-static"]
    for row in rows[1:]:
        assert 0.1 < row["speedup"] < 5
        if row["speedup_ci"] is not None:  # a busy machine has no time for the rounds it takes
            low, high = row["speedup_ci"]
            assert low <= row["speedup"] <= high
    assert sum(row["winner"] for row in rows) == 1


def test_the_version_is_the_student_as_it_was_trained(promoted: dict[str, Any]) -> None:
    manifest = json.loads((Path(promoted["folder"]) / "manifest.json").read_bytes())
    assert promoted["version"] == manifest["version"] == "1.0.0"
    assert manifest["class_names"] == list(CLASS_NAMES)
    assert (manifest["preprocess"]["resize"], manifest["preprocess"]["crop"]) == (256, 224)
    assert manifest["provenance"]["forced"]


def test_every_photo_posted_gets_exactly_the_class_that_evaluation_gave(
    bench: Bench, run_folder: RunFolder, client: httpx.Client
) -> None:
    logits = np.load(run_folder.predictions("int8-static"))["logits"]
    photos = photos_of(bench.root / "val", CLASS_NAMES)
    assert len(photos) == len(logits)
    answers = []
    for path, _ in photos:
        response = client.post("/predict", files={"file": (path.name, path.read_bytes(), "image/jpeg")})
        assert response.status_code == 200
        answers.append(response.json())
    assert [answer["class_id"] for answer in answers] == logits.argmax(axis=1).tolist()
    assert [answer["class_name"] for answer in answers] == [
        CLASS_NAMES[index] for index in logits.argmax(axis=1)
    ]
    assert 'requests_total{code="200"} 272.0' in client.get("/metrics").text
