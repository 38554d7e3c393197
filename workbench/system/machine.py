"""What this computer is."""

import os
import platform
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from workbench.system.files import digest_of
from workbench.system.nvml import opened_gpus

# x86: vector widths, 8-bit dot products, bf16 arithmetic; ARM: 8-bit dot and matrix products, fp16, bf16.
FEATURES = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "asimdhp", "fphp", "bf16", "sve",
)  # fmt: skip


class Machine(BaseModel):
    """The parts of a computer that decide how fast a model runs on it.

    cores: logical processors this process may use. memory_bytes: of the whole machine.
    features: instruction sets that decide which arithmetic is fast, of those in FEATURES.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    architecture: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    system: str
    python: str
    features: tuple[str, ...] = ()

    @property
    def processor(self) -> str:
        """What a file made for this processor is bound to. Virtual machines hide the model alone."""
        return f"{self.cpu} ({' '.join(self.features) or self.architecture})"

    @property
    def fingerprint(self) -> str:
        """12 hex digits that two machines share only if their times may be compared.

        The operating system's and Python's versions are left out: they change without the machine changing.
        """
        memory_gib = round(self.memory_bytes / 2**30)
        return digest_of([self.cpu, self.architecture, self.cores, memory_gib, self.gpus])[:12]


@lru_cache(maxsize=1)
def collect() -> Machine:
    with opened_gpus() as readers:
        gpus = tuple(gpu.name() for gpu in readers)
    return Machine(
        cpu=_cpu_model(),
        architecture=platform.machine(),
        cores=len(available_cpus()),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=gpus,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        features=_features(),
    )


def available_cpus() -> tuple[int, ...]:
    """The processors this process may run on, in ascending order."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processors by affinity, or fewer where a container's CPU quota allows fewer. At least 1."""
    cores = len(available_cpus())
    try:
        quota, period = cgroup.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of FEATURES that every processor has; none where the system does not tell."""
    if not cpuinfo.exists():
        return ()
    lines = [line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines()]
    flags = [set(value.split()) for key, _, value in lines if key.strip().lower() in ("flags", "features")]
    common = set.intersection(*flags) if flags else set()
    return tuple(name for name in FEATURES if name in common)
