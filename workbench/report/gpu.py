"""What a report says of the GPU, where a variant was measured on one; nothing where none was."""

from collections.abc import Sequence

from workbench.measure.records import GpuConditions, GpuState, GpuUse
from workbench.report.cells import ABSENT, Grid, mark, rounded, whole
from workbench.results.records import RunInfo
from workbench.results.verdict import Row

GROWN = "* growth of the memory in use on the whole GPU: NVML gave no figures by process"


def grids(info: RunInfo, rows: Sequence[Row]) -> list[Grid]:
    used = [(row, row.gpu) for row in rows if row.gpu is not None]
    return [grid for grid in (_use(info, used), _throughput(used)) if grid.rows]


def _use(info: RunInfo, used: Sequence[tuple[Row, GpuUse]]) -> Grid:
    return Grid(
        title="On the GPU, one photo a call; energy of the whole GPU, at the largest batch",
        headings=("", "variant", "p50 ms", "without copies", "GPU MB", "J/photo"),
        rows=tuple(_use_cells(info, row, use) for row, use in used),
        note=GROWN if any(use.whole_gpu for _, use in used) else "",
    )


def _use_cells(info: RunInfo, row: Row, use: GpuUse) -> tuple[str, ...]:
    runtime = info.runtimes.get(row.variant)
    return (
        mark(row),
        row.variant,
        rounded(row.p50_ms if runtime is None or runtime.batch == 1 else None),
        rounded(use.device_p50_ns, 1e6),
        whole(use.memory_bytes, 1e6) + ("*" if use.whole_gpu else ""),
        ABSENT if use.joules is None else f"{use.joules:.3g}",
    )


def _throughput(used: Sequence[tuple[Row, GpuUse]]) -> Grid:
    """Two lines a variant, a column for each batch size that any of them was measured at."""
    sizes = sorted({speed.batch for _, use in used for speed in use.throughput})
    lines = []
    for row, use in used:
        with_copies = {speed.batch: speed.with_copies for speed in use.throughput}
        on_device = {speed.batch: speed.on_device for speed in use.throughput if speed.on_device is not None}
        for begin, copies, speeds in ((mark(row), "with", with_copies), ("", "without", on_device)):
            if speeds:
                lines.append((begin, row.variant, copies, *(_photos(speeds.get(size)) for size in sizes)))
    return Grid(
        title="Photos a second by photos a call, with the copies to and from the GPU and without",
        headings=("", "variant", "copies", *map(str, sizes)),
        rows=tuple(lines),
    )


def _photos(speed: float | None) -> str:
    return ABSENT if speed is None else f"{speed:.1f}" if speed < 100 else f"{speed:.0f}"


def machine_line(info: RunInfo) -> str | None:
    """The GPU, and what NVML reported of it while it was timed; None where none was."""
    states = [environment.gpu for environment in info.environments if environment.gpu is not None]
    if info.conditions and (gpu := info.conditions.gpu) is not None:
        return f"{_model(gpu)}; {_state(states)}"
    # Of a GPU that NVML reports nothing of, nothing is claimed either.
    return "the GPU's clocks, heat and other processes are unknown: NVML gives none" if states else None


def _model(gpu: GpuConditions) -> str:
    power, default = gpu.power_limit_w, gpu.default_power_w
    limit = "unknown" if power is None else f"{power:.0f} W"
    if power is not None and default is not None and power < default:
        limit += f" (lowered from {default:.0f})"
    return f"{gpu.name}, driver {gpu.driver}, power limit {limit}{', in MIG mode' if gpu.mig else ''}"


def _state(states: Sequence[GpuState]) -> str:
    clocks = [clock for state in states if state.sm_mhz for clock in state.sm_mhz]
    heat = [state.celsius for state in states if state.celsius is not None]
    throttled = [state.throttled for state in states if state.throttled is not None]
    causes = list(dict.fromkeys(cause for found in throttled for cause in found))
    others = [state.others for state in states if state.others is not None]
    slowed = (
        f"slowed by {', '.join(causes)}" if causes else "not slowed down" if throttled else "slowing unknown"
    )
    parts = [
        f"SM clock {min(clocks)} to {max(clocks)} MHz" if clocks else "clocks unknown",
        f"at most {max(heat)} °C" if heat else "temperature unknown",
        slowed,
        f"{max(others)} other processes on it" if others else "other processes unknown",
    ]
    return ", ".join(parts)
