"""`report`: what is sent to those who were not there."""

import sys
from typing import Annotated

from workbench.cli.decide import Runs
from workbench.cli.options import Debug, Output, WorkspaceOption, find_workspace, option
from workbench.cli.output import check_output

PANEL = "Decide"
OpenIt = Annotated[bool, option("--open", "show it in the browser")]


def report(
    runs: Runs = None,
    open_it: OpenIt = False,
    output: Output = None,
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Write what runs measured as one HTML page: charts, photos and tables, offline."""
    check_output("html", output)

    from workbench.report import page
    from workbench.results.folder import find_run
    from workbench.results.history import compare_folder
    from workbench.system.files import write_atomic

    results = find_workspace(workspace).results
    folders = [find_run(results, run) for run in runs or []] or [find_run(results, None)]
    target = output or (folders[0].path if len(folders) == 1 else results) / page.FILE
    write_atomic(target, page.render([compare_folder(folder) for folder in folders], folders).encode())
    print(target)
    if open_it:
        import webbrowser

        if not webbrowser.open(target.resolve().as_uri()):
            print("no browser was found here: open the file by hand", file=sys.stderr)
    return 0
