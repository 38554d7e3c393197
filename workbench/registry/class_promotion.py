"""The variant to promote for one class of devices, and where it was measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.errors import Refused
from workbench.fleet.matrix import matrix_of
from workbench.fleet.records import FleetFolder, devices_of_class, find_fleet_run
from workbench.registry.manifest import MeasuredOn
from workbench.results.certification import certification_shortfalls
from workbench.results.folder import RunFolder
from workbench.results.history import find_trial
from workbench.results.reasons import Shortfall
from workbench.results.verdict import shortfalls
from workbench.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """run: of the first device of the class, whose numbers are published. missed: by any of its devices."""

    run: RunFolder
    variant: str
    measured_on: tuple[MeasuredOn, ...]
    missed: tuple[tuple[str, Sequence[Shortfall]], ...]

    def missed_text(self, describe: Callable[[Sequence[Shortfall]], str]) -> str:
        """What the variant misses, by device; empty where it misses nothing."""
        return "; ".join(f"{device}: {describe(found)}" for device, found in self.missed)


def class_choice(
    workspace: Workspace, run_id: str | None, device_class: str, variant: str | None
) -> ClassChoice:
    """The winner of a class in a fleet's run, or the named variant.

    Raises WorkbenchError for an unknown run or class, Refused where nothing wins.
    """
    folder = find_fleet_run(workspace.results, run_id)
    devices = devices_of_class(folder, device_class)
    if variant is None and (variant := matrix_of(folder).winners[device_class]) is None:
        raise Refused(
            f"nothing keeps the budget on `{device_class}` in run {folder.run_id}",
            hint="`krishi-bench compare` says why",
        )
    missed = []
    for device in devices:
        run = folder.device(device)
        info, trial = run.info().model_copy(update={"budget": workspace.budget}), find_trial(run, variant)
        if found := (*shortfalls(trial, info), *certification_shortfalls(trial, info)):
            missed.append((device, found))
    measured_on = tuple(_measured_on(folder, device, device_class) for device in devices)
    return ClassChoice(folder.device(devices[0]), variant, measured_on, tuple(missed))


def _measured_on(folder: FleetFolder, device: str, device_class: str) -> MeasuredOn:
    run = folder.device(device)
    info = run.info()
    return MeasuredOn(
        device_class=device_class,
        device=device,
        run_id=run.run_id,
        machine=info.machine,
        libraries=info.libraries,
    )
