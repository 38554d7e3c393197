"""What a report says of the GPU, where a variant was measured on one; nothing where none was."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.measure.records import GpuConditions, GpuState
from workbench.report import cells
from workbench.results.records import RunInfo
from workbench.results.verdict import Comparison, Row

HEADINGS = ("", "variant", "p50 ms", "without copies", "GPU MB", "J/photo")
GROWN = "* what the memory in use on the whole GPU grew by: NVML did not tell it by process"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table under the main one; its second column names the variant."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str | None = None


def grids(comparison: Comparison) -> list[Grid]:
    rows = [row for row in cells.measured(comparison.rows) if row.gpu is not None]
    return [grid for grid in (_use(comparison.info, rows), _throughput(rows)) if grid.rows]


def _use(info: RunInfo, rows: Sequence[Row]) -> Grid:
    grown = any(row.gpu and row.gpu.whole_gpu for row in rows)
    return Grid(
        title="On the GPU, one photo a call; energy of the whole GPU, at the largest batch",
        headings=HEADINGS,
        rows=tuple(_use_cells(info, row) for row in rows),
        note=GROWN if grown else None,
    )


def _use_cells(info: RunInfo, row: Row) -> tuple[str, ...]:
    use, runtime = row.gpu, info.runtimes.get(row.variant)
    assert use is not None
    single = runtime is None or runtime.batch == 1
    held = cells.ABSENT if use.memory_bytes is None else f"{use.memory_bytes / 1e6:.0f}"
    return (
        cells.mark(row),
        row.variant,
        cells.milliseconds(row.p50_ms if single else None),
        cells.milliseconds(None if use.device_p50_ns is None else use.device_p50_ns / 1e6),
        f"{held}*" if use.whole_gpu else held,
        cells.ABSENT if use.joules is None else f"{use.joules:.3g}",
    )


def _throughput(rows: Sequence[Row]) -> Grid:
    """Two lines a variant, a column for each batch size that any of them was measured at."""
    sizes = sorted({speed.batch for row in rows if row.gpu for speed in row.gpu.throughput})
    lines = []
    for row in rows:
        assert row.gpu is not None
        speeds = {speed.batch: speed for speed in row.gpu.throughput}
        if not speeds:
            continue
        with_copies = [speeds[size].with_copies if size in speeds else None for size in sizes]
        on_device = [speeds[size].on_device if size in speeds else None for size in sizes]
        lines.append((cells.mark(row), row.variant, "with", *map(_photos, with_copies)))
        if any(speed is not None for speed in on_device):
            lines.append(("", row.variant, "without", *map(_photos, on_device)))
    return Grid(
        title="Photos a second by photos a call, with the copies to and from the GPU and without",
        headings=("", "variant", "copies", *map(str, sizes)),
        rows=tuple(lines),
    )


def _photos(speed: float | None) -> str:
    return cells.ABSENT if speed is None else f"{speed:.1f}" if speed < 100 else f"{speed:.0f}"


def machine_line(info: RunInfo) -> str | None:
    """The GPU, and what NVML said of it while it was timed on; None where none was."""
    gpu = info.conditions.gpu if info.conditions else None
    states = [environment.gpu for environment in info.environments if environment.gpu is not None]
    if gpu is None:
        # Of a GPU that was measured on and that NVML says nothing of, nothing is claimed either.
        return (
            "the GPU's clocks, heat and other processes are unknown: NVML does not tell" if states else None
        )
    return f"{_made(gpu)}; {_seen(states)}"


def _made(gpu: GpuConditions) -> str:
    power = "power limit unknown" if gpu.power_limit_w is None else f"power limit {gpu.power_limit_w:.0f} W"
    lowered = (
        gpu.power_limit_w is not None
        and gpu.default_power_w is not None
        and gpu.power_limit_w < gpu.default_power_w
    )
    made_for = f" (lowered from {gpu.default_power_w:.0f})" if lowered else ""
    return f"{gpu.name}, driver {gpu.driver}, {power}{made_for}{', in MIG mode' if gpu.mig else ''}"


def _seen(states: Sequence[GpuState]) -> str:
    clocks = [clock for state in states if state.sm_mhz for clock in state.sm_mhz]
    heat = [state.celsius for state in states if state.celsius is not None]
    told = [state.throttled for state in states if state.throttled is not None]
    slowed = list(dict.fromkeys(reason for reasons in told for reason in reasons))
    others = [state.others for state in states if state.others is not None]
    parts = [
        f"SM clock {min(clocks)} to {max(clocks)} MHz" if clocks else "clocks unknown",
        f"at most {max(heat)} °C" if heat else "temperature unknown",
        f"slowed by {', '.join(slowed)}" if slowed else "not slowed down" if told else "slowing unknown",
        f"{max(others)} other processes on it" if others else "other processes unknown",
    ]
    return ", ".join(part for part in parts if part)
