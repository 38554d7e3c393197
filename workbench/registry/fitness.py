"""Whether this machine's processor can run what was measured on others."""

from workbench.errors import WorkbenchError
from workbench.registry.manifest import Draft
from workbench.system.machine import Machine, collect


def check_processor(manifest: Draft, here: Machine | None = None) -> None:
    """Raise WorkbenchError where a version that was published for a class of devices is not for this one.

    here: the machine; this one by default. A version that was published for all is for all.
    """
    here = here or collect()
    made_for = {on.machine.architecture for on in manifest.measured_on}
    if made_for and here.architecture not in made_for:
        classes = ", ".join(sorted({on.device_class for on in manifest.measured_on}))
        raise WorkbenchError(
            f"{manifest.name} {manifest.version} was published for {classes} "
            f"({', '.join(sorted(made_for))}), and this processor is {here.architecture}",
            hint="set KRISHI_CLASS to the class of this machine, or follow an alias without one",
        )
