"""`fleet`, and what `run --fleet` and `compare` do with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from workbench.cli.options import AnswerFormat, Answers, Debug, Quiet, WorkspaceOption, find_workspace, option
from workbench.cli.output import print_answer
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.cli.options import TableFormat
    from workbench.fleet.spec import FleetFile
    from workbench.fleet.standing import DeviceStanding
    from workbench.run.pipeline import Options
    from workbench.system.progress import Report
    from workbench.workspace.recipe import Variant
    from workbench.workspace.workspace import Workspace

PANEL = "Measure"
Action = Literal["status", "doctor", "setup", "up", "down"]
ActionArgument = Annotated[
    Action,
    typer.Argument(
        help="status: free, busy or gone; doctor: and how good each clock is; setup: install krishi-bench "
        "over ssh; up, down: start and end Ray on the devices that say `ray`",
        show_default=False,
    ),
]
Devices = Annotated[
    list[str] | None, typer.Argument(metavar="DEVICE", help="names (default: all)", show_default=False)
]
Wheels = Annotated[
    Path | None, option("--wheels", "with setup: send the wheels of this folder along", metavar="DIR")
]
Offline = Annotated[bool, option("--offline", "with setup: take nothing from an index")]
Interface = Annotated[
    str | None, option("--interface", "with up: this machine's address for the devices", metavar="ADDRESS")
]


def fleet(
    action: ActionArgument,
    devices: Devices = None,
    wheels: Wheels = None,
    offline: Offline = False,
    interface: Interface = None,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Look after the devices of fleet.yaml."""
    from workbench.fleet.spec import load_fleet

    found = load_fleet(find_workspace(workspace).root).named(devices or [])
    match action:
        case "setup":
            return _set_up(found, wheels, form, offline=offline)
        case "up":
            from workbench.fleet import ray_cluster

            print_answer(answer := ray_cluster.up(found, interface), _lines(answer), form)
            return 0
        case "down":
            from workbench.fleet import ray_cluster

            print_answer(answer := ray_cluster.down(found), _lines(answer), form)
            return 0
        case _:
            return _look(found, form, clock=action == "doctor", quiet=quiet)


def _lines(answer: dict[str, str]) -> str:
    return "\n".join(f"{name}: {text}" for name, text in answer.items())


def _look(found: "FleetFile", form: AnswerFormat, *, clock: bool, quiet: bool) -> int:
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.fleet.standing import look_at
    from workbench.report import fleet as words
    from workbench.system.progress import Progress

    with ProgressDisplay(quiet=quiet) as report:

        def answered(standing: "DeviceStanding") -> None:
            report(Progress(standing.state, 0, 0, standing.name))

        standings = look_at(found, clock=clock, found=answered)
    print_answer(words.standings_answer(standings), words.standings_text(standings), form)
    return int(any(standing.state in ("gone", "unfit") for standing in standings))


def _set_up(found: "FleetFile", wheels: Path | None, form: AnswerFormat, *, offline: bool) -> int:
    from workbench.fleet.setup import set_up

    answer: dict[str, Any] = {}
    failed = False
    reached = {name: device for name, device in found.devices.items() if device.ssh is not None}
    for name, device in reached.items():
        try:
            answer[name] = f"krishi-bench {set_up(device, wheels, offline=offline)}"
        except WorkbenchError as error:
            if len(reached) == 1:
                raise
            failed = True
            answer[name] = f"{error.message} ({error.hint})" if error.hint else error.message
    print_answer(answer, _lines(answer) or "no device is reached over ssh", form)
    return int(failed)


def fleet_of(workspace: "Workspace", classes: Sequence[str]) -> "FleetFile":
    """The devices of these classes, of all where none is named. Raises WorkbenchError."""
    from workbench.fleet.spec import load_fleet

    return load_fleet(workspace.root).of_classes(classes)


def variants_to_resume(workspace: "Workspace", run_id: str) -> "list[Variant]":
    """Those of a fleet's run. Raises WorkbenchError for an unknown one."""
    from workbench.fleet.records import find_fleet_run
    from workbench.fleet.run import variants_of

    return variants_of(find_fleet_run(workspace.results, run_id))


def run_on_fleet(
    workspace: "Workspace",
    found: "FleetFile",
    variants: "Sequence[Variant]",
    options: "Options",
    report: "Report",
    resume: str | None,
    *,
    shard: bool,
) -> Path:
    """Run on the devices, or take up a run; returns its folder."""
    from workbench.fleet.run import FleetOptions, resume_fleet, run_fleet

    settings = FleetOptions(options, shard=shard)
    if resume is not None:
        status = resume_fleet(workspace, found, resume, settings, report)
    else:
        status = run_fleet(workspace, found, variants, settings, report)
    return workspace.results / status.run.run_id


def print_matrix(folder: Path, form: "TableFormat") -> int:
    """Print a fleet's run. Returns 1 where a class has no winner, or no device measured to the end."""
    from workbench.fleet.matrix import matrix_of
    from workbench.fleet.records import FleetFolder
    from workbench.report import fleet as words

    if form not in get_args(AnswerFormat):
        raise typer.BadParameter("for a run of a fleet it is table or json", param_hint="'--format'")
    found = FleetFolder(folder)
    matrix, status = matrix_of(found), found.status()
    answer = words.matrix_answer(matrix, status)
    print_answer(answer, words.matrix_text(matrix, status), form)
    return int(bool(status.incomplete_classes) or not all(matrix.winners.values()))
