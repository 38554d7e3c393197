"""Runs as DataFrames: the columns, their types, and what docs/notebook.md says of them."""

import re
from dataclasses import fields
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.builders import absent_trial, run_info, trial
from workbench.errors import WorkbenchError
from workbench.measure import samples as raw
from workbench.measure.latency import Measured, Sample
from workbench.measure.records import FINAL, RACE, GpuUse
from workbench.results import frame, samples
from workbench.results.folder import RunFolder
from workbench.results.frames import ROW_COLUMNS, SAMPLE_COLUMNS, Column
from workbench.results.verdict import Row
from workbench.system.packages import require

pd = pytest.importorskip("pandas")

SAVED = Path(__file__).parents[1] / "data" / "results-v1"
NOTEBOOK = (Path(__file__).parents[2] / "docs" / "notebook.md").read_text()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of three variants below `results`, with five timed calls."""
    folder = RunFolder.create(tmp_path / "results")
    folder.save_info(run_info(run_id=folder.run_id))
    use = GpuUse(device_p50_ns=412_000.0, memory_bytes=612_000_000, joules=0.0123)
    for one in (
        trial("baseline"),
        trial("fast", rounds=[1.9, 2.0, 2.0, 2.0, 2.0, 2.1], losses=5, gains=2, gpu=use),
        absent_trial("broken", "failed", "no room"),
    ):
        folder.append(one)
    calls = [Sample("baseline", number, 1, 2, 0, call, 1000 + call) for number in (0, 1) for call in (0, 1)]
    sessions = {
        RACE: Measured(samples=calls, unused={1}),
        FINAL: Measured(samples=[Sample("fast", 0, 0, 0, 0, 1, 2**40)]),
    }
    raw.save(sessions, folder.path / "latency.parquet")
    return folder


def test_a_row_holds_the_figures_of_one_variant_raw(run: RunFolder) -> None:
    rows = frame(run.path).set_index("variant")
    fast = rows.loc["fast"]
    assert list(rows.index) == ["baseline", "fast", "broken"]
    assert fast["run"] == run.run_id
    assert (fast["status"], fast["size_bytes"], fast["p50_ms"]) == ("ok", 8_000_000, 5.0)
    assert (fast["top1"], fast["drop"]) == (0.967, 0.003)
    assert fast["drop_ci_low"] < 0 < fast["drop_ci_high"]
    assert fast["speedup"] == pytest.approx(2.0, abs=1e-3)
    assert fast["speedup_ci_low"] < fast["speedup"] < fast["speedup_ci_high"]
    assert (fast["gpu_device_p50_ns"], fast["gpu_memory_bytes"], fast["gpu_joules"]) == (
        4.12e5,
        6.12e8,
        0.0123,
    )
    assert (fast["machine"], fast["cores"], fast["noise_floor"]) == ("Test CPU @ 2.00GHz", 4, 0.02)
    assert fast["created_at"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert list(rows.index[rows["winner"]]) == ["fast"]


def test_what_was_not_measured_is_missing(run: RunFolder) -> None:
    rows = frame(run.path).set_index("variant")
    assert rows.loc["broken", ["size_bytes", "p50_ms", "speedup_ci_low", "opset", "gpu_joules"]].isna().all()
    assert rows.loc["broken", "reason"] == "no room"
    assert rows["reason"].isna().tolist() == [True, True, False]


def test_a_run_saved_by_an_earlier_version_becomes_a_frame() -> None:
    rows = frame(SAVED)
    assert rows["status"].tolist() == ["ok", "ok", "failed", "skipped"]
    assert rows["speedup"].tolist()[:2] == pytest.approx([1.0, 2.075], abs=1e-3)


def test_a_row_of_the_samples_is_one_timed_call(run: RunFolder) -> None:
    calls = samples(run.path)
    assert calls["session"].tolist() == ["race"] * 4 + ["final"]
    assert calls["used"].tolist() == [True, True, False, False, True]
    assert calls["time_ns"].tolist() == [1000, 1001, 1000, 1001, 2**40]
    assert calls.loc[3, ["round", "order", "turn", "place", "call"]].tolist() == [1, 1, 2, 0, 1]


def test_the_columns_have_the_names_and_types_of_their_tables(run: RunFolder) -> None:
    for made, columns in ((frame(run.path), ROW_COLUMNS), (samples(run.path), SAMPLE_COLUMNS)):
        assert {name: str(dtype) for name, dtype in made.dtypes.items()} == {
            column.name: column.dtype for column in columns
        }


def test_every_field_of_a_row_has_a_column_of_its_name() -> None:
    names = [column.name for column in ROW_COLUMNS]
    for field in fields(Row):
        assert [name for name in names if name.startswith(field.name)], field.name


def test_a_run_is_named_by_its_folder_by_its_id_or_is_the_latest(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = RunFolder.create(run.path.parent)
    later.save_info(run_info(run_id=later.run_id))
    later.append(trial("baseline"))
    monkeypatch.chdir(run.path.parents[1])
    for given in (run.path, str(run.path), run.run_id, f"results/{run.run_id}"):
        assert frame(given)["run"].unique().tolist() == [run.run_id]
    assert frame(run.run_id, results=run.path.parent)["run"].unique().tolist() == [run.run_id]
    assert frame()["run"].tolist() == [later.run_id]


def test_what_is_no_run_is_refused_with_what_to_do(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match=r"holds no run\.json"):
        frame(tmp_path)
    with pytest.raises(WorkbenchError, match="has no run `2026`") as caught:
        frame("2026", results=run.path.parent)
    assert caught.value.__notes__ == [f"hint: the latest is `{run.run_id}`"]
    with pytest.raises(WorkbenchError, match="kept no raw samples"):
        samples(SAVED)


def test_a_package_that_is_not_installed_is_named_with_the_extra() -> None:
    require("json", "pandas")
    with pytest.raises(WorkbenchError, match=r"`no_such` is not installed.*krishi-bench\[frames\]"):
        require("json", "no_such")


def table(columns: tuple[Column, ...]) -> str:
    lines = [f"| `{column.name}` | `{column.dtype}` | {column.meaning} |\n" for column in columns]
    return "".join(["| column | type | meaning |\n", "| --- | --- | --- |\n", *lines])


def test_the_page_lists_the_columns_as_they_are() -> None:
    assert f"## Columns of `frame`\n\n{table(ROW_COLUMNS)}" in NOTEBOOK
    assert NOTEBOOK.endswith(f"\n\n{table(SAMPLE_COLUMNS)}")


def test_the_code_of_the_page_runs(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parents[1])
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", NOTEBOOK, re.MULTILINE | re.DOTALL):
        data, drawing, rest = block.partition("import matplotlib")
        exec(data, names)
        if find_spec("matplotlib"):
            exec(drawing + rest, names)
    points, by_round = names["points"], names["by_round"]
    assert isinstance(points, pd.DataFrame)
    assert points["lost"].tolist() == pytest.approx([0.0, 0.3])
    assert isinstance(by_round, pd.Series)
    assert by_round.to_dict() == {("final", "fast", 0): 2**40, ("race", "baseline", 0): 1001}
