"""pytest-benchmark's JSON: timed calls written for its `compare`, and figures read from such a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.report.words import signed
from workbench.results.records import RunInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "5.0.0"  # pytest-benchmark's version whose layout this is
UNPAIRED = "measured by pytest-benchmark, each for itself: not paired with the gate, and no part of it"
COLUMNS = ("median ms", "mean ms", "stddev ms", "rounds")


def render(info: RunInfo, calls: "Mapping[str, NDArray[Any]]", names: Mapping[str, str]) -> bytes:
    """One benchmark a variant, its rounds the hot calls that count, in seconds.

    calls: the columns of `latency.parquet`. names: of the variants to write, and what to call them.
    """
    machine = info.machine
    found = {
        "machine_info": {
            "node": "",
            "processor": machine.cpu,
            "machine": machine.architecture,
            "python_version": machine.python,
            "system": machine.system,
            "cpu": {"brand_raw": machine.cpu, "count": machine.cores},
        },
        "commit_info": {"id": None, "dirty": None, "branch": None},
        "benchmarks": [
            _benchmark(info, name, calls["time_ns"][calls["variant"] == variant] / 1e9)
            for variant, name in names.items()
        ],
        "datetime": info.created_at.isoformat(),
        "version": FORMAT,
    }
    return json.dumps(found, indent=1).encode() + b"\n"


def _benchmark(info: RunInfo, name: str, seconds: "NDArray[np.float64]") -> dict[str, Any]:
    return {
        "group": info.name,
        "name": name,
        "fullname": f"krishi-bench gate::{name}",
        "params": None,
        "param": None,
        "extra_info": {"run": info.run_id},
        "options": {"disable_gc": False, "timer": "perf_counter", "warmup": True},
        "stats": _stats(seconds),
    }


def _stats(seconds: "NDArray[np.float64]") -> dict[str, Any]:
    """pytest-benchmark's own figures; outliers: beyond one standard deviation; 1.5 quartile distances."""
    import numpy as np

    data = np.sort(seconds)
    q1, middle, q3 = (float(q) for q in np.quantile(data, (0.25, 0.5, 0.75)))
    mean, deviation = float(data.mean()), float(data.std(ddof=1)) if len(data) > 1 else 0.0
    within = data[(data >= q1 - 1.5 * (q3 - q1)) & (data <= q3 + 1.5 * (q3 - q1))]
    beyond, outliers = int((abs(data - mean) > deviation).sum()), len(data) - len(within)
    return {
        "min": float(data[0]),
        "max": float(data[-1]),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(data),
        "median": middle,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outliers,
        "stddev_outliers": beyond,
        "outliers": f"{beyond};{outliers}",
        "ld15iqr": float(within[0]),
        "hd15iqr": float(within[-1]),
        "ops": 1 / mean,
        "total": float(data.sum()),
        "iterations": 1,
    }


def table(path: Path) -> str:
    """The benchmarks of a file, below a line that says what they are not. Raises WorkbenchError."""
    try:
        content = json.loads(path.read_bytes())
        found = [(str(each["fullname"]), each["stats"]) for each in content["benchmarks"]]
        rows = [
            [name, *(_ms(s[key]) for key in ("median", "mean", "stddev")), str(s["rounds"])]
            for name, s in found
        ]
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        hint = "make one with `pytest --benchmark-json FILE`"
        raise WorkbenchError(f"{path} is no JSON of pytest-benchmark", hint=hint) from error
    rows.insert(0, ["benchmark", *COLUMNS])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in rows]
    return "\n".join([f"{path}, {UNPAIRED}", *(f"  {line.rstrip()}" for line in lines), ""])


def _ms(seconds: float) -> str:
    return signed(1e3 * float(seconds), 3)
