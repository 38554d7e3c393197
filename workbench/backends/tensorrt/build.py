"""ONNX bytes to a TensorRT engine, with TensorRT 10 and 11 alike.

- Strongly typed: every tensor has the type that the graph gives it, in 11 always and in 10 by a flag. FP16
  and INT8 are in the graph (the `fp16` step, explicit QDQ), without the builder's switches and calibrators,
  which 11 removed.
- TF32 off unless asked for: the builder would round what fp32 convolutions multiply.
- Never refittable: exchanged weights change answers.
- Detailed verbosity: the audit reads the layers' precisions from it. It costs no time.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workbench.backends.artifact import ArtifactInfo
from workbench.backends.tensorrt.settings import TensorrtRuntime
from workbench.errors import WorkbenchError, plural

VERSION = 1  # of what is built from the same plan; a change builds every engine again
LAST = 3  # of TensorRT's messages in an exception
MOST = 64  # photos a call, where nothing else is said and the graph leaves it free

GPU_HINT = "the GPU may be too old for this TensorRT, or the driver for its CUDA: `krishi-bench doctor`"
OPERATOR_HINT = (
    "TensorRT lacks an operator, or takes it only in some forms: export with another opset or exporter, and "
    "leave out steps that write operators of one runtime alone (`optimize`)"
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Batch sizes of an optimisation profile: its kernels take them all and are chosen for `best`."""

    least: int
    best: int
    most: int


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """The settings that decide an engine. free: the batch is not in the graph."""

    free: bool
    sizes: tuple[Sizes, ...]
    tf32: bool

    @property
    def most(self) -> int:
        """Photos of a call at most."""
        return self.sizes[-1].most

    def profile(self, batch: int) -> int:
        """The optimisation profile for a call of `batch` photos."""
        return next(index for index, sizes in enumerate(self.sizes) if sizes.least <= batch <= sizes.most)

    def parts(self) -> tuple[str, ...]:
        """The parts of the name under which an engine is kept."""
        return (f"build {VERSION}", repr(self))


def plan_of(info: ArtifactInfo, runtime: TensorrtRuntime) -> EnginePlan:
    return EnginePlan(
        free=info.input_shape[0] == 0,
        sizes=_sizes(info.input_shape[0], runtime),
        tf32=runtime.precision == "tf32",
    )


def _sizes(fixed: int, runtime: TensorrtRuntime) -> tuple[Sizes, ...]:
    """One profile for one photo, which servers ask for most, and one for more.

    Kernels chosen for one shape are faster than those for a range. The range's are chosen for the recipe's
    batch where that is more than one, else for the largest: full calls take the longest.
    """
    if fixed:
        return (Sizes(fixed, fixed, fixed),)
    most = runtime.max_batch or max(MOST, runtime.batch)
    one = Sizes(1, 1, 1)
    return (one, Sizes(2, runtime.batch if runtime.batch > 1 else most, most)) if most > 1 else (one,)


def build(onnx: bytes, name: str, plan: EnginePlan, timings: bytes) -> tuple[bytes, bytes]:
    """The serialized engine, and the builder's timings.

    onnx: a whole model without external data. name: the file's, for messages. timings: of an earlier build
    here; empty for none. Raises WorkbenchError, naming the nodes that TensorRT does not take.
    """
    import tensorrt as trt

    builder = made("starting its builder", lambda: trt.Builder(log_of_tensorrt()), hint=GPU_HINT)
    # By name: the flag's number differs between 10 and 11, where it is deprecated and does nothing.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = made("creating a network", lambda: builder.create_network(typed))
    with _parsed_network(network, onnx, name):
        config = made("configuring its builder", builder.create_builder_config)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        (config.set_flag if plan.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
        if plan.free:
            _add_profiles(builder, config, network.get_input(0), plan.sizes)
        cache = _timing_cache(config, timings)
        engine = made(
            f"building an engine of {name}", lambda: builder.build_serialized_network(network, config)
        )
        return bytes(engine), bytes(cache.serialize() or b"")


@contextmanager
def _parsed_network(network: Any, onnx: bytes, name: str) -> Iterator[None]:
    """Fill the network from ONNX. The parser owns the weights: it lives until the engine is built."""
    import tensorrt as trt

    parser = trt.OnnxParser(network, log_of_tensorrt())
    if not parser.parse(onnx):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(map(_reason, errors)) or "it is no ONNX file that TensorRT can read"
        raise WorkbenchError(f"TensorRT cannot take {name}: {reasons}", hint=OPERATOR_HINT)
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise WorkbenchError(
            f"{name} has {plural(network.num_inputs, 'input')} and {plural(network.num_outputs, 'output')}: "
            "a classifier has one of each"
        )
    given = network.get_input(0)
    if any(size < 0 for size in tuple(given.shape)[1:]):
        raise WorkbenchError(
            f"{name} leaves the photos' size free ({tuple(given.shape)}): a TensorRT engine needs it",
            hint="export the network with a fixed height and width; the batch may stay free",
        )
    yield
    del parser


def _reason(error: Any) -> str:
    node, operator, reason = error.node_name(), error.node_operator(), " ".join(error.desc().split())
    where = f"node `{node}` ({operator}): " if node and operator else f"{operator}: " if operator else ""
    return f"{where}{reason}"


def _add_profiles(builder: Any, config: Any, given: Any, sizes: tuple[Sizes, ...]) -> None:
    image = tuple(given.shape)[1:]
    for each in sizes:
        profile = builder.create_optimization_profile()
        least, best, most = ((size, *image) for size in (each.least, each.best, each.most))
        profile.set_shape(given.name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise WorkbenchError(f"TensorRT takes no batches from {each.least} to {each.most}: {image}")


def _timing_cache(config: Any, timings: bytes) -> Any:
    # The earlier timings may be damaged or another version's.
    for data in (timings, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    raise WorkbenchError("TensorRT takes no timing cache, not even an empty one")


@lru_cache(maxsize=1)
def log_of_tensorrt() -> Any:
    """The one logger of this process, with TensorRT's plug-ins registered; TensorRT needs it to the end.

    Warnings and errors go to our log. `errors`: the last ones since `clear`.
    """
    import tensorrt as trt

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=LAST)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(msg.split()))
            elif severity != trt.ILogger.Severity.WARNING:
                return
            logging.getLogger("workbench.tensorrt").warning("%s", msg.strip())

    log = Log()
    # Some operators are plug-ins, which parser and engines have to find.
    trt.init_libnvinfer_plugins(log, "")
    return log


def made(doing: str, make: Callable[[], Any], *, hint: str | None = None) -> Any:
    """The result of `make`. Raises WorkbenchError with TensorRT's log for None, False or an exception."""
    errors, failure = log_of_tensorrt().errors, None
    errors.clear()
    try:
        if (result := make()) is not None and result is not False:
            return result
    except (RuntimeError, TypeError, ValueError) as error:
        failure = error
    reason = "; ".join(errors) or failure or "it gave no reason"
    raise WorkbenchError(f"TensorRT, {doing}: {reason}", hint=hint) from failure
