"""`init`, `inspect`, `doctor` and `schema`: the folder, a model's file, the machine, the files to write."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from workbench.cli.options import Answers, Debug, Quiet, WorkspaceOption, find_workspace
from workbench.cli.output import print_answer
from workbench.errors import WorkbenchError

PANEL = "Inspect"
READ_TIMEOUT_S = 600.0


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)] = Path(),
    _debug: Debug = False,
) -> int:
    """Write a commented krishi.yaml from what a folder holds."""
    from workbench.measure.power import power
    from workbench.photos.folders import count_photos
    from workbench.report.power import sentence
    from workbench.results.records import Budget
    from workbench.workspace.draft import look, write_draft

    path, findings = write_draft(folder)
    for finding in findings:
        print(finding)
    validation = look(folder).validation
    if validation is not None and (photos := count_photos(folder / validation)):
        print(sentence(power(photos, Budget().max_accuracy_drop)))
    print(f"wrote {path}: read it through, then `krishi-bench run`")
    return 0


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    form: Answers = "table",
    _debug: Debug = False,
) -> int:
    """Say what a model's file holds, and what krishi.yaml needs beside it."""
    from workbench.model.source.file_facts import examine
    from workbench.report import file_facts as words
    from workbench.system.child import call
    from workbench.system.files import cache_folder

    log = cache_folder() / "logs" / "inspect.txt"
    facts = call(examine, file, log=log, timeout_s=READ_TIMEOUT_S, label=f"reading {file}")
    print_answer(words.answer(facts), words.text(facts), form)
    return 0


def doctor(
    form: Answers = "table", workspace: WorkspaceOption = None, quiet: Quiet = False, _debug: Debug = False
) -> int:
    """Say what this machine can run, how good its clock is, and which photos a workspace has."""
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.report import doctor as words
    from workbench.results.records import Budget
    from workbench.run.doctor import diagnose

    try:
        found = find_workspace(workspace)
        data, budget = found.photos(), found.budget
    except WorkbenchError as error:
        if workspace is not None:
            raise
        data, budget = {}, Budget()  # the machine can be looked at all the same
        print(f"warning: {error.message}", file=sys.stderr)
    with ProgressDisplay(quiet=quiet) as report:
        diagnosis = diagnose(report, data, budget.max_accuracy_drop)
    print_answer(words.answer(diagnosis), words.text(diagnosis), form)
    return 0


def schema(
    of: Annotated[Literal["recipe", "workspace", "fleet", "compare"], typer.Argument()] = "recipe",
    _debug: Debug = False,
) -> int:
    """Print the JSON Schema of recipes, krishi.yaml, fleet.yaml or what `compare --format json` prints."""
    match of:
        case "recipe":
            from workbench.workspace.recipe import Recipe

            described = Recipe.model_json_schema()
        case "workspace":
            from workbench.workspace.workspace import WorkspaceFile

            described = WorkspaceFile.model_json_schema()
        case "fleet":
            from workbench.fleet.spec import FleetFile

            described = FleetFile.model_json_schema()
        case "compare":
            from workbench.report.json import schema as comparison_schema

            described = comparison_schema()
    print(json.dumps(described, indent=2))
    return 0
