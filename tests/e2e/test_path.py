"""The whole path as a user types it: init, run, compare, promote, serve; a second model; a way back."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest

from tests.e2e.tiny import (
    CLASS_NAMES,
    Bench,
    load_model,
    photos_of,
    prepare_folder,
    write_student,
    write_workspace,
)
from workbench.cli import main
from workbench.results.folder import runs

pytestmark = pytest.mark.e2e

torch = pytest.importorskip("torch", reason="the path begins with a torch checkpoint")

RECIPE = """
name: int8-static
description: Static INT8, calibrated on our own photos.
steps:
  - use: static_int8
    calibration: {method: percentile, images: 24}
"""
BRIEF = ("--rounds", "1", "--turns", "1", "--time-budget", "0.1", "--quiet")
PREDICTION_KEYS = ["class_id", "class_name", "confidence", "timestamp", "model_version"]
METRICS = (
    "inference_latency_seconds_bucket",
    "inference_latency_seconds_count",
    'requests_total{code="200"}',
    "gpu_utilization",
    "gpu_memory_used",
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A fresh folder with a checkpoint, the network's code, photos and recipes; nothing of ours in it."""
    root = tmp_path_factory.mktemp("path") / "leaves"
    prepare_folder(root)
    (root / "recipes").mkdir()
    (root / "recipes" / "int8-static.yaml").write_text(RECIPE)
    return Bench(root, root.parent / "cache")


@pytest.fixture(scope="module")
def initialised(bench: Bench) -> str:
    return bench.run("init").stdout


@pytest.fixture(scope="module")
def ran(bench: Bench, initialised: str) -> str:
    return bench.run("run", "recipes", *BRIEF).stdout


@pytest.fixture(scope="module")
def promoted(bench: Bench, ran: str) -> dict[str, Any]:
    """INT8, though 40 photos cannot show that it keeps to the budget: forced, and recorded as such."""
    answer: dict[str, Any] = bench.json("promote", "--variant", "int8-static", "--force", "a test")
    return answer


# Servers


@dataclass
class Server:
    """A server process, a client for it, and what it wrote to stderr."""

    process: "subprocess.Popen[str]"
    client: httpx.Client
    log: list[str] = field(default_factory=list)

    def readyz(self) -> httpx.Response:
        return self.client.get("/readyz")

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while (answer := self.readyz()).status_code != 200:
            assert time.monotonic() < deadline, answer.text + "".join(self.log)
            time.sleep(0.05)

    def post(self, photo: Path) -> httpx.Response:
        return self.client.post("/predict", files={"file": (photo.name, photo.read_bytes(), "image/jpeg")})


