"""A run as its user meets it: what it measures, what it leaves behind, and how it ends when it goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.builders import Once, checked, small_disk
from tests.e2e.tiny import (
    CLASS_NAMES,
    MEAN,
    STD,
    Bench,
    Student,
    children_of,
    is_running,
    load_model,
    needs_linux,
    photos_of,
    shared_student,
    tree_digest,
    write_workspace,
)
from tests.serving import wait_for
from workbench.cli import main
from workbench.measure.bursts import BURST_CALLS, FEWEST_TURNS
from workbench.measure.heat_launchers import MOST_AHEAD
from workbench.measure.records import BASELINE
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import normalize, read_pixels
from workbench.results.folder import RunFolder, runs
from workbench.results.reasons import Failed
from workbench.results.records import TrialResult
from workbench.system.launcher import available
from workbench.system.machine import available_cpus
from workbench.system.nvidia_check import missing_link

pytestmark = pytest.mark.integration

ROW_KEYS = [
    "variant", "recipe", "status", "reason", "backend", "device", "opset", "digest", "size_bytes", "top1",
    "drop", "drop_ci", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "speedup", "speedup_ci", "throughput_ips",
    "load_ms", "peak_memory_bytes", "pareto", "winner", "crop", "precision", "computes", "int8_share",
    "half_share", "fp32_share", "casts", "unfused_qdq", "audit", "validated", "same_answers", "p95_ms_ci",
    "p99_ms_ci", "load_ms_range", "cold_start_ms", "cold_start_ms_range", "peak_memory_bytes_range",
    "saturated_ips", "saturated_ratio", "saturated_ratio_ci", "gpu",
]  # fmt: skip
# The checkpoint states `resize_shorter_side`, and sizes are rounded as its layout documents.
CONTRACT = Preprocess(resize=36, crop=32, mean=MEAN, std=STD, rounding="albumentations")
ROUNDS, TURNS = 6, 5
NO_TIME = ("--time-budget", "0.1")  # one round for the race, whatever else the machine does
BRIEF = ("--rounds", "1", "--turns", "1", "--quiet", *NO_TIME)
NO_TIME_TO_BUILD = 0.001  # seconds; whatever is not in the cache fails

RECIPES = {
    "fp16": """
name: fp16
steps: [{use: fp16}]
matrix:
  runtime: [{device: cpu}, {device: cuda}, {backend: tensorrt, device: cuda}]
""",
    "fp32": "{name: fp32, export: {exporter: torchscript, opset: 13}}",
    "int8-dynamic": """
name: int8-dynamic
steps: [{use: dynamic_int8, op_types: [Conv, MatMul], weight: quint8}]
""",
    "int8-static": """
name: int8-static
steps: [{use: simplify}, {use: static_int8, calibration: {method: percentile, images: 24}}]
""",
}
TORCH = "{name: torch, runtime: {backend: torch}}"
SKIPPED = ["fp16[cuda]", "fp16[tensorrt,cuda]"]
MEASURED = ["baseline", "fp16[cpu]", "fp32", "int8-dynamic", "int8-static"]
FAILING = """
name: failing
export: {exporter: torchscript, opset: 13}
steps: [{use: static_int8, calibration: {images: 4}}]
matrix:
  steps.static_int8:
    - {exclude_nodes: [no_such_node]}
    - {exclude_op_types: [Konv]}
"""
OLDER = "{name: older, export: {exporter: dynamo, opset: 13}}"
FAILED = ["failing[exclude_nodes=no_such_node]", "failing[exclude_op_types=Konv]", "older"]


@pytest.fixture(scope="module")
def student(once: Once) -> Student:
    return shared_student(once)


@pytest.fixture(scope="module")
def source(student: Student) -> Path:
    return student.source


@pytest.fixture(scope="module")
def bench(student: Student, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A workspace with one run, shared with the other processes; the cache with its builds is a copy."""
    root = once("run", lambda folder: run_all(student, folder)) / "leaf"
    return Bench(root, Path(shutil.copytree(root.parent / "cache", tmp_path_factory.mktemp("run") / "cache")))


