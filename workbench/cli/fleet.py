"""`fleet`, and what `run --fleet` and `compare` do with it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workbench.cli.options import AnswerFormat, Answers, Debug, Quiet, WorkspaceOption, find_workspace, option
from workbench.cli.output import print_answer, terminal_width
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.cli.options import TableFormat
    from workbench.fleet.records import FleetFolder
    from workbench.fleet.spec import FleetFile
    from workbench.fleet.standing import DeviceStanding
    from workbench.fleet.tune import FleetTuned
    from workbench.run.pipeline import Options
    from workbench.system.progress import Report
    from workbench.workspace.recipe import Variant
    from workbench.workspace.workspace import Workspace

PANEL = "Measure"
FORMATS = ("table", "json", "html")  # of a fleet's run
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

    found = load_fleet(find_workspace(workspace, inputs=False).root).named(devices or [])
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
    text = words.standings_text(standings, terminal_width())
    print_answer(words.standings_answer(standings), text, form)
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


def tune_on_fleet(
    workspace: "Workspace",
    found: "FleetFile",
    variants: "Sequence[Variant]",
    name: str | None,
    options: "Options",
    report: "Report",
) -> "FleetTuned":
    """Search for each class. name: what the recipes' names begin with."""
    from workbench.fleet.run import FleetOptions
    from workbench.fleet.tune import tune_fleet
    from workbench.run.tune.tune import recipe_path

    recipes = {each: recipe_path(workspace, f"{name or 'tuned'}-{each}") for each in found.classes}
    return tune_fleet(workspace, found, variants, recipes, FleetOptions(options), report)


def conclude_tuning(done: "FleetTuned", form: "TableFormat") -> int:
    """As `conclude_fleet`, with the story of each class. Returns 1 too where a winner is not certified."""
    from workbench.report import fleet_tune as words

    code = conclude_fleet(done.folder.path, form)
    print(words.text(done), file=sys.stderr)
    return int(bool(code) or not all(tuned.comparison.certified for tuned in done.found.values()))


def print_matrix(folder: Path, form: "TableFormat", output: Path | None = None) -> int:
    """Print a fleet's run. Returns 1 where a class has no winner, or no device measured to the end.

    output: for the page of `--format html`, in the place of stdout.
    """
    from workbench.fleet.matrix import matrix_of
    from workbench.fleet.records import FleetFolder
    from workbench.report import fleet as words

    if form not in FORMATS:
        raise typer.BadParameter(f"for a run of a fleet it is {', '.join(FORMATS)}", param_hint="'--format'")
    if output is not None and form != "html":
        raise typer.BadParameter("for a run of a fleet only with --format html", param_hint="'--output'")
    found = FleetFolder(folder)
    matrix, status = matrix_of(found), found.status()
    if form == "html":
        _print_page(found, output)
    else:
        answer = words.matrix_answer(matrix, status)
        print_answer(answer, words.matrix_text(matrix, status, terminal_width()), form)
    return int(bool(status.incomplete_classes) or not all(matrix.winners.values()))


def _print_page(found: "FleetFolder", output: Path | None) -> None:
    from workbench.report import page
    from workbench.system.files import write_atomic

    beside = found.path if output is None else output.absolute().parent
    html = page.render_fleet(found, beside)
    sys.stdout.write(html) if output is None else write_atomic(output, html.encode())


def conclude_fleet(folder: Path, form: "TableFormat") -> int:
    """Print a fleet's run that has just ended; leave its page, and those of its devices, in its folder."""
    from workbench.fleet.records import FleetFolder
    from workbench.report import page

    code = print_matrix(folder, form)
    sys.stdout.flush()  # the pages take seconds
    if (absent := page.missing()) is None:
        page.write_fleet(FleetFolder(folder))
    else:
        print(f"no report.html was written: {absent}", file=sys.stderr)
    return code
