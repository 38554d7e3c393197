"""What a device is, as far as it decides whether and how well it can measure."""

import os
import platform
import shutil
import struct
from pathlib import Path
from typing import Annotated

from pydantic import Field

from workbench import __version__
from workbench.measure.host_watch import conditions
from workbench.run.build import code_digest
from workbench.run.pipeline import LIBRARIES
from workbench.system import machine
from workbench.system.machine import Machine
from workbench.system.packages import versions
from workbench.system.records import Record

LEAST_MEMORY_BYTES = 400_000_000  # a worker, the baseline, its second copy and one variant of a small network
THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")  # of a Raspberry Pi
THROTTLED_NOW = 0xF  # the bits that hold at this moment; those above say what happened since it started


class DeviceFacts(Record):
    """A device as its worker finds it.

    code: digest of the code that builds and measures. bits: of its Python. glibc: None without one.
    celsius: of its hottest sensor; throttled: the firmware lowers the clock now; None where not known.
    """

    version: str
    code: str
    bits: int
    machine: Machine
    usable_cores: Annotated[int, Field(ge=1)]
    libraries: dict[str, str]
    glibc: str | None
    page_bytes: int
    governor: str
    turbo: str
    celsius: float | None
    throttled: bool | None
    free_memory_bytes: int
    free_disk_bytes: int

    def unfit(self, *, version: str = __version__, disk_bytes: int = 0) -> str | None:
        """Why nothing can be measured there, with the remedy; None where it can.

        version: of the driver. disk_bytes: that are to be sent.
        """
        if self.version != version:
            return f"it has krishi-bench {self.version}, the driver has {version}: `krishi-bench fleet setup`"
        if self.bits != 64:
            return "its Python has 32 bits, for which there are no runtimes: install a 64-bit system"
        if self.free_memory_bytes < LEAST_MEMORY_BYTES:
            return (
                f"{self.free_memory_bytes / 1e6:.0f} MB of its memory are free, measuring takes "
                f"{LEAST_MEMORY_BYTES / 1e6:.0f}: end other programs, or take a larger board"
            )
        if self.free_disk_bytes < disk_bytes:
            return (
                f"{self.free_disk_bytes / 1e6:.0f} MB of its disk are free, {disk_bytes / 1e6:.0f} are to be "
                "sent: make room, or name another folder as `cache`"
            )
        return None

    def same_as(self, other: "DeviceFacts") -> bool:
        """Whether what was measured then may stand beside what is measured now."""
        mine, theirs = self.machine, other.machine
        return (self.code, mine.fingerprint, mine.system, self.libraries) == (
            *(other.code, theirs.fingerprint, theirs.system),
            other.libraries,
        )


def collect_facts(cache: Path) -> DeviceFacts:
    """Of this machine. cache: the folder that objects are kept in."""
    at, library = conditions(), platform.libc_ver()
    return DeviceFacts(
        version=__version__,
        code=code_digest(),
        bits=8 * struct.calcsize("P"),
        machine=machine.collect(),
        usable_cores=machine.usable_cores(),
        libraries=versions(*LIBRARIES),
        glibc=library[1] if library[0] == "glibc" else None,
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        governor=at.governor,
        turbo=at.turbo,
        celsius=_celsius(),
        throttled=_throttled(),
        free_memory_bytes=machine.free_memory_bytes(),
        free_disk_bytes=shutil.disk_usage(_existing(cache)).free,
    )


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _celsius(sys: Path = Path("/sys")) -> float | None:
    found = []
    for sensor in sys.glob("class/thermal/thermal_zone*/temp"):
        try:
            found.append(int(sensor.read_text()) / 1000)
        except (OSError, ValueError):  # some are there and cannot be read
            continue
    return max(found, default=None)


def _throttled(path: Path = THROTTLED) -> bool | None:
    try:
        return bool(int(path.read_text(), 16) & THROTTLED_NOW)
    except (OSError, ValueError):
        return None
