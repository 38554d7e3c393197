"""What NVML says of a GPU, from a stand-in for it: no GPU is needed to know what we make of its answers."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.measure.gpu.watch import GpuWatch, Watched, gpu_conditions
from workbench.measure.host_watch import HostWatch, conditions
from workbench.measure.records import GpuState
from workbench.system import nvidia
from workbench.system.machine import available_cpus
from workbench.system.nvml import Reader, decoded, opened_gpu

OURS, FOREIGN = 4242, 31337
IDLE, SETTING, POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, BRAKE = 1, 2, 4, 8, 32, 64, 128


class Refused(Exception):
    """NVML's error of a reading that it does not give."""


class Nvml:
    """A `pynvml` with one GPU. Whatever would change a setting fails the test.

    readings: by the end of a function's name; a list is given out one by one, its last for ever after.
    """

    NVMLError = Refused
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, names: str = "nvmlClocksEventReason", **readings: Any) -> None:
        for bit, name in (
            (IDLE, "GpuIdle"), (SETTING, "ApplicationsClocksSetting"), (POWER_CAP, "SwPowerCap"),
            (HW_SLOWDOWN, "HwSlowdown"), (SW_THERMAL, "SwThermalSlowdown"), (HW_THERMAL, "HwThermalSlowdown"),
            (BRAKE, "HwPowerBrakeSlowdown"),
        ):  # fmt: skip
            setattr(self, names + name, bit)
        self.readings = readings
        self.open, self.asked = 0, [""]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml") or name.startswith("nvmlClocks"):
            raise AttributeError(name)
        if "Set" in name or "Reset" in name:
            pytest.fail(f"{name} changes the GPU")
        return lambda *arguments: self.answer(name, *arguments)

    def answer(self, name: str, *arguments: object) -> Any:
        self.asked.append(name)
        if name in ("nvmlInit", "nvmlShutdown"):
            self.open += 1 if name == "nvmlInit" else -1
            return None
        if name.startswith("nvmlDeviceGetHandle"):
            return "the GPU"
        assert self.open > 0, f"{name} before nvmlInit"
        key = name.removeprefix("nvmlDeviceGet").removeprefix("nvmlSystemGet")
        if key.endswith("ClockInfo"):
            key += "SM" if arguments[1] == 1 else "MEM"
        if key not in self.readings:
            raise Refused(f"{name}: Not Supported")
        value = self.readings[key]
        if isinstance(value, list):
            return value.pop(0) if len(value) > 1 else value[0]
        return value


def processes(*pids: int, memory: int | None = 2**28) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid in pids]


def healthy(**changed: Any) -> Nvml:
    return Nvml(
        **{
            "Name": "NVIDIA Test", "DriverVersion": "580.1", "ClockInfoSM": 1980, "ClockInfoMEM": 2619,
            "Temperature": 40, "PowerUsage": 250_000,
            "CurrentClocksEventReasons": 0, "ComputeRunningProcesses": [processes(OURS)],
            "MemoryInfo": SimpleNamespace(used=2**30, total=2**37), "PowerManagementLimit": 500_000,
            "PowerManagementDefaultLimit": 700_000, "MigMode": (0, 0),
            "TotalEnergyConsumption": 1000,
            **changed,
        }
    )  # fmt: skip


def watched(nvml: Nvml) -> Watched:
    """One stretch, long enough for two readings."""
    watch = GpuWatch(nvml=nvml, interval_s=0.0, ours=lambda: {OURS})
    watch.begin()
    return watch.end()


def test_a_gpu_that_runs_as_it_should_is_described_and_disturbs_nothing() -> None:
    nvml = healthy()
    assert watched(nvml) == Watched(
        GpuState(
            sm_mhz=(1980, 1980), memory_mhz=(2619, 2619), celsius=40, watts=250.0, throttled=(), others=0
        ),
        (),
    )
    assert nvml.open == 0, "every nvmlInit has its nvmlShutdown"


