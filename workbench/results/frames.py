"""Runs as pandas DataFrames. The tables of columns here are those of docs/notebook.md."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.measure import samples as raw
from workbench.results.folder import RunFolder, find_run
from workbench.results.history import compare_folder
from workbench.results.verdict import Comparison, Row
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Column:
    """dtype: of pandas. meaning: with the unit."""

    name: str
    dtype: str
    meaning: str


TEXT, COUNT, FRACTION, FLAG = "string", "Int64", "float64", "bool"
ROW_COLUMNS = (
    Column("run", TEXT, "run id"),
    Column("variant", TEXT, "name"),
    Column("recipe", TEXT, "the recipe it comes from"),
    Column("status", TEXT, "`ok`, `failed`, `skipped` or `pruned`"),
    Column("reason", TEXT, "why it did not end `ok`"),
    Column("backend", TEXT, "the runtime"),
    Column("device", TEXT, "`cpu` or `cuda`"),
    Column("opset", COUNT, "of the ONNX file"),
    Column("digest", TEXT, "sha256 of what is built and how it runs"),
    Column("size_bytes", COUNT, "bytes of all its files"),
    Column("top1", FRACTION, "top-1 accuracy on the selection photos, a fraction of 1"),
    Column("drop", FRACTION, "top-1 lost against the baseline on the same photos, a fraction of 1"),
    Column("drop_ci_low", FRACTION, "lower end of the drop's two-sided 95 % interval"),
    Column("drop_ci_high", FRACTION, "upper end of it"),
    Column("p50_ms", FRACTION, "median of one hot call, milliseconds"),
    Column("p90_ms", FRACTION, "90th percentile, milliseconds"),
    Column("p95_ms", FRACTION, "95th percentile, milliseconds"),
    Column("p99_ms", FRACTION, "99th percentile, milliseconds"),
    Column("speedup", FRACTION, "baseline time over variant time"),
    Column("speedup_ci_low", FRACTION, "lower end of the speed-up's 95 % interval over launches"),
    Column("speedup_ci_high", FRACTION, "upper end of it"),
    Column("throughput_ips", FRACTION, "photos a second of one session, one after the other"),
    Column("load_ms", FRACTION, "from the file to a session that can be called, milliseconds"),
    Column("peak_memory_bytes", COUNT, "bytes above a process with no runtime in it"),
    Column("pareto", FLAG, "on the front of accuracy, speed and size"),
    Column("winner", FLAG, "chosen under the budget"),
    Column("crop", COUNT, "pixels of the input's side, where it is not the workspace's"),
    Column("precision", TEXT, "the narrowest type the weights are stored in"),
    Column("computes", TEXT, "the precision of nine tenths of the multiply-accumulates (MACs), else `mixed`"),
    Column("int8_share", FRACTION, "fraction of the MACs in INT8"),
    Column("half_share", FRACTION, "fraction of the MACs in FP16 and BF16"),
    Column("fp32_share", FRACTION, "fraction of the MACs in FP32"),
    Column("casts", COUNT, "nodes that only change the number format"),
    Column("unfused_qdq", COUNT, "quantise and dequantise nodes that run on their own"),
    Column("audit", TEXT, "what ran, in one sentence"),
    Column("validated", TEXT, "kinds of processor on which its INT8 arithmetic is exact"),
    Column("gpu_device_p50_ns", FRACTION, "median of one call without the copies, nanoseconds"),
    Column("gpu_memory_bytes", COUNT, "bytes of GPU memory held"),
    Column("gpu_joules", FRACTION, "joules a photo, of the whole GPU, at the largest batch"),
    Column("created_at", "datetime64[ns, UTC]", "when the run began"),
    Column("machine", TEXT, "the processor"),
    Column("cores", COUNT, "its cores"),
    Column("noise_floor", FRACTION, "what two copies of the baseline differed by, a fraction of 1"),
)
SAMPLE_COLUMNS = (
    Column("session", "category", "`race`, or `final` for the fresh rounds of the finalists"),
    Column("variant", "category", "name; `baseline (again)` is the baseline's second copy"),
    Column("round", "int64", "of fresh launches, from 0"),
    Column("order", "int64", "position among the launches of the round"),
    Column("turn", "int64", "within the round"),
    Column("place", "int64", "position within the turn"),
    Column("call", "int64", "within the burst; call 0 is cold, the others are hot"),
    Column("time_ns", "int64", "wall time of the call, nanoseconds"),
    Column("used", FLAG, "false in rounds that were repeated because the machine was disturbed"),
)
GPU_FIGURES = ("device_p50_ns", "memory_bytes", "joules")  # of `gpu`, which holds tables too


def frame(run: Path | str | None, results: Path | str) -> "pd.DataFrame":
    return comparison_frame([compare_folder(_folder(run, results))])


def samples(run: Path | str | None, results: Path | str) -> "pd.DataFrame":
    require("pandas")
    table = raw.read(_folder(run, results).path / "latency.parquet")
    names = [column.name for column in SAMPLE_COLUMNS]
    found: pd.DataFrame = table.select(names).to_pandas()
    return found.astype({column.name: column.dtype for column in SAMPLE_COLUMNS})


def comparison_frame(comparisons: Sequence[Comparison]) -> "pd.DataFrame":
    """The rows of all comparisons, one after the other."""
    require("pandas")
    import pandas as pd

    records = [_record(comparison, row) for comparison in comparisons for row in comparison.rows]
    return pd.DataFrame(
        {
            column.name: pd.Series([record[column.name] for record in records], dtype=column.dtype)
            for column in ROW_COLUMNS
        }
    )


def _record(comparison: Comparison, row: Row) -> dict[str, object]:
    info = comparison.info
    record: dict[str, object] = {
        "run": info.run_id,
        "created_at": info.created_at,
        "machine": info.machine.cpu,
        "cores": info.machine.cores,
        "noise_floor": info.noise_floor,
    }
    for name in (field.name for field in fields(Row)):
        value = getattr(row, name)
        if name == "gpu":
            record |= {f"gpu_{figure}": value and getattr(value, figure) for figure in GPU_FIGURES}
        elif name.endswith("_ci"):
            record[f"{name}_low"], record[f"{name}_high"] = value or (None, None)
        else:
            record[name] = value
    return record


def require(*modules: str) -> None:
    """Raise WorkbenchError for the first module that is not installed."""
    for module in modules:
        if (missing := missing_package(module, extra="frames")) is not None:
            raise WorkbenchError(missing)


def _folder(run: Path | str | None, results: Path | str) -> RunFolder:
    if run is not None and (Path(run) / "run.json").is_file():
        return RunFolder(Path(run))
    if run is not None and len(Path(run).parts) != 1:
        raise WorkbenchError(f"{run} is not the folder of a run: it holds no run.json")
    return find_run(Path(results).absolute(), None if run is None else str(run))
