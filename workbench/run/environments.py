"""The virtual environments that variants need: which are not made yet, and making them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from workbench.errors import WorkbenchError
from workbench.system.environments import VirtualEnvironment
from workbench.system.environments.maker import make
from workbench.system.environments.wheels import refuse_no_folder
from workbench.system.progress import Progress, Report
from workbench.workspace.recipe import Variant

NOTHING: Mapping[VirtualEnvironment, str] = MappingProxyType({})


def environments_of(variant: Variant) -> tuple[VirtualEnvironment, ...]:
    """Those that it is built and run in, besides this one."""
    runtime = variant.runtime
    found = [runtime.environment(), *(step.environment(runtime) for step in variant.steps)]
    return tuple(dict.fromkeys(each for each in found if each is not None))


def not_made(variants: Sequence[Variant]) -> list[VirtualEnvironment]:
    """Those that the variants need and that are still to be made, in their order."""
    needed = dict.fromkeys(each for variant in variants for each in environments_of(variant))
    return [each for each in needed if each.made() is None]


def make_all(
    environments: Sequence[VirtualEnvironment], report: Report, *, wheels: Path | None = None
) -> dict[VirtualEnvironment, str]:
    """Make them one after the other; returns those that could not be made, each with the reason.

    wheels: a folder of wheels to make them from, which must be there even where nothing is to be made.
    Raises WorkbenchError where none could be made.
    """
    if wheels is not None:
        refuse_no_folder(wheels)
    failed: dict[VirtualEnvironment, str] = {}
    for number, environment in enumerate(environments):
        report(Progress("making environments", number, len(environments), environment.name))

        def wait(name: str = environment.name) -> None:
            report(Progress("waiting", 0, 0, f"for another run to make {name}"))

        try:
            make(environment, wheels=wheels, waiting=wait)
        except WorkbenchError as error:
            if len(environments) == 1:
                raise
            failed[environment] = f"{error.message} ({error.hint})" if error.hint else error.message
    if environments and len(failed) == len(environments):
        reasons = "\n  ".join(dict.fromkeys(failed.values()))
        raise WorkbenchError(f"none of the environments could be made:\n  {reasons}")
    return failed
