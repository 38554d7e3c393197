"""Raw samples on disk: every latency figure can be computed again from `latency.parquet`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.measure.latency import Measured, Sample
from workbench.system.files import new_file
from workbench.system.packages import missing_package

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

FIELDS = tuple(Sample.__dataclass_fields__)


def save(sessions: Mapping[str, Measured], path: Path) -> None:
    """Every sample of every session, times in nanoseconds; `used` is false for rounds that were repeated."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(name, measured, sample) for name, measured in sessions.items() for sample in measured.samples]
    columns: dict[str, list[object]] = {"session": [name for name, _, _ in rows]}
    for field in FIELDS:
        columns[field] = [getattr(sample, field) for _, _, sample in rows]
    columns["used"] = [sample.round not in measured.unused for _, measured, sample in rows]
    with new_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def load(path: Path, batch_sizes: Mapping[str, int]) -> dict[str, Measured]:
    """The sessions as they were saved; raises WorkbenchError where the file cannot be read."""
    sessions: dict[str, Measured] = {}
    for row in read(path).to_pylist():
        measured = sessions.setdefault(row["session"], Measured(batch_sizes))
        measured.samples.append(Sample(*(row[field] for field in FIELDS)))
        if not row["used"]:
            measured.unused.add(row["round"])
    return sessions


def hot_calls(path: Path) -> "dict[str, NDArray[Any]]":
    """The columns of the used rounds' hot calls, as `pairs.turns_of` takes them; raises as `read` does."""
    import numpy as np
    import pyarrow.compute as pc

    table = read(path)
    table = table.filter(pc.and_(table["used"], pc.greater(table["call"], 0)))
    found = {}
    for name in table.column_names:
        column = table[name].combine_chunks().dictionary_encode()
        values = np.asarray(column.dictionary.to_pylist() or [0])
        found[name] = values[column.indices.to_numpy()]
    return found


def read(path: Path) -> "pa.Table":
    """One row a timed call; raises WorkbenchError where the file cannot be read."""
    if (missing := missing_package("pyarrow")) is not None:
        raise WorkbenchError(missing)
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise WorkbenchError(f"{path} is not there: this run kept no raw samples", hint="run it again")
    wanted = ["session", *FIELDS, "used"]
    try:
        table = pq.read_table(path)
        if "heat" not in table.column_names:  # older runs: every round was one heat
            table = table.append_column("heat", pa.array([0] * len(table), pa.int64()))
        return table.select(wanted)
    except KeyError as error:
        raise WorkbenchError(f"{path} cannot be read: {error}", hint="run it again") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise WorkbenchError(f"{path} cannot be read: {error}", hint="run it again") from error
