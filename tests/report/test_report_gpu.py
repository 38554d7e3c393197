"""What the reports say of a GPU, from made-up figures, and that they say nothing where there is none."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import run_info, trial
from workbench.backends import Engine, TorchRuntime
from workbench.measure.records import Conditions, Environment, GpuConditions, GpuState, GpuThroughput, GpuUse
from workbench.report import gpu, page, render
from workbench.report.details import text as text_of
from workbench.results.folder import RunFolder
from workbench.results.history import Details
from workbench.results.reasons import Verdict
from workbench.results.records import RunInfo
from workbench.results.verdict import Comparison, compare

NOTHING_SAID = Verdict(winner=None, certified=False, close_behind=(), reasons=())

STATE = GpuState(
    sm_mhz=(345, 1980),
    memory_mhz=(2619, 2619),
    celsius=61,
    watts=312.5,
    throttled=("SW Power Cap",),
    others=0,
)
USE = GpuUse(
    device_p50_ns=412_000.0,
    device_how="CUDA events",
    memory_bytes=612_000_000,
    joules=0.01234,
    throughput=(
        GpuThroughput(batch=1, with_copies=950.4, on_device=2427.0),
        GpuThroughput(batch=64, with_copies=12_345.6, on_device=20_000.2),
    ),
    state=STATE,
    engine=Engine(size_bytes=9_300_000, bound_to="NVIDIA Test, driver 580.1", build_s=41.2),
)
GROWN = GpuUse(
    memory_bytes=700_000_000,
    whole_gpu=True,
    throughput=(GpuThroughput(batch=8, with_copies=88.25, on_device=None),),
)
HARDWARE = GpuConditions(
    name="NVIDIA Test",
    driver="580.1",
    memory_bytes=2**37,
    power_limit_w=500.0,
    default_power_w=700.0,
    mig=False,
)
MACHINE_LINE = (
    "NVIDIA Test, driver 580.1, power limit 500 W (lowered from 700); SM clock 345 to 1980 MHz, "
    "at most 61 °C, slowed by SW Power Cap, 0 other processes on it"
)


def about(hardware: GpuConditions | None = HARDWARE, state: GpuState = STATE) -> RunInfo:
    return run_info(
        conditions=Conditions(affinity=(0,), quota=None, governor="unknown", turbo="unknown", gpu=hardware),
        environments=(
            Environment(seconds=1, steal=None, pressure=None, spin_s=0.1, disturbed=None, gpu=state),
        ),
        runtimes={"int8": TorchRuntime(device="cuda", batch=8)},
    )


@pytest.fixture
def comparison() -> Comparison:
    cuda: dict[str, Any] = {"device": "cuda", "provider": "CUDAExecutionProvider"}
    trials = [
        trial("baseline"),
        trial("fp16", speedup=8.0, gpu=USE, **cuda),
        trial("int8", speedup=4.0, gpu=GROWN, **cuda),
    ]
    return compare(about(), trials)


TABLES = """\
On the GPU, one photo a call; energy of the whole GPU, at the largest batch
  variant p50 ms without copies GPU MB J/photo
▶ fp16      1.25           0.41    612  0.0123
  int8         –              –   700*       –
* growth of the memory in use on the whole GPU: NVML gave no figures by process
Photos a second by photos a call, with the copies to and from the GPU and without
  variant  copies    1    8    64
▶ fp16       with  950    – 12346
  fp16    without 2427    – 20000
  int8       with    – 88.2     –
