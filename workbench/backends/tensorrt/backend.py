"""NVIDIA TensorRT 10 and 11: engines built on this machine from ONNX files.

The artifact is the ONNX file. Its engine fits one GPU, driver and TensorRT version, is found or built when
the artifact is opened, and stays in this user's private folder (`backends/gpu/engine_store.py`). On another
machine it is built there.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact, Format
from workbench.backends.audit import Audit
from workbench.backends.base import Engine, OnDevice, Operators, Session
from workbench.backends.common import filled, for_any_batch, refuse_foreign, refuse_override
from workbench.backends.gpu import cuda, engine_store
from workbench.backends.tensorrt.build import GPU_HINT, EnginePlan, build, log_of_tensorrt, made, plan_of
from workbench.backends.tensorrt.lane import Lane, Lanes, ports_of, split
from workbench.backends.tensorrt.settings import TensorrtRuntime
from workbench.errors import WorkbenchError, plural
from workbench.photos.contract import Batch
from workbench.system import nvidia_check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

NAME = "tensorrt"
PACKAGES: tuple[str, ...] = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "cuda-bindings")
FORMATS: frozenset[Format] = frozenset({"onnx"})
OPERATORS: frozenset[Operators] = frozenset({"onnx"})
convert = None

PROVIDER = "TensorRT"
FULL = ("out of memory", "could not be allocated", "outofmemory")  # TensorRT's words for a full GPU
HOW = "CUDA events between calls queued one behind the other"


def unavailable(runtime: TensorrtRuntime) -> str | None:
    del runtime
    return nvidia_check.missing_link(nvidia_check.TENSORRT)


@contextmanager
def session(artifact: Artifact, runtime: TensorrtRuntime) -> Iterator[Session]:
    """Open an ONNX file through its engine, built where none fits. May be called from several threads.

    A fixed batch is filled up; with a free one, more photos than the engine takes go in several calls.
    Raises WorkbenchError.
    """
    plan = plan_of(artifact.info, runtime)
    native, built = _open_engine(artifact, plan)
    ports = ports_of(native, pixels=artifact.info.pixels, classes=artifact.info.classes)
    if native.num_optimization_profiles != len(plan.sizes):
        raise WorkbenchError(f"the engine has {native.num_optimization_profiles} optimisation profiles")
    lanes = Lanes(lambda: Lane(native, ports, plan, graphs=runtime.cuda_graph))

    def run(batch: Batch) -> "NDArray[np.float32]":
        ports.check(batch)
        with lanes.one() as lane:
            return lane.run(batch)

    def time_calls(batch: Batch, calls: int) -> tuple[int, ...]:
        whole = _fill(batch, plan)
        ports.check(whole)
        with lanes.one() as lane:
            return lane.time(whole, calls)

    try:
        yield Session(
            split(run, plan.most) if plan.free else for_any_batch(run, plan.most),
            device=runtime.device,
            provider=PROVIDER,
            threads=runtime.intra_threads,
            on_device=OnDevice(time_calls, HOW),
            engine=built,
        )
    except BaseException:
        with suppress(WorkbenchError):  # The first error says more than those that follow from it.
            lanes.close()
        raise
    lanes.close()


def _fill(batch: Batch, plan: EnginePlan) -> Batch:
    if plan.free and len(batch) > plan.most:
        raise WorkbenchError(
            f"the engine takes {plural(plan.most, 'photo')} at a time, not {len(batch)}",
            hint="set `runtime.max_batch`",
        )
    return filled(batch, 0 if plan.free else plan.most)


def audit(artifact: Artifact, runtime: TensorrtRuntime, sample: "NDArray[Any]") -> Audit:
    """What the engine's layers compute in, from TensorRT's inspector. Nothing is run."""
    import tensorrt as trt

    from workbench.backends.tensorrt.audit import audit_engine

    plan = plan_of(artifact.info, runtime)
    native, _ = _open_engine(artifact, plan)
    inspector = made("looking into the engine", native.create_engine_inspector)
    report = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    count = min(len(sample), plan.most) if plan.free else plan.most
    return audit_engine(report, artifact, profile=plan.profile(count))


def prepare(artifact: Artifact, runtime: TensorrtRuntime) -> None:
    """Build the engine where none is kept that fits, so that `session` opens at once."""
    _find_or_build(artifact, plan_of(artifact.info, runtime))


def _open_engine(artifact: Artifact, plan: EnginePlan) -> tuple[Any, Engine]:
    """The engine, opened. One that was kept and cannot be opened is built again, once."""
    refuse_foreign(artifact)
    data, found = _find_or_build(artifact, plan)
    try:
        return _deserialize(data), found
    except WorkbenchError as error:
        if any(words in error.message.lower() for words in FULL):
            # Nothing is wrong with the engine, and building one takes more memory than opening it.
            raise WorkbenchError(error.message, hint=cuda.HINTS["cudaErrorMemoryAllocation"]) from error
        if found.build_s is not None:
            raise
    data, found = _find_or_build(artifact, plan, rebuild=True)
    return _deserialize(data), found


def _deserialize(data: bytes) -> Any:
    import tensorrt as trt

    opener = made("starting its runtime", lambda: trt.Runtime(log_of_tensorrt()), hint=GPU_HINT)
    return made("opening an engine", lambda: opener.deserialize_cuda_engine(data), hint=GPU_HINT)


def _find_or_build(artifact: Artifact, plan: EnginePlan, *, rebuild: bool = False) -> tuple[bytes, Engine]:
    """The bytes of the engine that is kept, or of a new one. The ONNX file is verified either way."""
    import tensorrt as trt

    refuse_override(plan.tf32)  # else the engine would be kept under another precision's name
    onnx = artifact.read()
    binding = engine_store.bound_to(f"TensorRT {trt.__version__}")
    try:
        place = engine_store.folder(("tensorrt", artifact.digest, binding, *plan.parts()))
        timing = engine_store.timing_folder(binding) / engine_store.TIMING
    except engine_store.Unwritable as error:
        log.warning("%s: it is built at every start", error.message)
        return _build_engine(onnx, artifact, plan, binding, timings=b"")[:2]
    with engine_store.alone(place):
        data = None if rebuild else engine_store.fitting(place, binding)
        if data is not None:
            return data, Engine(size_bytes=len(data), bound_to=binding)
        data, engine, timings = _build_engine(
            onnx, artifact, plan, binding, timings=engine_store.read_private(timing) or b""
        )
        try:
            engine_store.keep(place, data, binding=binding, build_s=engine.build_s or 0.0)
            engine_store.write_private(timing, timings)
        except WorkbenchError as error:  # A full disk: this engine serves, the next start builds it again.
            log.warning("%s: the engine is not kept", error.message)
    return data, engine


def _build_engine(
    onnx: bytes, artifact: Artifact, plan: EnginePlan, binding: str, *, timings: bytes
) -> tuple[bytes, Engine, bytes]:
    start = time.perf_counter()
    data, timings = build(onnx, artifact.path.name, plan, timings)
    took = time.perf_counter() - start
    return data, Engine(size_bytes=len(data), bound_to=binding, build_s=took), timings
