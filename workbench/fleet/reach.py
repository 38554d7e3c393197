"""How a worker on a device is started: as a process of this machine, over OpenSSH, or by an actor of Ray."""

import os
from collections.abc import Callable
from pathlib import Path

from workbench.fleet.frames import BUILDS
from workbench.fleet.link import DeviceLink, ProcessLink
from workbench.fleet.openssh import explain, ssh_command
from workbench.fleet.spec import DeviceSettings, remote_word
from workbench.system.child import child_environment

WORKER = "workbench.fleet.worker"

OpenLink = Callable[[str, DeviceSettings, Path], DeviceLink]


def open_link(name: str, device: DeviceSettings, log: Path) -> DeviceLink:
    """A connection to a new worker on the device. log: file for what the connection says on the way.

    What goes wrong is said by the first question. Raises WorkbenchError where it cannot be tried.
    """
    match device.reach:
        case "local":
            command = [device.interpreter(), "-P", "-m", WORKER, *_flags(device)]
            environment = {**(os.environ if device.python else child_environment()), **_cache_of(device)}
            return ProcessLink(command, log, explain, environment)
        case "ssh":
            assert device.ssh is not None
            return ProcessLink(ssh_command(device.ssh, worker_command(device)), log, explain)
        case "ray":
            from workbench.fleet.ray_link import RayLink

            return RayLink(name, device)


def _cache_of(device: DeviceSettings) -> dict[str, str]:
    return {"KRISHI_CACHE": str(Path(device.cache).expanduser())} if device.cache else {}


def _flags(device: DeviceSettings) -> list[str]:
    return [BUILDS] if device.builds else []


def worker_command(device: DeviceSettings) -> str:
    """What the device's shell runs."""
    cache = f"KRISHI_CACHE={remote_word(device.cache)} " if device.cache else ""
    words = " ".join([WORKER, *_flags(device)])
    return f"{cache}exec {remote_word(device.interpreter())} -P -m {words}"
