"""NVIDIA's management library (NVML). It is only read: no clock, power limit or mode is ever set. What it
refuses (an older GPU, MIG, a missing right) is None."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, cast

from workbench.system import nvidia

# Why clocks are below the highest: NVML's name of the bit, and the words of `nvidia-smi -q -d PERFORMANCE`.
IDLE = "GpuIdle"
REASONS = {
    "ApplicationsClocksSetting": "Applications Clocks Setting",
    "SwPowerCap": "SW Power Cap",
    "HwSlowdown": "HW Slowdown",
    "SyncBoost": "Sync Boost",
    "SwThermalSlowdown": "SW Thermal Slowdown",
    "HwThermalSlowdown": "HW Thermal Slowdown",
    "HwPowerBrakeSlowdown": "HW Power Brake Slowdown",
    "DisplayClockSetting": "Display Clock Setting",
    "BoardLimit": "Board Limit",
    "Reliability": "Reliability",
}


class Reader:
    """One GPU's readings. nvml: `pynvml`, or a stand-in. None wherever NVML does not tell."""

    def __init__(self, nvml: Any, handle: object) -> None:
        self._nvml = nvml
        self._handle = handle

    def ask(self, function: str, *arguments: object) -> Any:
        """The answer of `nvml<function>(handle, ...)`; older bindings and drivers lack some."""
        known = getattr(self._nvml, f"nvml{function}", None)
        if known is None:
            return None
        try:
            return known(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def clock_mhz(self, which: Literal["SM", "MEM"]) -> int | None:
        kind = getattr(self._nvml, f"NVML_CLOCK_{which}")
        return cast("int | None", self.ask("DeviceGetClockInfo", kind))

    def celsius(self) -> int | None:
        return cast("int | None", self.ask("DeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU))

    def watts(self, function: str = "DeviceGetPowerUsage") -> float | None:
        milliwatts = self.ask(function)
        return None if milliwatts is None else milliwatts / 1e3

    def millijoules(self) -> int | None:
        """Spent since the driver was loaded, by the whole GPU; GPUs before Volta do not count."""
        return cast("int | None", self.ask("DeviceGetTotalEnergyConsumption"))

    def reasons(self) -> tuple[str, ...] | None:
        """Why clocks are lowered now, idling aside; None where NVML does not tell."""
        if (bits := self.ask("DeviceGetCurrentClocksEventReasons")) is None:  # its name from driver 535 on
            bits = self.ask("DeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else decoded(self._nvml, bits)

    def processes(self) -> dict[int, int | None] | None:
        """Bytes of the GPU's memory that each process with a CUDA context holds, by process id."""
        found = self.ask("DeviceGetComputeRunningProcesses")
        return None if found is None else {process.pid: process.usedGpuMemory for process in found}

    def computing(self, since_us: int) -> dict[int, int]:
        """Per cent of the time that processes computed on the GPU lately; empty where NVML does not tell."""
        samples = self.ask("DeviceGetProcessUtilization", since_us) or []
        busiest: dict[int, int] = {}
        for sample in samples:
            busiest[sample.pid] = max(busiest.get(sample.pid, 0), sample.smUtil)
        return busiest

    def used_bytes(self) -> int | None:
        memory = self.ask("DeviceGetMemoryInfo")
        return None if memory is None else int(memory.used)

    def memory_of(self, pid: int, before_bytes: int | None) -> tuple[int | None, bool]:
        """Bytes of the GPU that a process holds, and whether that is only what the whole GPU's use grew by.

        before_bytes: `used_bytes` before the process opened the GPU.
        """
        if (held := (self.processes() or {}).get(pid)) is not None:
            return held, False
        # In a container NVML counts processes by the host's numbers, if at all.
        now = self.used_bytes()
        return (None, False) if now is None or before_bytes is None else (max(0, now - before_bytes), True)

    def name(self) -> str:
        return _text(self.ask("DeviceGetName"))

    def driver(self) -> str:
        try:
            return _text(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return _text(None)


def decoded(nvml: Any, bits: int) -> tuple[str, ...]:
    """The reasons in a bit mask, by the names this NVML has for them; bits of later drivers by number."""
    known: dict[int | None, str] = {}
    for name, words in {IDLE: IDLE, **REASONS}.items():
        older = getattr(nvml, f"nvmlClocksThrottleReason{name}", None)
        known[getattr(nvml, f"nvmlClocksEventReason{name}", older)] = words
    found = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return tuple(known.get(bit, f"reason {bit:#x}") for bit in found if known.get(bit) != IDLE)


def _text(value: str | bytes | None) -> str:
    """Older bindings give bytes."""
    return "unknown" if value is None else value if isinstance(value, str) else value.decode(errors="replace")


@contextmanager
def opened_nvml(nvml: Any = None) -> Iterator[Any | None]:
    """`pynvml`, or `nvml` in its place, started; None where it is not installed or does not start."""
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            yield None
            return
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield None
        return
    try:
        yield nvml
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


@contextmanager
def opened_gpu(nvml: Any = None) -> Iterator[Reader | None]:
    """The GPU that CUDA uses; None where NVML cannot be read. nvml: `pynvml` unless given."""
    found = nvidia.gpu()
    address = found.address if isinstance(found, nvidia.Gpu) else None
    with opened_nvml(nvml) as lib:
        gpu = None
        if lib is not None:
            with suppress(lib.NVMLError):
                find = lib.nvmlDeviceGetHandleByPciBusId if address else lib.nvmlDeviceGetHandleByIndex
                gpu = Reader(lib, find(address or 0))
        yield gpu


@contextmanager
def opened_gpus(nvml: Any = None) -> Iterator[tuple[Reader, ...]]:
    """All GPUs, in NVML's order; none where it cannot be read. nvml: `pynvml` unless given."""
    with opened_nvml(nvml) as binding:
        gpus: tuple[Reader, ...] = ()
        if binding is not None:
            with suppress(binding.NVMLError):
                handles = map(binding.nvmlDeviceGetHandleByIndex, range(binding.nvmlDeviceGetCount()))
                gpus = tuple(Reader(binding, handle) for handle in handles)
        yield gpus
