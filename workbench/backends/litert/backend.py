"""LiteRT on the CPU: `.tflite` files, an interpreter a thread, with its XNNPACK delegate.

The file is a flatbuffer: it holds weights and operators by their numbers, and no code. Its reader checks the
identifier and the offsets; a file from elsewhere may still name operators that this runtime lacks, or sizes
that exhaust memory, so a server opens it in a process of its own first.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact, Format
from workbench.backends.audit import Audit
from workbench.backends.base import Operators, Session
from workbench.backends.edge import one_by_one, with_delegation
from workbench.backends.litert.settings import LitertRuntime
from workbench.system.packages import missing_package, versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.backends.litert.interpreter import Interpreter


NAME = "litert"
PACKAGES: tuple[str, ...] = ("ai-edge-litert",)
FORMATS: frozenset[Format] = frozenset({"tflite"})
OPERATORS: frozenset[Operators] = frozenset()
convert = prepare = None


def unavailable(runtime: LitertRuntime) -> str | None:
    del runtime
    return missing_package("ai_edge_litert", extra="litert")


@contextmanager
def session(artifact: Artifact, runtime: LitertRuntime) -> Iterator[Session]:
    """Open a file from its verified bytes. The session may be called from several threads at once.

    Quantising the photo and turning its channels to the end, where the file asks for that, are part of a
    call. Raises WorkbenchError where LiteRT cannot open the file.
    """
    interpreters = _Interpreters(artifact, runtime)
    threads = interpreters.own().threads

    def run(photo: "NDArray[Any]") -> "NDArray[np.float32]":
        return interpreters.own().run(photo)

    version = versions(*PACKAGES).get(*PACKAGES)
    yield Session(one_by_one(run), device="cpu", provider="XNNPACK", threads=threads, version=version)


def audit(artifact: Artifact, runtime: LitertRuntime, sample: "NDArray[Any]") -> Audit:
    """Read the nodes of an interpreter, and which of them the delegate took. Raises as `session` does."""
    from workbench.backends.litert.audit import audit_nodes, delegation_of

    del sample
    opened = _Interpreters(artifact, runtime).own()
    nodes, tensors = opened.native._get_ops_details(), opened.native.get_tensor_details()
    delegation = delegation_of(nodes, tensors, opened.taken.index)
    audit = audit_nodes(nodes, tensors, opened.taken.index, delegation, stored=artifact.info.precision)
    return with_delegation(audit, delegation, runtime, *PACKAGES)


class _Interpreters:
    """One for each thread that asks: an interpreter takes one call at a time."""

    def __init__(self, artifact: Artifact, runtime: LitertRuntime) -> None:
        self._data, self._name, self._threads = artifact.read(), artifact.path.name, runtime.intra_threads
        self._each = threading.local()

    def own(self) -> "Interpreter":
        from workbench.backends.litert.interpreter import Interpreter

        if (found := getattr(self._each, "interpreter", None)) is None:
            found = self._each.interpreter = Interpreter(self._data, self._name, threads=self._threads)
        return found