def test_the_state_spans_all_readings() -> None:
    state = watched(
        healthy(ClockInfoSM=[345, 1980], Temperature=[61, 40], PowerUsage=[100_000, 300_000])
    ).state
    assert (state.sm_mhz, state.celsius) == ((345, 1980), 61)
    assert state.watts is not None and 100 < state.watts < 300


@pytest.mark.parametrize(
    ("bits", "throttled", "disturbs"),
    [
        (IDLE, (), False),
        (SETTING, ("Applications Clocks Setting",), False),
        (POWER_CAP, ("SW Power Cap",), False),
        (HW_SLOWDOWN | BRAKE, ("HW Slowdown", "HW Power Brake Slowdown"), True),
        (SW_THERMAL, ("SW Thermal Slowdown",), True),
        (HW_THERMAL | IDLE, ("HW Thermal Slowdown",), True),
        (1 << 20, ("reason 0x100000",), False),
    ],
)
def test_heat_and_the_power_supply_disturb_and_what_lasts_does_not(
    bits: int, throttled: tuple[str, ...], disturbs: bool
) -> None:
    got = watched(healthy(CurrentClocksEventReasons=[bits, 0]))
    assert got.state.throttled == throttled
    assert bool(got.causes) == disturbs
    if disturbs:
        assert got.causes == (f"the GPU was slowed down ({', '.join(throttled)})",)


def test_drivers_and_bindings_from_before_the_reasons_were_renamed_are_read_too() -> None:
    old = Nvml("nvmlClocksThrottleReason", CurrentClocksThrottleReasons=HW_THERMAL)
    assert watched(old).state.throttled == ("HW Thermal Slowdown",)


def test_the_reasons_have_the_names_of_the_real_bindings() -> None:
    pynvml = pytest.importorskip("pynvml")
    everything = decoded(pynvml, pynvml.nvmlClocksEventReasonAll)
    assert len(everything) == 8
    assert {"SW Power Cap", "HW Thermal Slowdown", "HW Power Brake Slowdown"} <= set(everything)


def test_a_foreign_process_is_counted_and_disturbs() -> None:
    got = watched(healthy(ComputeRunningProcesses=[processes(OURS), processes(OURS, FOREIGN)]))
    assert (got.state.others, got.causes) == (1, ("another process used the GPU",))


@pytest.mark.parametrize(("load", "disturbs"), [(0, False), (30, True)])
def test_a_foreign_process_that_only_holds_memory_is_no_disturbance(load: int, disturbs: bool) -> None:
    computing = [[SimpleNamespace(pid=OURS, smUtil=60), SimpleNamespace(pid=FOREIGN, smUtil=load)]]
    got = watched(healthy(ComputeRunningProcesses=[processes(OURS, FOREIGN)], ProcessUtilization=computing))
    assert (got.state.others, bool(got.causes)) == (1, disturbs)


@pytest.mark.parametrize("pids", [(), (FOREIGN,), (FOREIGN, FOREIGN + 1)])
def test_in_a_container_nobody_knows_whose_the_processes_are(pids: tuple[int, ...]) -> None:
    got = watched(healthy(ComputeRunningProcesses=[processes(*pids)]))
    assert (got.state.others, got.causes) == (None, ())


def test_what_nvml_refuses_is_unknown_and_breaks_nothing() -> None:
    """As on a MIG slice without rights, or on an old GPU."""
    nothing = GpuState(sm_mhz=None, memory_mhz=None, celsius=None, watts=None, throttled=None, others=None)
    assert watched(Nvml()) == Watched(nothing, ())
    got = gpu_conditions(Nvml())
    assert got is not None
    assert got.model_dump() == {
        **dict.fromkeys(type(got).model_fields),
        "name": "unknown",
        "driver": "unknown",
    }


