"""The `runtime` section for ExecuTorch, and the environment that it and its exporter run in."""

from pathlib import Path
from typing import ClassVar, Literal

from workbench.backends.edge import EdgeSettings
from workbench.system.environments import VirtualEnvironment, locked, read_lock
from workbench.system.packages import missing_package

LOCK = Path(__file__).with_name("lock.txt")


class ExecutorchRuntime(EdgeSettings):
    """ExecuTorch with its XNNPACK delegate; step `executorch` writes its programs. No server opens them."""

    TARGETS: ClassVar = frozenset({"android"})

    backend: Literal["executorch"] = "executorch"

    def environment(self) -> VirtualEnvironment | None:
        return own_environment()


def own_environment() -> VirtualEnvironment | None:
    """ExecuTorch brings packages that nothing else here needs; None where it is here all the same."""
    if missing_package("executorch") is None:
        return None
    return locked("executorch", read_lock(LOCK), about_bytes=1_100_000_000)
