"""Runs as pandas DataFrames. The tables of columns here are those of docs/notebook.md."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_type_hints

from workbench.errors import WorkbenchError
from workbench.measure import samples as raw
from workbench.results.folder import RunFolder, find_run
from workbench.results.history import compare_folder
from workbench.results.verdict import Comparison, Row
from workbench.system.packages import require

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Column:
    """dtype: of pandas. meaning: with the unit."""

    name: str
    dtype: str
    meaning: str


TEXT, COUNT, FRACTION, FLAG = "string", "Int64", "float64", "bool"
DTYPES = {int: COUNT, float: FRACTION, bool: FLAG}


def _row_columns() -> Iterator[Column]:
    """A column for each field of a row, for an interval two; `gpu` has columns of its own."""
    for name, hint in get_type_hints(Row, include_extras=True).items():
        kind, meaning = get_args(hint)
        if name.endswith("_ci"):
            yield Column(f"{name}_low", FRACTION, f"lower end of {meaning}")
            yield Column(f"{name}_high", FRACTION, "upper end of it")
        elif name != "gpu":
            yield Column(
                name, next((DTYPES[t] for t in (kind, *get_args(kind)) if t in DTYPES), TEXT), meaning
            )


ROW_COLUMNS = (
    Column("run", TEXT, "run id"),
    *_row_columns(),
    Column("gpu_device_p50_ns", FRACTION, "median of one call without the copies, nanoseconds"),
    Column("gpu_memory_bytes", COUNT, "bytes of GPU memory held"),
    Column("gpu_joules", FRACTION, "joules a photo, of the whole GPU, at the largest batch"),
    Column("created_at", "datetime64[ns, UTC]", "when the run began"),
    Column("machine", TEXT, "the processor"),
    Column("cores", COUNT, "its cores"),
    Column("noise_floor", FRACTION, "what two copies of the baseline differed by, a fraction of 1"),
)
SAMPLE_COLUMNS = (
    Column("session", "category", "`race`, or `final` for the rounds of the finalists"),
    Column("variant", "category", "name; `baseline (again)` is the baseline's second copy"),
    Column("round", "int64", "of fresh launches, from 0"),
    Column("order", "int64", "position among the launches of the round"),
    Column("heat", "int64", "launches of the round that were open together, from 0"),
    Column("turn", "int64", "within the heat"),
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
    table = pd.DataFrame(records, columns=[column.name for column in ROW_COLUMNS], dtype=object)
    return table.astype({column.name: column.dtype for column in ROW_COLUMNS})


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


def _folder(run: Path | str | None, results: Path | str) -> RunFolder:
    if run is not None and (Path(run) / "run.json").is_file():
        return RunFolder(Path(run))
    if run is not None and len(Path(run).parts) != 1:
        raise WorkbenchError(f"{run} is not the folder of a run: it holds no run.json")
    return find_run(Path(results).absolute(), None if run is None else str(run))
