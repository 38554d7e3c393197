"""`fleet.yaml`: the devices, the class of each, and how each is reached."""

import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from workbench.errors import FieldProblem, WorkbenchError, did_you_mean
from workbench.system.records import Record
from workbench.workspace import yamlfile

FILE_NAME = "fleet.yaml"
KIND = "fleet"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"  # what a label of Ray and of Kubernetes may be, too
SETUP_PYTHON = "~/.krishi-bench/bin/python"  # that `fleet setup` makes
EXAMPLE = "devices: {here: {class: dev, local: true}, pi5-a: {class: pi5, ssh: pi@10.0.0.21}}"

FleetName = Annotated[str, Field(pattern=NAME_PATTERN)]
Reach = Literal["local", "ssh", "ray"]
Role = Literal["measure", "build", "both"]


class DeviceSettings(Record):
    """A device of the fleet: its class, and one way to reach it."""

    device_class: FleetName = Field(
        alias="class",
        description="Devices of one class are of one make: they share a winner, and are compared with each "
        "other. Lower-case letters, digits, `.`, `_` and `-`, 63 characters at most.",
    )
    local: bool = Field(False, description="The device is this machine.")
    ssh: Annotated[str, Field(pattern=r"^[^-\s][^\s]*$")] | None = Field(
        None,
        description="Where OpenSSH reaches it: `user@host`, `ssh://user@host:2222`, or a name from "
        "`~/.ssh/config`. Keys, agents and jump hosts are those of `ssh` itself.",
    )
    ray: bool | Annotated[str, Field(pattern=r"^[^-\s][^\s]*$")] = Field(
        False,
        description="A raylet runs on it: an address for ssh, by which `krishi-bench fleet up` starts it, or "
        "`true` where others do, with the label `krishi.device`.",
    )
    python: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="The Python on the device that has krishi-bench: by default this one for `local`, "
        f"`{SETUP_PYTHON}` for `ssh`, which `krishi-bench fleet setup` makes, and that of the raylet.",
    )
    cache: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Folder on the device for what is sent to it; by default in its user's cache."
    )
    role: Role = Field(
        "measure",
        description="`measure`; `build`: it builds for the others and is not measured; `both`: it builds, "
        "and is measured when all is built. A builder runs the code of `model.factory`.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "DeviceSettings":
        ways = [name for name in ("local", "ssh", "ray") if getattr(self, name)]
        if len(ways) != 1:
            said = f"it says {' and '.join(ways)}" if ways else "it says none of them"
            raise FieldProblem(
                f"a device is reached in one way, `local`, `ssh` or `ray`: {said}",
                hint="`ssh: user@host` asks least of a device",
            )
        return self

    @property
    def builds(self) -> bool:
        return self.role != "measure"

    @property
    def reach(self) -> Reach:
        return "local" if self.local else "ray" if self.ray else "ssh"

    def interpreter(self) -> str:
        """The Python that has krishi-bench on the device."""
        return self.python or (SETUP_PYTHON if self.reach == "ssh" else sys.executable)


class FleetFile(Record):
    """`fleet.yaml`: the devices that `run --fleet` measures on."""

    devices: Annotated[dict[FleetName, DeviceSettings], Field(min_length=1)] = Field(
        description="The devices by name: lower-case letters, digits, `.`, `_` and `-`."
    )

    @model_validator(mode="after")
    def _measures(self) -> "FleetFile":
        if not self.measuring:
            raise FieldProblem(
                "every device only builds", hint="leave `role` out where one is to be measured"
            )
        return self

    @property
    def measuring(self) -> dict[str, DeviceSettings]:
        """The devices that are measured."""
        return {name: device for name, device in self.devices.items() if device.role != "build"}

    @property
    def builders(self) -> dict[str, DeviceSettings]:
        """The devices that build."""
        return {name: device for name, device in self.devices.items() if device.builds}

    @property
    def classes(self) -> list[str]:
        """The classes of what is measured, in the order of the file."""
        return list(dict.fromkeys(device.device_class for device in self.measuring.values()))

    def of_classes(self, wanted: Collection[str]) -> "FleetFile":
        """The fleet with the devices of these classes, and with all that build. Raises WorkbenchError for a
        class that no device has.

        wanted: none for all.
        """
        check_classes(wanted, self.classes)
        kept = {name: d for name, d in self.measuring.items() if not wanted or d.device_class in wanted}
        build = {name: d.model_copy(update={"role": "build"}) for name, d in self.builders.items()}
        found = build | kept
        ordered = {name: found[name] for name in self.devices if name in found}
        return self.model_copy(update={"devices": ordered})

    def named(self, wanted: Collection[str]) -> "FleetFile":
        """The fleet without the other devices, or all where none is named. Raises WorkbenchError."""
        for name in wanted:
            if name not in self.devices:
                hint = did_you_mean(name, self.devices) or f"they are {', '.join(self.devices)}"
                raise WorkbenchError(f"no device is named `{name}`", hint=hint)
        kept = {name: device for name, device in self.devices.items() if not wanted or name in wanted}
        return self.model_copy(update={"devices": kept})


def check_classes(wanted: Collection[str], known: Collection[str]) -> None:
    """Raise WorkbenchError for a class that is not among the known ones."""
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known) or f"they are {', '.join(known)}"
            raise WorkbenchError(f"no device is of the class `{name}`", hint=hint)


def load_fleet(root: Path) -> FleetFile:
    """The `fleet.yaml` of a workspace's folder. Raises WorkbenchError."""
    path = root / FILE_NAME
    if not path.is_file():
        raise WorkbenchError(f"{path} does not exist", hint=f"it lists the devices: `{EXAMPLE}`")
    document = yamlfile.read(path, kind=KIND)
    return yamlfile.validated(FleetFile, document.data, document, kind=KIND)


def remote_word(text: str) -> str:
    """A path as a word of a POSIX shell that still expands a leading `~/`."""
    return f'"$HOME"/{shlex.quote(text[2:])}' if text.startswith("~/") else shlex.quote(text)
