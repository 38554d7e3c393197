"""What a worker measures of a GPU variant, by a stand-in for the runtime: questions and arithmetic."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import workbench.run.time_variants
from workbench.backends import (
    BACKENDS,
    Engine,
    NullRuntime,
    OnDevice,
    OrtRuntime,
    Runtime,
    Session,
    TensorrtRuntime,
    TorchRuntime,
)
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.errors import WorkbenchError
from workbench.measure.gpu import figures
from workbench.measure.gpu.figures import DeviceTimes, joules, sizes_of, throughput, use_of
from workbench.measure.gpu.watch import Watched
from workbench.measure.messages import Describe, MeasureThroughput, Opened, ReadEnergy, TimeOnDevice
from workbench.measure.records import GpuState, GpuThroughput, GpuUse
from workbench.measure.session_process import hold
from workbench.measure.worker import GPU_OPEN_TIMEOUT_S, OPEN_TIMEOUT_S, Worker
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.results.records import TrialResult
from workbench.run.check_variant import _on_gpu
from workbench.system.child import ChildError
from workbench.system.progress import Progress

MakeTrial = Callable[..., TrialResult]

CLASSES = 3
ENGINE = Engine(size_bytes=7_000_000, bound_to="NVIDIA Test, driver 580.1", build_s=41.0)
ON_GPU = TorchRuntime(device="cuda")


def artifact_of(folder: Path, batch: int = 0) -> Artifact:
    info = ArtifactInfo(
        format="onnx", file="", sha256="", size_bytes=0, input_shape=(batch, 3, 8, 8), classes=CLASSES
    )
    return Artifact(folder, info)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    np.save(tmp_path / "photos.npy", np.zeros((5, 8, 8, 3), dtype=np.uint8))
    contract = Preprocess(resize=10, crop=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    return Images(tmp_path / "photos.npy", (0, 0, 1, 1, 2), contract, "0" * 64)


class Device:
    """A runtime on a GPU. Its clock moves by what calls take: 1 ms, and 0.1 ms for each photo; without the
    copies a photo takes 0.05 ms."""

    def __init__(self, most: int = 64, slow_from: int = 10**9) -> None:
        self.now, self.most, self.slow_from = 0.0, most, slow_from
        self.sizes: list[int] = []
        self.on_device = OnDevice(self._time, "CUDA events")

    def clock(self) -> float:
        return self.now

    def infer(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        if len(batch) > self.most:
            raise WorkbenchError(f"the engine takes {self.most} photos at most")
        self.sizes.append(len(batch))
        self.now += 2.0 if len(batch) >= self.slow_from else 1e-3 + 1e-4 * len(batch)
        return np.zeros((len(batch), CLASSES), dtype=np.float32)

    def _time(self, batch: NDArray[Any], calls: int) -> tuple[int, ...]:
        return (round(5e4 * len(batch)),) * calls

    def session(self, *, on_device: bool = True) -> Session:
        events = self.on_device if on_device else None
        return Session(self.infer, "cuda", "test", 1, on_device=events, engine=ENGINE)


def batch(size: int) -> NDArray[np.float32]:
    return np.zeros((size, 3, 8, 8), dtype=np.float32)


def test_throughput_is_with_the_copies_and_without() -> None:
    device = Device()
    got = throughput(device.session(), batch(8), device.clock)
    assert got is not None
    assert got.batch == 8
    assert got.with_copies == pytest.approx(8 / 1.8e-3)
    assert got.on_device == pytest.approx(8 / 4e-4)
    assert device.now < 1, "it is bounded in time"


def test_a_runtime_without_calls_on_the_device_has_throughput_with_copies_alone() -> None:
    device = Device()
    got = throughput(device.session(on_device=False), batch(1), device.clock)
    assert got is not None and got.on_device is None


def test_a_batch_that_takes_more_than_a_second_is_left_after_two_calls() -> None:
    device = Device(slow_from=32)
    assert throughput(device.session(), batch(32), device.clock) is None
    assert device.sizes == [32, 32]


def counter(*millijoules: int) -> Any:
    """NVML with nothing but an energy counter, which reads as told, and then not at all."""
    left = list(millijoules)

    def read(handle: object) -> int:
        if not left:
            raise ArithmeticError(f"{handle}: Not Supported")
        return left.pop(0)

    return SimpleNamespace(
        NVMLError=ArithmeticError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByPciBusId=lambda address: address,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


def test_energy_is_what_the_counter_moved_by_over_the_photos_of_two_seconds() -> None:
    device = Device()
    got = joules(device.infer, batch(10), counter(5, 1_000, 601_000), device.clock)
    # A call of ten takes 2 ms: 10000 photos in 2 s, for 600 J.
    assert got == pytest.approx(0.06, rel=0.01)
    assert device.now == pytest.approx(2.3, abs=0.01)


@pytest.mark.parametrize("readings", [(), (5, 1_000, 900), (5, 1_000, 1_000), (5, 1_000)])
def test_a_counter_that_is_absent_or_went_back_or_stands_still_gives_no_energy(
    readings: tuple[int, ...],
) -> None:
    device = Device()
    assert joules(device.infer, batch(8), counter(*readings), device.clock) is None


@pytest.mark.parametrize(
    ("fixed", "runtime", "sizes"),
    [
        (0, ON_GPU, (1, 8, 32, 64)),
        (0, TorchRuntime(device="cuda", batch=16), (1, 8, 16, 32, 64)),
        (0, TorchRuntime(device="cuda", batch=128), (1, 8, 32, 64, 128)),
        (0, TensorrtRuntime(device="cuda", max_batch=8), (1, 8)),
        (1, ON_GPU, (1,)),
        (4, ON_GPU, (4,)),
    ],
)
def test_the_sizes_are_those_that_the_artifact_takes(
    tmp_path: Path, fixed: int, runtime: Runtime, sizes: tuple[int, ...]
) -> None:
    assert sizes_of(artifact_of(tmp_path, fixed), runtime) == sizes


@pytest.fixture
def runtime_of_tests(monkeypatch: pytest.MonkeyPatch) -> Device:
    """`torch` is a stand-in here: a GPU runtime that needs no GPU."""
    device = Device(most=8)

    @contextmanager
    def session(artifact: Artifact, runtime: Runtime) -> Iterator[Session]:
        del artifact, runtime
        yield device.session()

    stand_in = SimpleNamespace(unavailable=lambda _: None, session=session)
    monkeypatch.setitem(BACKENDS, "torch", stand_in)
    for name in ("STRETCH_S", "ENERGY_S", "ENERGY_WARM_S"):
        monkeypatch.setattr(figures, name, 0.001)
    return device


def test_a_worker_answers_what_a_gpu_variant_is_asked(
    runtime_of_tests: Device, tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = counter(5, 1_000, 1_500)
    monkeypatch.setattr(figures, "joules", lambda infer, batch: joules(infer, batch, nvml))
    with hold(artifact_of(tmp_path), ON_GPU, images, time.monotonic()) as answer:
        opened = answer(Describe())
        assert isinstance(opened, Opened) and opened.engine == ENGINE
        assert answer(TimeOnDevice(1)) == DeviceTimes(5e4, "CUDA events")
        speed = answer(MeasureThroughput(8))
        # Five photos make a batch of eight.
        assert isinstance(speed, GpuThroughput) and speed.batch == 8
        assert runtime_of_tests.sizes[-1] == 8
        spent = answer(ReadEnergy(8))
        assert isinstance(spent, float) and 0 < spent <= 0.5 / 8
        with pytest.raises(WorkbenchError, match="8 photos at most"):
            answer(MeasureThroughput(32))


class Watch:
    """What the GPU was like meanwhile."""

    STATE = GpuState(sm_mhz=(345, 1980), memory_mhz=None, celsius=50, watts=200.0, throttled=(), others=None)
    began = ended = 0

    def begin(self) -> None:
        self.began += 1

    def end(self) -> Watched:
        self.ended += 1
        return Watched(self.STATE, ())


class Subject:
    """A session that takes up to `most` photos, and dies of more where `dies`."""

    def __init__(self, most: int, *, dies: bool = False, slow_from: int = 10**9) -> None:
        self.most, self.dies, self.slow_from, self.dead = most, dies, slow_from, False

    def device_times(self, size: int) -> DeviceTimes | None:
        return DeviceTimes(5e4 * size, "CUDA events")

    def gpu_throughput(self, size: int) -> GpuThroughput | None:
        if size > self.most:
            self.dead = self.dies
            raise ChildError("out of memory")
        return None if size >= self.slow_from else GpuThroughput(batch=size, with_copies=size, on_device=None)

    def joules(self, size: int) -> float | None:
        if self.dead:
            raise ChildError("it ended")
        return size / 100


KNOWN = GpuUse(memory_bytes=2**29, engine=ENGINE)


def used(subject: Subject) -> tuple[GpuUse, list[str]]:
    notes: list[str] = []
    watch = Watch()
    got = use_of(subject, KNOWN, (1, 8, 32), watch, notes.append)
    assert (watch.began, watch.ended) == (1, 1)
    return got, notes


def test_what_was_known_before_is_kept_and_the_rest_is_added() -> None:
    got, notes = used(Subject(64))
    assert (got.memory_bytes, got.engine, got.state) == (2**29, ENGINE, Watch.STATE)
    assert (got.device_p50_ns, got.device_how) == (5e4, "CUDA events")
    assert [speed.batch for speed in got.throughput] == [1, 8, 32]
    assert (got.joules, notes) == (0.32, [])


@pytest.mark.parametrize(("dies", "spent"), [(False, 0.08), (True, None)])
def test_a_batch_that_is_refused_ends_the_series_and_keeps_what_was_measured(
    dies: bool, spent: float | None
) -> None:
    got, notes = used(Subject(8, dies=dies))
    assert [speed.batch for speed in got.throughput] == [1, 8]
    assert (got.joules, notes, got.state) == (spent, ["out of memory"], Watch.STATE)


def test_larger_batches_than_the_first_too_slow_one_are_not_tried() -> None:
    got, notes = used(Subject(64, slow_from=8))
    assert ([speed.batch for speed in got.throughput], got.joules, notes) == ([1], 0.01, [])


def test_a_session_whose_engine_may_have_to_be_built_has_more_time_to_open(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    null = ArtifactInfo(format="null", file="", sha256="", size_bytes=0, input_shape=(0, 3, 8, 8), classes=3)
    asked: list[float] = []
    for runtime in (NullRuntime(), OrtRuntime(device="cuda")):
        with Worker(Artifact(tmp_path, null), runtime, images, log=tmp_path / "log.txt") as worker:
            monkeypatch.setattr(worker._child, "ready", asked.append)
            worker.ready()
    assert asked == [OPEN_TIMEOUT_S, GPU_OPEN_TIMEOUT_S] == [300.0, 900.0]


def test_the_check_records_memory_and_engine_of_gpu_variants_alone() -> None:
    opened = Opened(0.1, 1.0, "cuda", "test", 1, ENGINE)
    gpu: Any = SimpleNamespace(memory_of=lambda pid, before: (pid + before, True))
    assert _on_gpu(ON_GPU, opened, gpu, 7, 100) == GpuUse(memory_bytes=107, whole_gpu=True, engine=ENGINE)
    assert _on_gpu(ON_GPU, opened, None, 7, None) == GpuUse(engine=ENGINE)
    assert _on_gpu(OrtRuntime(), opened, gpu, 7, 100) is None


def test_finalists_are_measured_on_the_gpu_first_and_the_cpu_variants_not_at_all(
    trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"baseline": "cpu", "slow": "cuda", "fast": "cuda", "final": "cuda", "broken": "cuda"}
    context: Any = SimpleNamespace(
        runtimes={name: OrtRuntime(device=device) for name, device in names.items()},
        report=lambda progress: told.append(progress),
    )
    told: list[Progress] = []
    asked: list[str] = []

    def measured(_: object, trial: TrialResult) -> GpuUse:
        asked.append(trial.variant)
        if trial.variant == "broken":
            raise ChildError("it died")
        return GpuUse(joules=1.0)

    monkeypatch.setattr(workbench.run.time_variants, "_gpu_use", measured)
    speeds = {"baseline": 1.0, "slow": 1.5, "fast": 3.0, "final": 2.0, "broken": 1.2}
    trials = [trial(name, speedup=speed) for name, speed in speeds.items()]
    trials.append(trial("untimed", latency=None))
    context.runtimes["untimed"] = OrtRuntime(device="cuda")
    got = workbench.run.time_variants._with_gpu_use(context, ["baseline", "final"], trials)
    assert asked == ["final", "fast", "slow", "broken"]
    assert [t.variant for t in got if t.gpu] == ["slow", "fast", "final"]
    assert [t.latency for t in got] == [t.latency for t in trials]
    assert any("broken: it died" in progress.what for progress in told)

    # With no time for others, the finalists are measured still.
    asked.clear()
    monkeypatch.setattr(workbench.run.time_variants, "GPU_USE_S", -1.0)
    workbench.run.time_variants._with_gpu_use(context, ["baseline", "final"], trials)
    assert asked == ["final"]
    assert told[-1].what.endswith("fast, slow, broken")


@pytest.mark.parametrize(("device", "touched"), [("cpu", False), ("cuda", True)])
def test_the_gpu_is_described_where_a_variant_ran_on_it_and_else_not_touched(
    device: Any, touched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(workbench.run.time_variants, "gpu_conditions", lambda: asked.append(1))
    context: Any = SimpleNamespace(runtimes={"baseline": OrtRuntime(), "a": OrtRuntime(device=device)})
    assert workbench.run.time_variants._conditions(context, ["baseline", "a"]).gpu is None
    assert bool(asked) == touched


def test_what_was_recorded_before_there_were_gpu_figures_still_loads(trial: MakeTrial) -> None:
    old = trial("baseline").model_dump(mode="json")
    del old["gpu"]
    assert TrialResult.model_validate(old).gpu is None
