"""What this computer is."""

import os
import platform
from functools import lru_cache
from pathlib import Path

from workbench.system.files import digest_of
from workbench.system.records import Record

# The instruction sets that decide which arithmetic is fast, as Linux names them.
FEATURES = {
    "avx2": "256-bit vectors",
    "fma": "fused multiply-add",
    "f16c": "FP16 conversion",
    "avx512f": "512-bit vectors",
    "avx512bw": "512-bit vectors of bytes",
    "avx512_vnni": "INT8 dot products, 512-bit",
    "avx_vnni": "INT8 dot products",
    "avx512_bf16": "BF16 dot products",
    "avx512_fp16": "FP16 arithmetic",
    "amx_tile": "matrix tiles",
    "amx_int8": "INT8 matrix tiles",
    "amx_bf16": "BF16 matrix tiles",
    "asimd": "128-bit vectors (ARM)",
    "asimddp": "INT8 dot products (ARM)",
    "i8mm": "INT8 matrix products (ARM)",
    "asimdhp": "FP16 vectors (ARM)",
    "fphp": "FP16 arithmetic (ARM)",
    "bf16": "BF16 dot products (ARM)",
    "sve": "scalable vectors (ARM)",
}
# Names for any of several.
FEATURE_GROUPS = {
    **{name: frozenset({name}) for name in FEATURES},
    "amx": frozenset({"amx_int8", "amx_bf16"}),
    "avx512": frozenset({"avx512f"}),
    "vnni": frozenset({"avx512_vnni", "avx_vnni"}),
}
INT8_DOT = FEATURE_GROUPS["vnni"] | {"amx_int8", "asimddp", "i8mm"}  # four products summed at once
BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


class Machine(Record):
    """The parts of a computer that decide how fast a model runs on it.

    cores: logical processors this process may use. memory_bytes: of the whole machine. features: of FEATURES.
    """

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
    from workbench.system.nvml import opened_gpus

    cpu, features = read_cpuinfo()
    with opened_gpus() as readers:
        gpus = tuple(gpu.name() for gpu in readers)
    return Machine(
        cpu=cpu,
        architecture=platform.machine(),
        cores=len(available_cpus()),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=gpus,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        features=features,
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


def free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be had without swapping; less where a container's limit leaves less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return free
    if limit == "max":
        return free
    # Pages of files that nobody has used for a while are given back where memory is wanted.
    cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return max(0, min(free, int(limit) - int(used) + cached))


def read_cpuinfo(path: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """The processor's model, and those of FEATURES that all its cores have; none where it does not tell."""
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = [line.partition(":") for line in text.splitlines()]
    fields = [(key.strip().lower(), value.strip()) for key, _, value in lines]
    model = next((value for key, value in fields if key == "model name"), platform.processor() or "unknown")
    flags = [set(value.split()) for key, value in fields if key in ("flags", "features")]
    common = set.intersection(*flags) if flags else set()
    return model, tuple(name for name in FEATURES if name in common)
