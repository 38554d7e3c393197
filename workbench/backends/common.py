"""What sessions of every runtime share: on which processor they open, how many photos they take."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError
from workbench.system.machine import collect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


PROBE_SIDE = 224  # pixels, for files that leave height and width free
TF32 = "NVIDIA_TF32_OVERRIDE"  # for all of NVIDIA's libraries, whatever they are told in the program


def onnxruntime_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a file it cannot open or run, and `more`: its Python side raises others."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    return (
        native.Fail,
        native.EPFail,
        native.InvalidGraph,
        native.InvalidProtobuf,
        native.InvalidArgument,
        native.NotImplemented,
        native.RuntimeException,
        *more,
    )


def refuse_foreign(artifact: Artifact) -> None:
    """Raise WorkbenchError where the artifact is bound to another processor than this machine's.

    Its code, or the layout of its weights, may use instructions that are not here: the process would die.
    """
    here, made_for = collect().processor, artifact.info.bound_to
    if made_for is not None and made_for != here:
        raise WorkbenchError(
            f"{artifact.path.name} was made for the processor {made_for}; this machine has {here}",
            hint="build it here: `krishi-bench run` with the same recipe on this machine",
        )


def refuse_override(tf32: bool) -> None:
    """Raise WorkbenchError where the environment switches TF32 otherwise than asked for."""
    if os.environ.get(TF32) == ("0" if tf32 else "1"):
        raise switched(on=not tf32)


def switched(*, on: bool) -> WorkbenchError:
    """The error for a process in which TF32 is decided already."""
    return WorkbenchError(
        f"runtime.precision: TF32 is switched {'on' if on else 'off'} for this whole process",
        hint=f"unset {TF32}, and do not serve or measure variants with and without it in one process",
    )


def filled(batch: "NDArray[Any]", size: int) -> "NDArray[Any]":
    """The batch, filled up to `size` photos with its own where the size is fixed (0: free).

    Repeating the photos keeps the range of the values, on which dynamic INT8 depends. Raises WorkbenchError
    where there are more photos than that.
    """
    import numpy as np

    if size in (0, len(batch)):
        return batch
    if len(batch) > size:
        raise WorkbenchError(
            f"the artifact takes {size} photo{'s' if size > 1 else ''} at a time, not {len(batch)}",
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
