"""`storage`: what is kept on disk."""

from typing import Annotated

import typer

from workbench.cli.options import Answers, Debug, WorkspaceOption, find_workspace, option
from workbench.cli.output import print_answer

PANEL = "Inspect"
WHAT = "models, engines, environments, caches, or a name that is listed; they are made again when wanted"
Remove = Annotated[list[str] | None, option("--remove", WHAT, metavar="WHAT")]
Unneeded = Annotated[bool, option("--gc", "all that nothing needs any more")]
Delete = Annotated[bool, option("--delete", "do it (default: only say so)")]


def storage(
    remove: Remove = None,
    gc: Unneeded = False,
    delete: Delete = False,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Show what results, models, engines, environments and caches take on disk, and take it away."""
    from workbench.registry.storage import clear
    from workbench.report import storage as words

    if delete and not (remove or gc):
        raise typer.BadParameter("say what: --gc, or --remove WHAT", param_hint="'--delete'")
    found = find_workspace(workspace)
    kept = clear(found, remove=remove or (), unneeded=gc, delete=delete)
    print_answer(words.answer(kept), words.text(kept, asked=bool(remove) or gc), form)
    return 0