def test_nvml_that_does_not_start_or_has_no_such_gpu_tells_nothing() -> None:
    class Absent(Nvml):
        def answer(self, name: str, *arguments: object) -> Any:
            raise Refused(f"{name}{arguments}: Driver Not Loaded")

    class NoSuchGpu(Nvml):
        def answer(self, name: str, *arguments: object) -> Any:
            if name.startswith("nvmlDeviceGetHandle"):
                raise Refused("Not Found")
            return super().answer(name, *arguments)

    for nvml in (Absent(), NoSuchGpu()):
        assert gpu_conditions(nvml) is None
        assert watched(nvml).state.sm_mhz is None
        assert nvml.open == 0


def test_the_conditions_are_those_of_the_gpu_in_watts() -> None:
    got = gpu_conditions(healthy(MigMode=(1, 1), Name=b"NVIDIA Test"))
    assert got is not None
    assert (got.name, got.driver, got.memory_bytes) == ("NVIDIA Test", "580.1", 2**37)
    assert (got.power_limit_w, got.default_power_w, got.mig) == (500.0, 700.0, True)
    assert conditions(gpu=got).gpu == got


def test_the_gpu_that_cuda_shows_first_is_the_one_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, shown = healthy(), nvidia.Gpu("NVIDIA Test", "9.0", "13.0", address="00000000:3B:00.0")
    monkeypatch.setattr(nvidia, "gpu", lambda: shown)
    with opened_gpu(nvml) as gpu:
        assert gpu is not None
    assert "nvmlDeviceGetHandleByPciBusId" in nvml.asked
    assert "nvmlDeviceGetHandleByIndex" not in nvml.asked


def reader(**readings: Any) -> Reader:
    nvml = healthy(**readings)
    nvml.open = 1
    return Reader(nvml, "the GPU")


def test_memory_is_the_processs_own_where_nvml_tells_and_else_what_the_gpu_grew_by() -> None:
    used = SimpleNamespace(used=5 * 2**28, total=2**37)
    assert reader().memory_of(OURS, 2**28) == (2**28, False)
    assert reader(ComputeRunningProcesses=[processes(FOREIGN)], MemoryInfo=used).memory_of(OURS, 2**28) == (
        2**30, True,
    )  # fmt: skip
    # Windows lists the process and not its memory.
    listed = [processes(OURS, memory=None)]
    assert reader(ComputeRunningProcesses=listed, MemoryInfo=used).memory_of(OURS, 2**28) == (2**30, True)
    assert reader(ComputeRunningProcesses=listed).memory_of(OURS, None) == (None, False)
    assert reader(ComputeRunningProcesses=listed, MemoryInfo=used).memory_of(OURS, 2**34) == (0, True)


def test_the_machine_is_disturbed_where_its_gpu_is(tmp_path: Path) -> None:
    gpu = GpuWatch(nvml=healthy(CurrentClocksEventReasons=HW_THERMAL), interval_s=0.0, ours=lambda: {OURS})
    watch = HostWatch(available_cpus()[-1:], proc=tmp_path, clock=ticking(), gpu=gpu)
    watch.begin()
    got = watch.end()
    assert got.disturbed == "the GPU was slowed down (HW Thermal Slowdown)"
    assert got.gpu is not None and got.gpu.throttled == ("HW Thermal Slowdown",)


def test_without_a_gpu_variant_nvml_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> None:
        pytest.fail("NVML was opened")

    monkeypatch.setattr("workbench.measure.gpu.watch.opened_gpu", touched)
    watch = HostWatch(available_cpus()[-1:], proc=tmp_path)
    before = threading.active_count()
    watch.begin()
    assert threading.active_count() == before
    assert watch.end().gpu is None
    assert conditions(sys=tmp_path).gpu is None


def ticking() -> Callable[[], float]:
    """A clock of even steps: the fixed loop always takes the same."""
    times: Iterator[float] = iter(range(10**6))
    return lambda: next(times)