"""


def test_the_table_is_followed_by_those_of_the_gpu(comparison: Comparison) -> None:
    text = render("table", [comparison])
    assert TABLES in text
    # A long line goes on in the next.
    assert MACHINE_LINE in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100


def test_markdown_and_html_show_every_figure_of_them(comparison: Comparison, tmp_path: Path) -> None:
    markdown, html = render("markdown", [comparison]), page.render([comparison], [RunFolder(tmp_path)])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]
    assert ["▶", "`fp16`", "1.25", "0.41", "612", "0.0123"] in lines
    assert ["", "`fp16`", "without", "2427", "–", "20000"] in lines
    for form in (markdown, html):
        assert MACHINE_LINE in form
        for grid in gpu.grids(comparison.info, comparison.rows):
            assert grid.title in form
            assert all(cell in form for row in grid.rows for cell in row)


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_without_a_gpu_variant_nothing_is_said_of_gpus(comparison: Comparison, form: Any) -> None:
    plain = replace(comparison, rows=comparison.rows[:1], verdict=NOTHING_SAID, info=run_info())
    assert "GPU" not in render(form, [plain])
    assert gpu.machine_line(run_info()) is None


def test_the_audit_columns_leave_the_figures_of_the_gpu_out(comparison: Comparison) -> None:
    assert "J/photo" not in render("table", [comparison], columns="audit")
    assert "J/photo" not in render("markdown", [comparison], columns="audit")


def test_json_holds_them_as_recorded_and_csv_the_single_ones(comparison: Comparison) -> None:
    baseline, fp16, int8 = json.loads(render("json", [comparison]))["rows"]
    assert baseline["gpu"] is None
    assert GpuUse.model_validate(fp16["gpu"]) == USE
    assert GpuUse.model_validate(int8["gpu"]) == GROWN
    baseline, fp16, int8 = csv.DictReader(io.StringIO(render("csv", [comparison])))
    assert (baseline["gpu_memory_bytes"], fp16["gpu_memory_bytes"]) == ("", "612000000")
    assert (fp16["gpu_device_p50_ns"], fp16["gpu_joules"], int8["gpu_joules"]) == ("412000.0", "0.01234", "")


@pytest.mark.parametrize(
    ("hardware", "state", "line"),
    [
        (
            HARDWARE.model_copy(update={"power_limit_w": 700.0, "mig": True}),
            STATE.model_copy(update={"throttled": None, "others": None, "celsius": None}),
            "NVIDIA Test, driver 580.1, power limit 700 W, in MIG mode; SM clock 345 to 1980 MHz, "
            "temperature unknown, slowing unknown, other processes unknown",
        ),
        (
            HARDWARE.model_copy(update={"power_limit_w": None}),
            STATE.model_copy(update={"sm_mhz": None, "others": 2}),
            "NVIDIA Test, driver 580.1, power limit unknown; clocks unknown, at most 61 °C, "
            "slowed by SW Power Cap, 2 other processes on it",
        ),
        (None, STATE, "the GPU's clocks, heat and other processes are unknown: NVML gives none"),
    ],
)
def test_what_nvml_does_not_tell_is_unknown_and_never_fine(
    hardware: GpuConditions | None, state: GpuState, line: str
) -> None:
    assert gpu.machine_line(about(hardware, state)) == line


def test_the_details_of_a_variant_say_what_it_does_on_the_gpu(comparison: Comparison) -> None:
    text = text_of(Details(comparison.info, trial("fp16", gpu=USE)))
    assert (
        """\
on the GPU
  p50 without copies 0.412 ms, by CUDA events
  memory 612.0 MB
  batch 1: 950.4 photos/s, 2427.0 without copies
  batch 64: 12345.6 photos/s, 20000.2 without copies
  energy 0.0123 J a photo, of the whole GPU, at the largest batch
  engine 9.3 MB, built in 41 s, for NVIDIA Test, driver 580.1
  slowed down by SW Power Cap"""
        in text
    )
    text = text_of(Details(comparison.info, trial("int8", gpu=GROWN)))
    assert "memory 700.0 MB, as the whole GPU's use grew\n  batch 8: 88.2 photos/s" in text
    assert "on the GPU" not in text_of(Details(comparison.info, trial("baseline")))


def test_the_record_of_a_run_keeps_them(tmp_path: Path, comparison: Comparison) -> None:
    from workbench.results.folder import RunFolder

    folder = RunFolder.create(tmp_path)
    folder.save_info(comparison.info)
    folder.append(trial("fp16", gpu=USE))
    assert folder.info().conditions == comparison.info.conditions
    assert folder.trials()[0].gpu == USE
