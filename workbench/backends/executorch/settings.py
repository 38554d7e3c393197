"""The `runtime` section for ExecuTorch, and the environment that it and its exporter run in."""

from pathlib import Path
from typing import ClassVar, Literal

from workbench.backends.edge import EdgeSettings
from workbench.system.environments import VirtualEnvironment, locked, read_lock
from workbench.system.packages import versions

LOCK = Path(__file__).with_name("lock.txt")
ABOUT_BYTES = 1_100_000_000


# torch and torchao of a release, by its first two numbers: its Python binding is linked against that torch.
FITTING = {
    "1.3": ("2.12.0", "0.17.0"),
    "1.4": ("2.13.0", "0.18.0"),
    "1.5": ("2.13.0", "0.18.0"),
}


class ExecutorchRuntime(EdgeSettings):
    """ExecuTorch with its XNNPACK delegate; step `executorch` writes its programs, in the same version."""

    TARGETS: ClassVar = frozenset({"android"})
    DISTRIBUTION: ClassVar = "executorch"

    backend: Literal["executorch"] = "executorch"

    def environment(self) -> VirtualEnvironment | None:
        """ExecuTorch brings packages that nothing else here needs; None where it is here all the same."""
        installed, lock = versions("executorch").get("executorch"), read_lock(LOCK)
        if installed is not None and not self.packages and self.version in (None, installed):
            return None
        own = dict(pin.split("==") for pin in lock)
        if self.version is None or (self.version == own["executorch"] and not self.packages):
            return locked("executorch", lock, about_bytes=ABOUT_BYTES)
        torch, torchao = FITTING.get(self.version.rpartition(".")[0], (own["torch"], own["torchao"]))
        own |= {"executorch": self.version, "torch": torch, "torchao": torchao}
        for given in {each.partition("==")[0] for each in self.packages} - {"executorch"}:
            own.pop(given, None)  # a name that is spelt otherwise is refused, as two versions of one package
        pins = [*map("==".join, own.items()), *self.packages]
        return locked(f"executorch-{self.version}", pins, about_bytes=ABOUT_BYTES)
