"""ExecuTorch on the CPU: `.pte` programs, one loaded method a thread, with the XNNPACK delegate.

A program is a flatbuffer of calls to kernels that the runtime has, and of what delegates were given. Its
reader checks the offsets of the flatbuffer (`InternalConsistency`); it does not promise that a program from
elsewhere is harmless, and its Python binding needs all of torch. So a server opens one only where it is told
to follow the alias of one, and has executorch installed.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact, Format
from workbench.backends.audit import Audit, Computed
from workbench.backends.base import Operators, Session
from workbench.backends.edge import one_by_one, with_delegation
from workbench.backends.executorch.settings import ExecutorchRuntime
from workbench.errors import WorkbenchError, summary
from workbench.system.packages import missing_package, versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NAME = "executorch"
PACKAGES: tuple[str, ...] = ("executorch", "torch")
FORMATS: frozenset[Format] = frozenset({"pte"})
OPERATORS: frozenset[Operators] = frozenset()
convert = prepare = None

METHOD = "forward"


def unavailable(runtime: ExecutorchRuntime) -> str | None:
    del runtime
    return missing_package("executorch", extra="executorch")


@contextmanager
def session(artifact: Artifact, runtime: ExecutorchRuntime) -> Iterator[Session]:
    """Open a program from its verified bytes. The session may be called from several threads at once.

    Raises WorkbenchError where ExecuTorch cannot open it, or took another number of threads.
    """
    import torch

    native = _native()
    torch.set_num_threads(runtime.intra_threads)
    native._unsafe_reset_threadpool(runtime.intra_threads)
    methods = _Methods(artifact)
    methods.own()

    def run(photo: "NDArray[Any]") -> "NDArray[np.float32]":
        try:
            (logits,) = methods.own().execute([torch.from_numpy(photo)])
        except (RuntimeError, ValueError) as error:
            raise WorkbenchError(
                f"ExecuTorch cannot run a batch of shape {photo.shape}: {summary(error)}"
            ) from error
        found: NDArray[np.float32] = logits.numpy()
        return found

    threads = int(native._threadpool_get_thread_count())
    version = versions(NAME).get(NAME)
    yield Session(one_by_one(run), device="cpu", provider="XNNPACK", threads=threads, version=version)


def audit(artifact: Artifact, runtime: ExecutorchRuntime, sample: "NDArray[Any]") -> Audit:
    """What was recorded when the program was built: delegation is decided there, and cannot be read back."""
    del sample
    info = artifact.info
    computes: Computed = "int8" if info.precision == "int8" else "fp32"
    plain = Audit(
        macs=info.delegation.macs if info.delegation else None,
        computes=computes,
        verdict=info.note or f"{computes} for all multiplications, as it was built",
    )
    return with_delegation(plain, info.delegation, runtime, *PACKAGES)


class _Methods:
    """One for each thread that asks: a loaded method takes one call at a time."""

    def __init__(self, artifact: Artifact) -> None:
        self._data, self._name = artifact.read(), artifact.path.name
        self._each = threading.local()

    def own(self) -> Any:
        if (found := getattr(self._each, "method", None)) is None:
            found = self._each.method = load(self._data, self._name)
        return found


def load(data: bytes, name: str) -> Any:
    """The method of a program. Raises WorkbenchError where ExecuTorch cannot open it."""
    _native()
    from executorch.runtime import Runtime, Verification

    try:
        program = Runtime.get().load_program(data, verification=Verification.InternalConsistency)
        if METHOD not in program.method_names:
            raise WorkbenchError(f"{name} has no method `{METHOD}`: it is no classifier of step `executorch`")
        return program.load_method(METHOD)
    except (RuntimeError, ValueError) as error:
        raise WorkbenchError(
            f"ExecuTorch cannot open {name}: {summary(error)}",
            hint="programs come from step `executorch`, and go with the version that wrote them",
        ) from error


def _native() -> Any:
    """The binding, which warns at every import that it is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.extension.pybindings import portable_lib
    return portable_lib
