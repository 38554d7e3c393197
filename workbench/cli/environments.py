"""Asks before virtual environments are made."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.errors import plural

if TYPE_CHECKING:
    from workbench.system.environments import VirtualEnvironment
    from workbench.workspace.recipe import Variant

SECONDS_EACH = 30  # docs/measured-runtime-versions.md, with wheels that were near


def agreed(variants: "Sequence[Variant]", source_kind: str, *, yes: bool) -> "list[VirtualEnvironment]":
    """The environments to make for these variants: all that they lack, where the user agrees; else none.

    What cannot be tried with such a source, or on this machine, needs none. yes: the user said so
    beforehand. Away from a terminal nobody is asked.
    """
    from workbench.run.availability import ruled_out
    from workbench.run.environments import not_made

    lacking = not_made([each for each in variants if ruled_out(each, source_kind) is None])
    if yes or not lacking:
        return lacking
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return []
    import typer

    print(question(lacking), file=sys.stderr)
    return lacking if typer.confirm("Make them now?", default=True, err=True) else []


def question(lacking: "Sequence[VirtualEnvironment]") -> str:
    """What is to be made, how large, how long."""
    size = sum(each.about_bytes for each in lacking) / 1e6
    names = "".join(f"\n  {each.name}: about {each.about_bytes / 1e6:.0f} MB" for each in lacking)
    minutes = max(1, round(len(lacking) * SECONDS_EACH / 60))
    return (
        f"the recipes need {plural(len(lacking), 'environment')} of their own, which pip would make in "
        f"{lacking[0].folder.parent}:{names}\n"
        f"about {size:.0f} MB together and {plural(minutes, 'minute')}, more with a slow connection; "
        "this environment stays as it is"
    )