def run_all(student: Student, folder: Path) -> None:
    bench = Bench(folder / "leaf", student.cache(folder / "cache"))
    write_workspace(bench.root, student.source)
    for name, text in RECIPES.items():
        write(bench.root / "recipes" / f"{name}.yaml", text)
    for name, text in (("failing", FAILING), ("older", OLDER), ("torch", TORCH)):
        write(bench.root / "odd" / f"{name}.yaml", text)
    done = bench.run("run", "recipes", "odd", "--rounds", str(ROUNDS), "--turns", str(TURNS), *NO_TIME)
    write(folder / "stdout.txt", done.stdout)
    write(folder / "stderr.txt", done.stderr)


@pytest.fixture(scope="module")
def run_folder(bench: Bench) -> RunFolder:
    (folder,) = runs(bench.root / "results")
    return folder


@pytest.fixture
def elsewhere(bench: Bench, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A workspace of its own, over the same model and photos: its builds are in the cache already."""
    monkeypatch.setenv("KRISHI_CACHE", str(bench.cache))
    monkeypatch.chdir(tmp_path)
    write_workspace(tmp_path, source)
    return Bench(tmp_path, bench.cache)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def trials(folder: RunFolder) -> dict[str, TrialResult]:
    return {trial.variant: trial for trial in folder.trials()}


def checked_in(bench: Bench, *recipes: Path, build_timeout_s: float = 900.0) -> dict[str, TrialResult]:
    """The trials of a run that is not timed."""
    return checked(bench.root / "krishi.yaml", recipes, build_timeout_s)


def last_trials(bench: Bench) -> dict[str, TrialResult]:
    return trials(runs(bench.root / "results")[-1])


# What a run measures and leaves behind


def test_a_run_ends_with_one_table_on_stdout_and_progress_on_stderr(bench: Bench) -> None:
    stdout, stderr = ((bench.root.parent / f"{name}.txt").read_text() for name in ("stdout", "stderr"))
    lines = stdout.splitlines()
    assert re.match(r"leaf, run \d{8}-\d{6}: 40 validation photos", lines[0])
    assert max(map(len, lines)) <= 100
    assert stdout.count("speed-up [95 %]") == 1
    assert all(any(name in line for line in lines) for name in MEASURED)
    assert "Winner" in lines
    for stage in ("building the baseline", "building and checking", "timing"):
        assert stage in stderr


def test_a_gpu_variant_is_skipped_and_says_why(run_folder: RunFolder) -> None:
    for name in SKIPPED:
        trial = trials(run_folder)[name]
        if trial.status == "ok":
            pytest.skip("this machine has a GPU")
        assert trial.status == "skipped"
        assert (missing_link("GPU") or "ExecutionProvider") in (trial.reason or "")
        assert (trial.accuracy, trial.latency, trial.size_bytes) == (None, None, None)


def test_the_json_rows_have_the_promised_keys(bench: Bench, run_folder: RunFolder) -> None:
    rows = bench.json("compare")["rows"]
    assert {row["variant"] for row in rows} == {*MEASURED, *SKIPPED, *FAILED, "torch"}
    for row in rows:
        assert list(row) == [*ROW_KEYS, "run"]
        assert row["run"] == run_folder.run_id
    assert [row["variant"] for row in rows if row["winner"]] == [winner_of(bench)]
    skipped = next(row for row in rows if row["variant"] == "fp16[cuda]")
    assert {key for key, value in skipped.items() if value not in (None, False)} == {
        "variant", "recipe", "status", "reason", "backend", "device", "digest", "run",
    }  # fmt: skip


def winner_of(bench: Bench) -> str:
    winner = bench.json("compare")["verdict"]["winner"]
    assert isinstance(winner, str)
    return winner


def test_what_was_measured_is_complete(run_folder: RunFolder) -> None:
    for name in MEASURED:
        trial = trials(run_folder)[name]
        assert trial.status in ("ok", "pruned")
        assert trial.latency is not None
        assert trial.accuracy is not None
        rounds = len(trial.latency.round_log_ratios)
        assert rounds == (ROUNDS if trial.latency.confirmed else 1)
        # There is no time: turns get fewer, then bursts shorter.
        assert rounds * FEWEST_TURNS <= trial.latency.samples <= rounds * TURNS * BURST_CALLS[1]
        assert trial.accuracy.images + (trial.certification.images if trial.certification else 0) == 40
        assert trial.size_bytes and trial.load_s
        assert (trial.build_s is None) is (name == BASELINE)  # which was built before
        assert 1e6 < (trial.peak_memory_bytes or 0) < 2e9
        # Finalists are launched again: one round, as there is no time, after the check's own launch.
        if trial.latency.confirmed:
            assert trial.readings is not None
            assert {len(values) >= 2 for values in trial.readings.model_dump().values()} == {True}
            assert trial.saturated_ips and trial.saturated_log_ratios
            assert trial.whole_path


def test_opset_precision_and_provider_are_read_back(run_folder: RunFolder) -> None:
    facts = {
        name: (trial.opset, trial.precision, trial.provider, trial.device, trial.threads)
        for name, trial in trials(run_folder).items()
        if name in MEASURED
    }
    cpu = ("CPUExecutionProvider", "cpu", 1)
    assert facts == {
        "baseline": (18, "fp32", *cpu),
        "fp16[cpu]": (18, "fp16", *cpu),
        "fp32": (13, "fp32", *cpu),
        "int8-dynamic": (18, "int8", *cpu),
        "int8-static": (18, "int8", *cpu),
    }


def test_accuracy_is_what_torch_itself_gives(source: Path, run_folder: RunFolder) -> None:
    photos = photos_of(source / "data" / "val", CLASS_NAMES)
    batch = normalize(np.stack([read_pixels(path, CONTRACT) for path, _ in photos]), CONTRACT)
    with torch.inference_mode():
        expected = load_model(source)(torch.from_numpy(batch)).numpy()
    labels = np.array([label for _, label in photos])
    right = int((expected.argmax(axis=1) == labels).sum())
    assert 0.7 < right / len(labels) < 1
    for name in ("baseline", "fp32"):
        trial = trials(run_folder)[name]
        parts, parity = [part for part in (trial.accuracy, trial.certification) if part], trial.parity
        assert parity is not None
        assert sum(part.correct for part in parts) == right
        assert all((part.losses, part.gains) == (0, 0) for part in parts)
        assert parity.max_rel < 1e-4
        logits = np.load(run_folder.predictions(name))["logits"]
        np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_quantised_variants_differ_from_the_source_and_say_by_how_much(run_folder: RunFolder) -> None:
    for name in ("int8-static", "int8-dynamic", "fp16[cpu]"):
        parity = trials(run_folder)[name].parity
        assert parity is not None
        assert 0 < parity.max_rel < 0.5
        assert parity.top1_agreement > 0.8


def test_every_raw_sample_is_kept(run_folder: RunFolder) -> None:
    rows = pq.read_table(run_folder.path / "latency.parquet").to_pylist()
    assert {row["variant"] for row in rows} == {*MEASURED, "torch", "baseline (again)"}
    bursts = {(r["session"], r["variant"], r["round"], r["turn"]) for r in rows}
    assert sum(row["call"] == 0 for row in rows) == len(bursts)  # one cold call each
    assert {row["session"] for row in rows} == {"race", "final"}
    assert all(row["time_ns"] > 0 for row in rows)


def test_the_run_folder_holds_what_was_promised(run_folder: RunFolder) -> None:
    info = run_folder.info()
    assert (info.run_id, info.class_names, info.preprocess) == (run_folder.run_id, CLASS_NAMES, CONTRACT)
    assert info.arguments[:2] == ("run", "recipes")
    assert info.libraries["onnxruntime"]
    assert info.noise_floor is not None and 0 <= info.noise_floor < 2
    assert info.validation_images == 40 and info.calibration_digest
    stems = {"baseline", "fp16_cpu", "fp32", "int8-dynamic", "int8-static", "torch"}
    assert {path.stem for path in (run_folder.path / "predictions").iterdir()} == stems
    assert stems <= {path.stem for path in (run_folder.path / "logs").iterdir()}
    report = (run_folder.path / "report.html").read_text()
    assert report.lower().startswith("<!doctype html>")
    assert all(name.partition("[")[0] in report for name in MEASURED)
    assert not [path for path in run_folder.path.rglob("*") if path.name.startswith(".")]


def test_a_second_run_builds_nothing(bench: Bench, elsewhere: Bench) -> None:
    before = tree_digest(bench.cache / "artifacts")
    plain = write(elsewhere.root / "plain.yaml", "{name: plain}")
    again = checked_in(elsewhere, bench.root / "recipes", plain, build_timeout_s=NO_TIME_TO_BUILD)
    assert [name for name, trial in again.items() if trial.status == "ok"] == [*MEASURED, "plain"]
    assert again["plain"].artifact_key == again["baseline"].artifact_key
    assert {trial.build_s for trial in again.values()} == {None}
    assert tree_digest(bench.cache / "artifacts") == before


def test_photos_are_decoded_once_for_all_variants(bench: Bench, run_folder: RunFolder) -> None:
    pixels = list((bench.root.parent / "cache" / "pixels").iterdir())
    assert len(pixels) == 4  # validation and calibration, for the network and to be compared with each other
    assert all(np.load(path, mmap_mode="r").shape == (40, 32, 32, 3) for path in pixels)


def test_torch_is_measured_beside_onnxruntime(run_folder: RunFolder) -> None:
    trial, baseline = (trials(run_folder)[name] for name in ("torch", "baseline"))
    assert (trial.status, trial.provider, trial.threads, trial.opset) == ("ok", "eager", 1, None)
    assert trial.parity is not None and trial.latency is not None
    assert trial.parity.max_rel < 1e-4
    assert counted(trial) == counted(baseline)
    assert len(trial.latency.round_log_ratios) >= 1
    assert (trial.peak_memory_bytes or 0) > 2 * (baseline.peak_memory_bytes or 0)  # all of torch


def counted(trial: TrialResult) -> object:
    """The photos it got right: what two runtimes agree on where the last digits of their logits do not."""
    assert trial.accuracy is not None
    return trial.accuracy.model_copy(update={"ece": None})


# Variants that fail


def test_a_variant_that_cannot_be_built_fails_and_the_others_go_on(run_folder: RunFolder) -> None:
    statuses = {name: trial.status for name, trial in trials(run_folder).items()}
    expected = {**dict.fromkeys(FAILED, "failed"), **dict.fromkeys([*MEASURED, "torch"], "ok")}
    assert expected.items() <= statuses.items()


@pytest.mark.parametrize(
    ("variant", "what", "remedy"),
    [
        ("failing[exclude_nodes=no_such_node]", "no node is named `no_such_node`", "the graph has `"),
        (
            "failing[exclude_op_types=Konv]",
            "ONNX has no operator `Konv`",
            "did you mean `Conv`?",
        ),
        ("older", "exporter `dynamo` cannot write opset 13", "set `export.exporter: torchscript`"),
    ],
)
def test_the_reason_of_a_failure_says_what_is_wrong_and_what_to_do(
    run_folder: RunFolder, variant: str, what: str, remedy: str
) -> None:
    reason = trials(run_folder)[variant].reason or ""
    assert what in reason
    assert remedy in reason


def test_a_build_that_takes_too_long_fails_alone(elsewhere: Bench) -> None:
    recipe = write(elsewhere.root / "new.yaml", "{name: new, export: {exporter: torchscript, opset: 16}}")
    timeout = ("--build-timeout", str(NO_TIME_TO_BUILD))
    said = elsewhere.run("run", recipe, *BRIEF, *timeout, code=1).stdout
    assert "nothing else was measured (1 failed): this says nothing about the others" in said
    trial = last_trials(elsewhere)["new"]
    assert (trial.status, trial.reason) == ("failed", "the build took longer than 0.001 s and was stopped")


def test_models_that_were_damaged_in_the_cache_are_built_anew(
    bench: Bench, elsewhere: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Bench(elsewhere.root, Path(shutil.copytree(bench.cache, tmp_path / "cache")))
    monkeypatch.setenv("KRISHI_CACHE", str(own.cache))
    before = last_trials(bench)
    cut, flipped = (artifact_file(own, before[name]) for name in ("int8-dynamic", "int8-static"))
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-100])
    found = checked_in(own, *(bench.root / "recipes" / f"int8-{name}.yaml" for name in ("dynamic", "static")))
    for name in ("int8-dynamic", "int8-static"):
        assert (found[name].status, found[name].reason) == ("ok", None)
        assert found[name].artifact_digest == before[name].artifact_digest


def artifact_file(bench: Bench, trial: TrialResult) -> Path:
    assert trial.artifact_key is not None
    return bench.cache / "artifacts" / trial.artifact_key[:2] / trial.artifact_key / "model.onnx"


@needs_linux
def test_a_session_that_dies_while_it_is_timed_fails_alone(bench: Bench, elsewhere: Bench) -> None:
    recipes = [bench.root / "recipes" / f"{name}.yaml" for name in ("fp32", "int8-static")]
    with started(
        elsewhere, "run", *recipes, "--rounds", "2", "--turns", "100000", "--time-budget", "1"
    ) as run:
        run.wait_for_line("timing: ")
        os.kill(worker_of(run, "int8-static"), signal.SIGKILL)
        assert run.end() == 0
    killed, survivor = last_trials(elsewhere)["int8-static"], last_trials(elsewhere)["fp32"]
    assert killed.status == "failed"
    assert (killed.reason or "").startswith("the measuring process was killed by SIGKILL")
    assert isinstance(killed.cause, Failed) and killed.cause.while_timing
    assert survivor.status == "ok"
    assert survivor.latency is not None and len(survivor.latency.round_log_ratios) == 2


def worker_of(run: "Started", variant: str) -> int:
    """The child whose output goes to the log of `variant`."""
    logs = {Path(f"/proc/{pid}/fd/1").readlink().stem: pid for pid in children_of(run.process.pid)}
    return logs[variant]


# Runs that are stopped


class Started:
    """A command under way, and the lines it has written to stderr."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for_line(self, start: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith(start):
                return
        raise AssertionError(f"no line began with {start!r}:\n{''.join(self.lines)}")

    def end(self) -> int:
        """Wait for it; returns its exit code."""
        assert self.process.stderr is not None
        self.lines += self.process.stderr
        return self.process.wait(60)


@contextmanager
def started(bench: Bench, *words: str | Path) -> Iterator[Started]:
    process = bench.start(*words)
    try:
        yield Started(process)
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@needs_linux
def test_ctrl_c_while_checking_keeps_what_was_finished(bench: Bench, elsewhere: Bench) -> None:
    with started(elsewhere, "run", bench.root / "recipes") as run:
        run.wait_for_line("building and checking: ")
        wait_for(lambda: (folder := any_run(elsewhere)) is not None and len(folder.trials()) >= 2)
        children = children_of(run.process.pid)
        os.killpg(run.process.pid, signal.SIGINT)  # what a terminal does: the children get it too
        assert run.end() == 130
    assert run.lines[-1].startswith("stopped; what was finished is kept")
    assert "Traceback" not in "".join(run.lines)
    wait_for(lambda: not any(map(is_running, children)))
    kept = last_trials(elsewhere)
    assert 2 <= len(kept) < len(MEASURED) + len(SKIPPED)
    assert kept["baseline"].accuracy is not None


@needs_linux
def test_ctrl_c_while_timing_keeps_every_trial_and_the_next_run_reuses_the_builds(elsewhere: Bench) -> None:
    recipe = write(elsewhere.root / "r.yaml", "{name: r, export: {exporter: torchscript, opset: 15}}")
    with started(elsewhere, "run", recipe, "--turns", "1000000", "--time-budget", "600") as run:
        run.wait_for_line("timing: ")
        children = children_of(run.process.pid)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
    # With what forks them, of this round, and on several processors those of the next and what draws charts.
    cpus = len(available_cpus())
    assert len(children) == 3 + available() * min(cpus, MOST_AHEAD) + (cpus > 1)
    wait_for(lambda: not any(map(is_running, children)))
    assert {name: trial.status for name, trial in last_trials(elsewhere).items()} == {
        "baseline": "ok",
        "r": "ok",
    }
    stopped = runs(elsewhere.root / "results")[-1]
    rows = elsewhere.json("compare", code=1)["rows"]
    assert [(row["variant"], row["p50_ms"], row["winner"]) for row in rows] == [
        ("baseline", None, False),
        ("r", None, False),
    ]
    assert checked_in(elsewhere, recipe, build_timeout_s=NO_TIME_TO_BUILD)["r"].build_s is None
    assert runs(elsewhere.root / "results")[-1].run_id > stopped.run_id


@needs_linux
def test_a_run_that_was_killed_can_be_read_and_leaves_no_process(bench: Bench, elsewhere: Bench) -> None:
    with started(elsewhere, "run", bench.root / "recipes" / "fp32.yaml", "--turns", "1000000") as run:
        run.wait_for_line("timing: ")
        children = children_of(run.process.pid)
        run.process.kill()
        run.end()
    wait_for(lambda: not any(map(is_running, children)))
    text = elsewhere.run("compare", code=1).stdout
    assert "fp32" in text
    assert "the run was cut short before anything was timed" in text
    refused = elsewhere.run("promote", code=1).stderr
    assert "has no winner" in refused


def any_run(bench: Bench) -> RunFolder | None:
    found = runs(bench.root / "results")
    return found[-1] if found else None


def test_two_runs_at_once_both_end_well(elsewhere: Bench) -> None:
    recipe = write(elsewhere.root / "both.yaml", "{name: both, export: {exporter: torchscript, opset: 14}}")
    with started(elsewhere, "run", recipe, *BRIEF) as other:
        checked_in(elsewhere, recipe)
        assert other.end() == 0, other.lines
    folders = runs(elsewhere.root / "results")
    assert len(folders) == 2
    found = [trials(folder)["both"] for folder in folders]
    assert [trial.status for trial in found] == ["ok", "ok"]
    assert found[0].artifact_digest == found[1].artifact_digest


# Input that cannot be used

OTHER_NETWORK = """
from torch import nn

def create_model(num_classes):
    return nn.Sequential(nn.Linear(3, num_classes))
"""
CRASHING_NETWORK = """
import ctypes

def create_model():
    print("about to crash", flush=True)
    ctypes.string_at(0)
"""


def refused(bench: Bench, capsys: pytest.CaptureFixture[str], *words: str, recipe: str = "fp32") -> str:
    """What a run of the workspace says when it refuses, with exit code 2 and nothing left behind."""
    path = write(bench.root / "recipe.yaml", RECIPES[recipe])
    assert main(["run", str(path), "--workspace", str(bench.root), *BRIEF, *words]) == 2
    assert runs(bench.root / "results") == []
    assert not any((bench.root / "results").glob("*"))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    return said.err


@pytest.mark.parametrize(
    ("class_name", "change", "problem"),
    [
        (CLASS_NAMES[0], None, "data.validation: {val} holds no photos"),
        ("Pear_Scab", lambda photo: photo, "{val} has `Pear_Scab`, which the model does not know"),
        (
            CLASS_NAMES[1],
            lambda _: b"just some words",
            "{photo}: not a JPEG, PNG or WebP image but a text file",
        ),
        (CLASS_NAMES[1], lambda photo: photo[:-200], "{photo}: the image is damaged"),
    ],
    ids=["no photos", "an unknown class", "a text file", "a truncated photo"],
)
def test_validation_photos_that_cannot_be_used_are_refused_by_name(
    source: Path,
    elsewhere: Bench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    class_name: str,
    change: Callable[[bytes], bytes] | None,
    problem: str,
) -> None:
    photo = tmp_path / "val" / class_name / "leaf.jpg"
    photo.parent.mkdir(parents=True)
    if change is not None:
        photo.write_bytes(change(photos_of(source / "data" / "val", CLASS_NAMES)[0][0].read_bytes()))
    write_workspace(elsewhere.root, source, validation=tmp_path / "val")
    text = refused(elsewhere, capsys)
    assert problem.format(val=tmp_path / "val", photo=photo) in text
    assert class_name != "Pear_Scab" or "`Corn_Healthy`" in text


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a", "b", "c", "d", "e"]])
def test_class_names_of_the_wrong_number_are_refused(
    source: Path, elsewhere: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    labels = write(tmp_path / "labels.json", json.dumps(names))
    write_workspace(elsewhere.root, source, class_names=labels)
    said = refused(elsewhere, capsys)
    assert f"{labels} has {len(names)} names, but student.ckpt has 4 classes" in said
    assert "in the order of the network's outputs" in said


def test_a_truncated_checkpoint_is_refused(
    source: Path, elsewhere: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.ckpt").write_bytes((source / "student.ckpt").read_bytes()[:5000])
    write_workspace(elsewhere.root, source, checkpoint=tmp_path / "cut.ckpt")
    said = refused(elsewhere, capsys)
    assert "cut.ckpt is truncated or damaged" in said
    assert "hint: copy or download it again" in said


def test_a_checkpoint_that_needs_code_is_refused_without_running_it(
    source: Path, elsewhere: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}, "ratio": Fraction(1, 3)}, tmp_path / "code.ckpt")
    write_workspace(elsewhere.root, source, checkpoint=tmp_path / "code.ckpt")
    said = refused(elsewhere, capsys)
    assert "fractions.Fraction`, which is not run" in said
    assert "torch.save(model.state_dict()" in said


def test_a_checkpoint_of_another_network_is_refused_with_what_to_do(
    source: Path, elsewhere: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other.py", OTHER_NETWORK)
    write_workspace(elsewhere.root, source, factory=f"{other}:create_model")
    said = refused(elsewhere, capsys)
    assert said.count("do not fit the network of") == 1
    assert ".weight (4, 32) for (4, 3)" in said
    assert "hint: check `model.factory` and `model.factory_args`" in said


def test_a_network_that_crashes_the_build_is_told_and_its_log_is_kept(
    source: Path, elsewhere: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crash = write(tmp_path / "crash.py", CRASHING_NETWORK)
    write_workspace(elsewhere.root, source, factory=f"{crash}:create_model")
    said = refused(elsewhere, capsys)
    assert "reading the checkpoint was killed by SIGSEGV" in said
    (log,) = re.findall(r"hint: see (\S+)", said)
    assert "about to crash" in Path(log).read_text()


def test_a_baseline_that_takes_too_long_to_build_ends_the_run(
    source: Path, elsewhere: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(source / "student.py", tmp_path / "student.py")  # elsewhere, so not built yet
    write_workspace(elsewhere.root, source, factory=f"{tmp_path / 'student.py'}:create_model")
    said = refused(elsewhere, capsys, "--build-timeout", "0.01")
    assert "the build took longer than 0.01 s and was stopped" in said


def test_static_int8_without_calibration_photos_fails_alone(bench: Bench, elsewhere: Bench) -> None:
    text = (elsewhere.root / "krishi.yaml").read_text()
    write(elsewhere.root / "krishi.yaml", re.sub(r', "calibration": "[^"]*"', "", text))
    trial = checked_in(elsewhere, bench.root / "recipes" / "int8-static.yaml")["int8-static"]
    assert trial.status == "failed"
    assert "static_int8 needs photos to calibrate on" in (trial.reason or "")
    assert "data.calibration" in (trial.reason or "")


# Disks


def test_results_that_cannot_be_a_folder_are_refused(
    source: Path, elsewhere: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "taken", "a regular file")
    for results in ("taken", "taken/results"):
        write_workspace(elsewhere.root, source, more=f"results: {results}")
        assert main(["run", "--workspace", str(elsewhere.root), *BRIEF]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ")
        assert str(tmp_path / "taken") in said.err
    assert (tmp_path / "taken").read_text() == "a regular file"


@pytest.mark.parametrize("size_kb", [4, 16, 40])
def test_a_full_disk_under_the_results_is_told_and_nothing_is_half_written(
    bench: Bench, source: Path, elsewhere: Bench, tmp_path: Path, size_kb: int
) -> None:
    write_workspace(elsewhere.root, source, more="results: small")
    with small_disk(tmp_path / "small", size_kb) as disk:
        said = elsewhere.run("run", bench.root / "recipes" / "fp32.yaml", *BRIEF, code=2).stderr
        assert "No space left on device" in said
        assert str(disk) in said
        assert "hint: free some space" in said
        assert half_written(disk) == []
        for folder in runs(disk):
            folder.info()
            folder.trials()


@pytest.mark.parametrize("size_kb", [64, 160])  # not enough for the validation, the calibration photos
def test_a_full_disk_under_the_cache_is_told_and_nothing_is_half_written(
    bench: Bench, elsewhere: Bench, tmp_path: Path, size_kb: int
) -> None:
    with small_disk(tmp_path / "small", size_kb) as disk:
        said = Bench(elsewhere.root, disk).run("run", bench.root / "recipes", *BRIEF, code=2).stderr
        assert "No space left on device" in said
        assert half_written(disk) == []


def half_written(folder: Path) -> list[Path]:
    """Temporary files and folders, and arrays that cannot be read."""
    found = [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp")]
    for path in [*folder.rglob("*.npz"), *folder.rglob("*.npy")]:
        try:
            loaded: Any = np.load(path)
            _ = [loaded[name] for name in loaded.files] if path.suffix == ".npz" else loaded.sum()
        except Exception:
            found.append(path)
    return found


# Other sources


def test_an_onnx_file_is_taken_as_it_is(bench: Bench, source: Path, elsewhere: Bench, tmp_path: Path) -> None:
    shutil.copy(artifact_file(bench, last_trials(bench)["baseline"]), tmp_path / "student.onnx")
    labels = write(tmp_path / "labels.txt", "\n".join(CLASS_NAMES))
    write_workspace(
        elsewhere.root,
        source,
        checkpoint=tmp_path / "student.onnx",
        class_names=labels,
        more=f"preprocess: {CONTRACT.model_dump_json(exclude={'crop'})}",
    )
    recipes = [bench.root / "recipes" / f"{name}.yaml" for name in ("fp32", "int8-static")]
    found = checked_in(elsewhere, *recipes, write(tmp_path / "torch.yaml", TORCH))
    assert {name: trial.status for name, trial in found.items()} == {
        "baseline": "ok",
        "fp32": "skipped",
        "int8-static": "ok",
        "torch": "skipped",
    }
    assert found["fp32"].reason == "the model comes as an ONNX file of opset 18; it is not exported again"
    assert found["torch"].reason == "the model comes as an ONNX file, which torch does not run"
    before = last_trials(bench)["baseline"]
    assert found["baseline"].artifact_digest == before.artifact_digest
    assert found["baseline"].accuracy == before.accuracy


def test_a_torchscript_file_is_exported_by_the_older_exporter(
    bench: Bench, source: Path, elsewhere: Bench, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated, and people still have them
        torch.jit.trace(load_model(source), torch.zeros(2, 3, 32, 32)).save(str(tmp_path / "student.pt"))
    labels = write(tmp_path / "labels.json", json.dumps(CLASS_NAMES))
    write_workspace(
        elsewhere.root,
        source,
        checkpoint=tmp_path / "student.pt",
        class_names=labels,
        more=f"preprocess: {CONTRACT.model_dump_json()}",
    )
    same = write(tmp_path / "same.yaml", "{name: same, export: {exporter: torchscript, opset: 18}}")
    found = checked_in(elsewhere, same)
    assert {name: (trial.status, trial.opset) for name, trial in found.items()} == {
        "baseline": ("ok", 18),
        "same": ("ok", 18),
    }
    assert found["same"].artifact_digest == found["baseline"].artifact_digest
    assert counted(found["baseline"]) == counted(last_trials(bench)["baseline"])
    # The newer exporter, which cannot take it, is not tried again.
    assert checked_in(elsewhere, same, build_timeout_s=NO_TIME_TO_BUILD)["same"].status == "ok"
