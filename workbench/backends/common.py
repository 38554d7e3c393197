"""Checks, batch sizes and onnxruntime sessions that several backends, steps and measurements share."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError, plural
from workbench.system.machine import collect

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime
    from numpy.typing import NDArray


PROBE_SIDE = 224  # pixels, for files that leave height and width free
TF32 = "NVIDIA_TF32_OVERRIDE"  # overrides the program's settings in all of NVIDIA's libraries


@contextmanager
def translated_ort_errors(doing: str, *more: type[Exception]) -> Iterator[None]:
    """Raise WorkbenchError, `onnxruntime cannot <doing>`, for what onnxruntime raises in the block.

    more: errors of its Python side, to be translated too.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    try:
        yield
    except (
        native.Fail,
        native.EPFail,
        native.InvalidGraph,
        native.InvalidProtobuf,
        native.InvalidArgument,
        native.NoSuchFile,
        native.NotImplemented,
        native.RuntimeException,
        *more,
    ) as error:
        reason, hint = _ort_reason(str(error))
        raise WorkbenchError(f"onnxruntime cannot {doing}: {reason}", hint=hint) from error


# onnxruntime prints a status, the file and its own C++ signature before what is wrong.
_BEFORE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .*? failed: ?|"
    r"/\S+\.(?:cc|h|cpp|cu):\d+ .*?\)(?: const)?(?: \[with .*?\])? (?=[A-Z!])"
)
_NEWER = (
    ("IR version", re.compile(r"IR version: (\d+), max supported IR version: (\d+)")),
    ("opset", re.compile(r"Opset (\d+) is under development.*till opset (\d+)")),
)
_UNKNOWN = re.compile(r"No Op registered for (\S+) with domain_version of (\d+)")

# Of a domain that the file imports, and of one that it forgets to.
_FOREIGN = re.compile(r"(?P<domain>[\w.-]+):(?P<operator>\w+)\(-?\d+\) is not a registered function/op")
_UNLISTED = re.compile(
    r'In Node, \(".*?", (?P<operator>\w+), "(?P<domain>.*?)", .*No opset import for domain'
)


def _ort_reason(message: str) -> tuple[str, str | None]:
    """onnxruntime's words without its own code, and what to do where that is known."""
    import onnxruntime

    text = _BEFORE.sub("", " ".join(message.split()))
    for what, pattern in _NEWER:
        if found := pattern.search(text):
            has, most = found.groups()
            older = f"`opset_version={most if what == 'opset' else 17}`"
            return (
                f"its {what} is {has}, and onnxruntime {onnxruntime.__version__} reads up to {most}",
                f"upgrade onnxruntime, or export it again with {older}",
            )
    if found := _UNKNOWN.search(text):
        operator, opset = found.groups()
        hint = f"export it again with an opset that has `{operator}`, or without it"
        return f"opset {opset} of ONNX has no operator `{operator}`", hint
    if found := _FOREIGN.search(text) or _UNLISTED.search(text):
        domain, operator = found["domain"], found["operator"]
        ours = "upgrade onnxruntime, or export it again without it"
        hint = "export it again with ONNX's own operators: no library of others is loaded"
        return (
            f"it has no operator `{operator}` of the domain `{domain}`",
            ours if domain == "com.microsoft" else hint,
        )
    return text, None


def cpu_options(level: str = "ORT_DISABLE_ALL", *, threads: int = 1) -> "onnxruntime.SessionOptions":
    """Options for a session that belongs to no variant. threads: 0 takes every processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # failures are raised
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return options


def open_cpu(
    model: "Path | onnx.ModelProto",
    options: "onnxruntime.SessionOptions | None" = None,
    *,
    doing: str = "open",
    without: Sequence[str] = (),
) -> "onnxruntime.InferenceSession":
    """A session on the CPU that runs the graph as it is written, with one thread, unless `options` differ.

    By default without graph optimisations: a few calls are too short for them to pay, tensors between fused
    nodes disappear, and they have crashed on graphs meant for a GPU (onnxruntime 1.32, fp16 transformers).
    doing: for messages. without: optimisations to leave out. Raises WorkbenchError.
    """
    import onnxruntime

    given, name = (str(model), model.name) if isinstance(model, Path) else (model.SerializeToString(), "it")
    with translated_ort_errors(f"{doing} {name}"):
        return onnxruntime.InferenceSession(
            given,
            options or cpu_options(),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(without) or None,
        )


def profiled_nodes(session: "onnxruntime.InferenceSession") -> list[dict[str, Any]]:
    """End the profile of a session; its entry for each node that ran, by the node's own name."""
    ran = "_kernel_time"
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(ran)]
    return [{**event, "name": event["name"].removesuffix(ran)} for event in nodes]


def refuse_foreign(artifact: Artifact, gpu: str | None = None) -> None:
    """Raise WorkbenchError where the artifact is bound to another processor than this machine's.

    It may use instructions that are missing here: the process would die. gpu: what else it was bound to.
    """
    made_for = artifact.info.bound_to
    if made_for is not None and made_for != (here := gpu or collect().processor):
        of = "" if gpu else "the processor "
        raise WorkbenchError(
            f"{artifact.path.name} was made for {of}{made_for}; this machine has {here}",
            hint="build it here: `krishi-bench run` with the same recipe on this machine",
        )


def refuse_override(tf32: bool) -> None:
    """Raise WorkbenchError where the environment switches TF32 otherwise than asked for."""
    if os.environ.get(TF32) == ("0" if tf32 else "1"):
        raise WorkbenchError(
            f"runtime.precision: TF32 is switched {'off' if tf32 else 'on'} for this whole process",
            hint=f"unset {TF32}, and do not serve or measure variants with and without it in one process",
        )


def filled(batch: "NDArray[Any]", size: int) -> "NDArray[Any]":
    """The batch, filled up to `size` photos (0: free) by repeating its own.

    Repeated photos keep the range of the values, on which dynamic INT8 depends. Raises WorkbenchError where
    there are more photos.
    """
    import numpy as np

    if size in (0, len(batch)):
        return batch
    if len(batch) > size:
        raise WorkbenchError(
            f"the artifact takes {plural(size, 'photo')} at a time, not {len(batch)}",
            hint="set `runtime.batch` to the size it was built for, or build it with a free batch",
        )
    return np.resize(batch, (size, *batch.shape[1:]))


def for_any_batch(
    run: "Callable[[Any], NDArray[np.float32]]", size: int
) -> "Callable[[Any], NDArray[np.float32]]":
    """`run`, which takes `size` photos (0: any number), for any number up to that."""
    if size == 0:
        return run

    def infer(batch: "NDArray[Any]") -> "NDArray[np.float32]":
        return run(filled(batch, size))[: len(batch)]

    return infer
