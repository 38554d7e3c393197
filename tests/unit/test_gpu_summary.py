"""The summary of a GPU run, from made-up results, and the script that makes one: who is best, and why."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from workbench.backends import Engine, OrtRuntime, TensorrtRuntime, TorchRuntime
from workbench.backends.audit import Audit
from workbench.measure.records import Conditions, GpuConditions, GpuState, GpuThroughput, GpuUse, Parity
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.system.nvidia import missing_gpu

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
H100 = GpuConditions(
    name="NVIDIA H100 80GB HBM3", driver="580.65.06", memory_bytes=80 * 2**30, max_sm_mhz=1980,
    max_memory_mhz=2619, power_limit_w=500.0, default_power_w=700.0, persistence=True, mig=False,
)  # fmt: skip
TORCH = TorchRuntime(device="cuda", precision="f32")
ENGINE = TensorrtRuntime(device="cuda", cuda_graph=True)
RUNTIMES = {
    "baseline": OrtRuntime(),
    "torch-cuda[f32]": TORCH,
    "torch-cuda[f16]": TorchRuntime(device="cuda", precision="f16"),
    "tensorrt-fp16": ENGINE,
    "tensorrt-int8": ENGINE,
    "tensorrt-rtx-fp16": OrtRuntime(device="cuda"),
}


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_summary", BENCHMARKS / "gpu_summary.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["gpu_summary"] = made  # where dataclasses look up their annotations
    spec.loader.exec_module(made)
    return made


def used(per_second: float, **more: Any) -> GpuUse:
    sizes = (GpuThroughput(batch=1, with_copies=1000, on_device=None),
             GpuThroughput(batch=64, with_copies=per_second, on_device=2 * per_second))  # fmt: skip
    state = GpuState(
        sm_mhz=(1700, 1980), memory_mhz=(2619, 2619), celsius=61, watts=300.0,
        throttled=("power limit",), others=0,
    )  # fmt: skip
    values: dict[str, Any] = {
        "device_p50_ns": 200_000.0, "device_how": "CUDA events", "memory_bytes": 900_000_000,
        "joules": 0.0125, "throughput": sizes, "state": state,
    }  # fmt: skip
    return GpuUse(**{**values, **more})


def agreeing(share: float) -> Parity:
    return Parity(images=1000, max_abs=0.01, max_rel=0.001, top1_agreement=share)


@pytest.fixture
def trials(trial: Callable[..., TrialResult], absent_trial: Callable[..., TrialResult]) -> list[TrialResult]:
    on_gpu: dict[str, Any] = {"device": "cuda", "provider": "cuda"}
    engine = Engine(size_bytes=7, bound_to="NVIDIA H100 9.0, driver 580.65.06, TensorRT 11.4", build_s=9)
    audit = Audit(computes="fp16", verdict="fp16 for 99 % of the | MACs", as_asked=True)
    return [
        trial("baseline"),
        trial("torch-cuda[f32]", speedup=2.0, parity=agreeing(1.0), gpu=used(1000), **on_gpu),
        trial("torch-cuda[f16]", speedup=3.0, parity=agreeing(0.999), gpu=used(2500), **on_gpu),
        trial(
            "tensorrt-fp16", speedup=8.0, parity=agreeing(0.998), gpu=used(4200, engine=engine), audit=audit,
            **on_gpu,
        ),
        # Faster, and of another opinion too often.
        trial("tensorrt-int8", speedup=10.0, parity=agreeing(0.98), gpu=used(9000), **on_gpu),
        absent_trial("tensorrt-rtx-fp16", "skipped", "TensorRT for RTX takes\nother GPUs"),
    ]  # fmt: skip


@pytest.fixture
def info(run_info: Callable[..., RunInfo]) -> RunInfo:
    conditions = Conditions(affinity=(0,), quota=None, governor="unknown", turbo="unknown", gpu=H100)
    return run_info(
        runtimes=RUNTIMES, conditions=conditions, libraries={"torch": "2.13.0", "tensorrt": "11.4.0.106"}
    )


def test_the_best_that_agrees_is_held_against_eager_torch_in_fp32(
    module: ModuleType, info: RunInfo, trials: list[TrialResult]
) -> None:
    text = module.summary(info, trials)
    assert (
        "- batch 1: `tensorrt-fp16` is 4.00 times as fast as `torch-cuda[f32]` (target 3: met) and agrees "
        "with FP32 on 99.80 % of the photos.\n"
        "- batch 64: `tensorrt-fp16` is 4.20 times as fast as `torch-cuda[f32]` (target 4: met) and agrees "
        "with FP32 on 99.80 % of the photos.\n"
    ) in text


def test_what_it_ran_on_and_how_is_said(module: ModuleType, info: RunInfo, trials: list[TrialResult]) -> None:
    text = module.summary(info, trials)
    for line in (
        "| GPU | NVIDIA H100 80GB HBM3, 80 GiB |",
        "| driver | 580.65.06 |",
        "| power limit | 500 W (lowered from 700 W) |",
        "| date | 2026-01-02 03:04 UTC |",
        "| versions | tensorrt 11.4.0.106, torch 2.13.0 |",
        "| engines for | NVIDIA H100 9.0, driver 580.65.06, TensorRT 11.4 |",
        "- SM clock 1700 to 1980 MHz while measuring; no clock was set.",
        "- clocks were lowered by: power limit.",
        "- skipped `tensorrt-rtx-fp16`: TensorRT for RTX takes other GPUs",
    ):
        assert line in text.splitlines()


def test_the_table_has_a_row_for_each_variant_that_was_timed_on_the_gpu(
    module: ModuleType, info: RunInfo, trials: list[TrialResult]
) -> None:
    rows = [line for line in module.summary(info, trials).splitlines() if line.startswith("| te")]
    assert rows == [
        "| tensorrt-fp16 | 1.250 | 0.200 | 4.00 | 4.00 to 4.00 | 4200 | 4.20 | 99.80 | 12.5 | 900 | "
        "fp16 for 99 % of the / MACs |",
        "| tensorrt-int8 | 1.000 | 0.200 | 5.00 | 5.00 to 5.00 | 9000 | 9.00 | 98.00 | 12.5 | 900 |  |",
    ]


def test_rounds_that_are_not_the_same_widen_the_interval(
    module: ModuleType, trial: Callable[..., TrialResult]
) -> None:
    shaken = [0.9, 0.95, 1.0, 1.0, 1.05, 1.1]
    reference = trial("a", rounds=[2 * s for s in shaken])
    paired = module.against(trial("b", rounds=[4 * s for s in shaken]), reference)
    assert paired.ratio == pytest.approx(2) and paired.interval == pytest.approx((2, 2))
    apart = module.against(trial("b", rounds=[4 * s for s in [*shaken, 1.0]]), reference)
    assert apart.ratio == pytest.approx(2, rel=0.1)
    assert apart.interval[0] < 1.8 and apart.interval[1] > 2.2


@pytest.mark.parametrize("gone", ["reference", "batches", "everything"])
def test_what_was_not_measured_is_not_made_up(
    module: ModuleType, info: RunInfo, trials: list[TrialResult], gone: str
) -> None:
    if gone == "reference":
        text = module.summary(info, [t for t in trials if t.variant != "torch-cuda[f32]"])
        assert "Eager torch in FP32 on the GPU was not measured" in text
        assert "| tensorrt-fp16 | 1.250 | 0.200 |  |  | 4200 |  |" in text
    elif gone == "batches":
        none = [t.model_copy(update={"gpu": None}) for t in trials]
        text = module.summary(info, none)
        assert "- batch 64: no variant was measured that agrees" in text
        assert "- batch 1: `tensorrt-fp16` is 4.00 times" in text
    else:
        text = module.summary(info.model_copy(update={"conditions": None}), trials[-1:])
        assert "| GPU | none was measured on |" in text
        assert text.rstrip().endswith("takes other GPUs")


def test_the_command_reads_a_workspaces_latest_run(
    module: ModuleType,
    info: RunInfo,
    trials: list[TrialResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert module.main([]) == 2
    assert "holds no run yet" in capsys.readouterr().err
    folder = RunFolder.create(tmp_path / "results")
    folder.save_info(info)
    for one in trials:
        folder.append(one)
    assert module.main(["--output", str(tmp_path / "summary.md")]) == 0
    assert (tmp_path / "summary.md").read_text() == module.summary(info, trials)


def script(folder: Path, python: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": str(python), "OUT": str(folder / "out")}
    return subprocess.run(
        ["bash", BENCHMARKS / "gpu.sh", *words],
        cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(missing_gpu() is None, reason="there is a GPU here")
def test_without_a_gpu_the_script_says_so_and_does_nothing(tmp_path: Path) -> None:
    done = script(tmp_path, sys.executable)
    assert (done.returncode, done.stderr) == (2, f"error: {missing_gpu()}\n")
    assert list(tmp_path.iterdir()) == []


STAND_IN = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
    *"workbench.cli run"*) exit {run} ;;
    *"pytest -m gpu"*) exit {tests} ;;
    *gpu_summary.py*) for last in "$@"; do :; done; echo "# summary" > "$last" ;;
esac
"""


@pytest.mark.parametrize(("run", "tests", "code"), [(0, 0, 0), (1, 0, 0), (2, 0, 1), (0, 1, 1)])
def test_with_a_gpu_the_script_tests_runs_and_sums_up(
    tmp_path: Path, run: int, tests: int, code: int
) -> None:
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(STAND_IN.format(log=log, run=run, tests=tests))
    python.chmod(0o755)
    (tmp_path / "leaves").mkdir()
    done = script(tmp_path, "./python", "leaves")
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "# summary"
    said = log.read_text()
    where = tmp_path / "leaves"
    assert f"workbench.cli run --workspace {where} torch-cuda cuda-fp16 tensorrt-fp16" in said
    assert "tests/gpu/test_runtimes_gpu.py" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "doctor.txt", "tests.txt", "run.txt", "summary.md",
    }  # fmt: skip


def test_every_recipe_that_the_script_runs_is_shipped() -> None:
    from workbench.workspace import recipe

    words = (BENCHMARKS / "gpu.sh").read_text().partition("recipes=${RECIPES:-")[2].partition("}")[0]
    for name in words.split():
        assert recipe.find(name).stem == name