@contextmanager
def serving(command: list[str], environment: dict[str, str], cwd: Path) -> Iterator[Server]:
    """The command's server, on the port that it names on stderr. It must end well on SIGTERM."""
    process = subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    port = None
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"on http://127\.0\.0\.1:(\d+)", line):
            port = int(found[1])
            break
    assert port, "".join(log)
    # Nobody else reads this pipe, and a full one would stop the server.
    reader = threading.Thread(target=log.extend, args=(process.stderr,))
    reader.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, verify=False) as client:
            yield Server(process, client, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(20)
        finally:
            process.kill()
            reader.join()
            process.stderr.close()
    assert code == 0, "".join(log)
    assert "Traceback" not in "".join(log)


def served(bench: Bench, *words: str) -> Any:
    environment = {**bench.environment, "KRISHI_DRAIN_DELAY": "0"}
    return serving(bench.command("serve", "--port", "0", *words), environment, bench.root)


@pytest.fixture(scope="module")
def server(bench: Bench, promoted: dict[str, Any]) -> Iterator[Server]:
    with served(bench) as server:
        server.wait_until_ready()
        yield server


# From a checkpoint to a version


def test_init_recognises_what_is_there_and_what_it_writes_can_be_used(bench: Bench, initialised: str) -> None:
    for found in ("student.ckpt", "student.py:create_model", "data/val", "data/calib"):
        assert found in initialised
    assert "#" in (bench.root / "krishi.yaml").read_text()  # it is commented
    assert "is there already" in bench.run("init", code=2).stderr


def test_run_ends_with_the_table_and_a_winner(ran: str) -> None:
    assert re.search(r"^Winner\n  \S+: ", ran, re.MULTILINE)
    assert max(map(len, ran.splitlines())) <= 100


@pytest.fixture
def answer(bench: Bench, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints that is called in this process: an interpreter of its own takes longer."""

    def call(*words: str, code: int = 0) -> str:
        assert main([*words, "--workspace", str(bench.root)]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return call


def test_compare_shows_the_same_in_every_format(bench: Bench, ran: str, answer: Callable[..., str]) -> None:
    names = ["baseline", "int8-static"]
    rows = bench.json("compare")["rows"]
    assert [row["variant"] for row in rows] == names
    assert answer("compare") == ran
    markdown = answer("compare", "--format", "markdown")
    assert all(f"`{name}`" in markdown for name in names)
    table = list(csv.DictReader(io.StringIO(answer("compare", "--format", "csv"))))
    assert [row["variant"] for row in table] == names
    assert [float(row["p50_ms"]) for row in table] == [row["p50_ms"] for row in rows]
    assert [row["drop_ci_low"] for row in table] == ["", str(rows[1]["drop_ci"][0])]
    page = answer("compare", "--format", "html")
    assert page.lower().startswith("<!doctype html>")
    assert all(name in page for name in names)


def test_a_reader_that_has_seen_enough_is_no_error(bench: Bench, ran: str) -> None:
    command = shlex.join(bench.command("schema", "workspace"))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | true"], cwd=bench.root, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_promote_refuses_what_cannot_be_shown_to_meet_the_budget(
    ran: str, answer: Callable[..., str]
) -> None:
    said = answer("promote", "--variant", "int8-static", code=1)
    assert "misses the budget: " in said
    assert "--force" in said
    unknown = answer("promote", "--variant", "int8-statik", code=2)
    assert "did you mean `int8-static`?" in unknown


def test_the_first_version_is_1_0_0_and_says_that_it_was_forced(
    bench: Bench, promoted: dict[str, Any]
) -> None:
    assert (promoted["name"], promoted["version"], promoted["previous"]) == ("leaves", "1.0.0", None)
    folder = Path(promoted["folder"])
    assert {path.name for path in folder.iterdir()} == {
        "MODEL_CARD.md", "golden.npz", "manifest.json", "model.onnx",
    }  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert "too few photos (40)" in manifest["provenance"]["forced"]
    assert manifest["class_names"] == list(CLASS_NAMES)
    assert manifest["measured"]["variant"] == "int8-static"


def test_models_lists_the_version_and_its_alias(
    bench: Bench, promoted: dict[str, Any], answer: Callable[..., str]
) -> None:
    (entry,) = bench.json("models")
    assert (entry["name"], entry["version"]) == ("leaves", "1.0.0")
    assert "production" in json.dumps(entry)
    assert "1.0.0" in answer("models")


def test_verify_finds_everything_as_it_was_published(
    promoted: dict[str, Any], answer: Callable[..., str]
) -> None:
    assert json.loads(answer("verify", "--format", "json")) == {"versions": 1, "problems": []}


# Serving it


def test_every_photo_posted_gets_the_class_that_evaluation_gave(bench: Bench, server: Server) -> None:
    run = runs(bench.root / "results")[-1]
    logits = np.load(run.predictions("int8-static"))["logits"].astype(np.float64)
    photos = photos_of(bench.root / "data" / "val", CLASS_NAMES)
    assert len(photos) == len(logits) == 40
    bodies = [server.post(path).json() for path, _ in photos]
    assert [body["class_id"] for body in bodies] == logits.argmax(axis=1).tolist()
    assert [body["class_name"] for body in bodies] == [CLASS_NAMES[body["class_id"]] for body in bodies]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidences = (exponentials / exponentials.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose([body["confidence"] for body in bodies], confidences, rtol=1e-5)
    assert all(list(body) == PREDICTION_KEYS and body["model_version"] == "1.0.0" for body in bodies)
    right = sum(body["class_id"] == label for body, (_, label) in zip(bodies, photos, strict=True))
    (row,) = [row for row in bench.json("compare", run.run_id)["rows"] if row["variant"] == "int8-static"]
    assert right / len(photos) == pytest.approx(row["top1"])


def test_the_server_says_what_it_serves_and_what_was_measured(bench: Bench, server: Server) -> None:
    card = server.client.get("/model").json()
    assert (card["name"], card["version"], card["class_names"]) == ("leaves", "1.0.0", list(CLASS_NAMES))
    assert card["measured"]["variant"] == "int8-static"
    assert card["input"]["preprocess"]["crop"] == 32


def test_the_metrics_have_the_names_that_were_promised(bench: Bench, server: Server) -> None:
    photo, _ = photos_of(bench.root / "data" / "val", CLASS_NAMES)[0]
    server.post(photo)
    server.client.post("/predict", files={"file": ("x.jpg", b"no photo", "image/jpeg")})
    text = server.client.get("/metrics").text
    assert all(name in text for name in METRICS)
    assert 'requests_total{code="415"} 1.0' in text
    assert server.client.get("/healthz").status_code == 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_server_holds_neither_torch_nor_pandas(server: Server) -> None:
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert "torch" not in mapped and "pandas" not in mapped


def test_uvicorn_serves_the_same_from_environment_variables(bench: Bench, promoted: dict[str, Any]) -> None:
    environment = {
        **os.environ,
        "KRISHI_REGISTRY": str(bench.root / "registry"),
        "KRISHI_ALIAS": "production",
        "KRISHI_DRAIN_DELAY": "0",
    }
    command = [sys.executable, "-m", "uvicorn", "serve.app:app", "--port", "0"]
    with serving_uvicorn(command, environment, bench.root) as server:
        server.wait_until_ready()
        photo, _ = photos_of(bench.root / "data" / "val", CLASS_NAMES)[0]
        assert server.post(photo).json()["model_version"] == "1.0.0"


@contextmanager
def serving_uvicorn(command: list[str], environment: dict[str, str], cwd: Path) -> Iterator[Server]:
    """As `serving`, but uvicorn itself raises the signal once more when it is done."""
    try:
        with serving(command, environment, cwd) as server:
            yield server
    except AssertionError:
        if server.process.returncode != -signal.SIGTERM:
            raise


# A second model, and a way back


@pytest.fixture(scope="module")
def retrained(bench: Bench, server: Server) -> dict[str, Any]:
    """Another checkpoint under the same name, measured and promoted. The server had started before."""
    write_student(bench.root, seed=1)
    bench.run("run", "recipes", *BRIEF)
    answer: dict[str, Any] = bench.json("promote", "--variant", "int8-static", "--force", "a test")
    return answer


@pytest.fixture(scope="module")
def resized(bench: Bench, retrained: dict[str, Any]) -> dict[str, Any]:
    """The same checkpoint on photos prepared otherwise: another contract with those who send them."""
    path = bench.root / "krishi.yaml"
    path.write_text(path.read_text() + "preprocess: {resize: 40}\n")
    bench.run("run", "recipes", *BRIEF)
    answer: dict[str, Any] = bench.json("promote")
    return answer


def test_another_checkpoint_is_a_minor_version(retrained: dict[str, Any]) -> None:
    assert (retrained["version"], retrained["previous"]) == ("1.1.0", "1.0.0")
    assert "another checkpoint" in retrained["why"]


def test_another_preprocessing_is_a_major_version(resized: dict[str, Any]) -> None:
    assert (resized["version"], resized["previous"]) == ("2.0.0", "1.1.0")
    assert "resize 36 -> 40" in resized["why"]


def test_promoting_the_same_model_again_changes_nothing(bench: Bench, resized: dict[str, Any]) -> None:
    again = bench.json("promote")
    assert (again["version"], again["unchanged"]) == ("2.0.0", True)
    assert [entry["version"] for entry in bench.json("models")] == ["1.0.0", "1.1.0", "2.0.0"]


def test_rollback_walks_back_and_ends_where_there_is_nothing_before(
    bench: Bench, resized: dict[str, Any]
) -> None:
    assert bench.json("rollback")["version"] == "1.1.0"
    assert bench.json("rollback")["version"] == "1.0.0"
    assert "pointed at nothing before 1.0.0" in bench.run("rollback", code=1).stderr
    with served(bench) as server:
        server.wait_until_ready()
        assert server.readyz().json()["version"] == "1.0.0"


def test_a_flipped_byte_is_found_and_not_served(
    bench: Bench, resized: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(bench.root / "registry", tmp_path / "registry")
    shutil.copy(bench.root / "krishi.yaml", tmp_path)
    for name in ("student.ckpt", "student.py"):
        shutil.copy(bench.root / name, tmp_path)
    (tmp_path / "data").symlink_to(bench.root / "data")
    damaged = Bench(tmp_path, bench.cache)
    version = damaged.json("models")
    assert len(version) == 3
    for model in (tmp_path / "registry").rglob("model.onnx"):
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.chmod(0o644)
        model.write_bytes(data)
    problems = damaged.json("verify", code=1)["problems"]
    assert len([problem for problem in problems if "its sha256 differs" in problem]) == 3
    with served(damaged, "--name", "leaves") as server:
        deadline = time.monotonic() + 20
        while (answer := server.readyz()).json()["error"]["code"] == "loading":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "bad-model")
        assert "its sha256 differs" in answer.json()["error"]["message"]
        photo, _ = photos_of(bench.root / "data" / "val", CLASS_NAMES)[0]
        assert server.post(photo).status_code == 503


# The guide's own command


EXPORT = ("--input-shape", "1", "3", "32", "32", "--opset-version", "13")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A workspace that nothing was run in yet."""
    root = tmp_path_factory.mktemp("export") / "leaves"
    prepare_folder(root, per_class=3)
    write_workspace(root, root)
    return Bench(root, root.parent / "cache")


def check_export(path: Path, bench: Bench) -> None:
    model = onnx.load(path)
    assert [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")] == [13]
    onnx.checker.check_model(model)
    batch = np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: batch})[0]
    with torch.inference_mode():
        expected = load_model(bench.root)(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_export_inside_a_workspace_takes_its_factory_and_its_photos(trained: Bench) -> None:
    said = trained.run(
        "export", "--checkpoint", "student.ckpt", "--output", "models/student.onnx", *EXPORT
    ).stdout
    assert "opset 13 by exporter `torchscript`" in said
    assert "photos of the workspace" in said
    check_export(trained.root / "models" / "student.onnx", trained)
    assert [path.name for path in (trained.root / "models").iterdir()] == ["student.onnx"]


def test_export_elsewhere_takes_the_factory_it_is_given(trained: Bench, tmp_path: Path) -> None:
    words = ("export", "--checkpoint", trained.root / "student.ckpt", "--output", "student.onnx", *EXPORT)
    refused = trained.run(*words, code=2, cwd=tmp_path).stderr
    assert "is a state dict: weights without a network" in refused
    assert "--factory" in refused
    assert not (tmp_path / "student.onnx").exists()
    said = trained.run(
        *words, "--factory", f"{trained.root / 'student.py'}:create_model", cwd=tmp_path
    ).stdout
    assert "random inputs" in said
    check_export(tmp_path / "student.onnx", trained)


def test_export_refuses_an_opset_the_exporter_cannot_write_and_names_the_one_that_can(
    trained: Bench, tmp_path: Path
) -> None:
    output = tmp_path / "student.onnx"
    said = trained.run(
        "export", "--checkpoint", "student.ckpt", "--output", output, *EXPORT, "--exporter", "dynamo", code=2
    ).stderr
    assert "exporter `dynamo` cannot write opset 13" in said
    assert "torchscript" in said
    assert not output.exists()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where not even root can write")
def test_export_into_a_folder_that_cannot_be_written_blames_no_exporter(trained: Bench) -> None:
    arguments = ("--checkpoint", "student.ckpt", "--output", "/sys/student.onnx")
    said = trained.run("export", *arguments, *EXPORT, code=2).stderr
    assert "cannot write /sys/" in said
    assert "choose another folder" in said


def test_export_never_writes_over_what_it_is_made_from(trained: Bench) -> None:
    checkpoint = trained.root / "student.ckpt"
    before = checkpoint.read_bytes()
    said = trained.run("export", "--checkpoint", checkpoint, "--output", checkpoint, *EXPORT, code=2).stderr
    assert "is what the export is made from" in said
    assert checkpoint.read_bytes() == before
