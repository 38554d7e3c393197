"""`report`: what is sent to those who were not there."""

import sys
from pathlib import Path
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

    from workbench.results.folder import fleet_run

    results = find_workspace(workspace, inputs=False).results
    fleet = fleet_run(results, runs[0] if runs else None) if len(runs or []) < 2 else None
    target = _write_runs(results, runs or [], output) if fleet is None else _write_fleet(fleet, output)
    print(target)
    if open_it:
        import webbrowser

        if not webbrowser.open(target.resolve().as_uri()):
            print("no browser was found here: open the file by hand", file=sys.stderr)
    return 0


def _write_runs(results: Path, runs: list[str], output: Path | None) -> Path:
    from workbench.report import page
    from workbench.results.folder import find_run
    from workbench.results.history import compare_folder
    from workbench.system.files import write_atomic

    folders = [find_run(results, run) for run in runs] or [find_run(results, None)]
    target = output or (folders[0].path if len(folders) == 1 else results) / page.FILE
    write_atomic(target, page.render([compare_folder(folder) for folder in folders], folders).encode())
    return target


def _write_fleet(folder: Path, output: Path | None) -> Path:
    from workbench.fleet.records import FleetFolder
    from workbench.report import page

    return page.write_fleet(FleetFolder(folder), output)
