"""`stress`: the photos of a field, before the field sees the model."""

import sys
from typing import Annotated

import typer

from workbench.cli.options import (
    Answers,
    Debug,
    Quiet,
    WorkspaceOption,
    find_workspace,
    option,
    parse_whole,
    run_ids,
    variant_names,
)
from workbench.cli.output import print_answer

PANEL = "Measure"
MOST = 5  # severity


def parse_severities(given: str) -> tuple[int, ...]:
    """`3` or `1,3,5`."""
    try:
        return tuple(sorted({parse_whole(word.strip(), least=1, most=MOST) for word in given.split(",")}))
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint="'--severity'") from None


def parse_limit(given: object) -> int:
    """A number of photos, or `all`."""
    return sys.maxsize if str(given) == "all" else parse_whole(given, least=1)


RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="id or folder (default: the latest)", autocompletion=run_ids, show_default=False
    ),
]
Variants = Annotated[
    list[str] | None,
    option(
        "--variant",
        "repeatable, or `all` (default: the winner)",
        metavar="NAME",
        autocompletion=variant_names,
    ),
]
Severities = Annotated[
    str | None, option("--severity", "1 to 5, or several as 1,3 (default: every one)", metavar="N")
]
Only = Annotated[
    str | None, option("--only", "stresses, such as dusk,blur (default: every one)", metavar="LIST")
]
Limit = Annotated[
    int | None,
    option(
        "--limit",
        "photos, or `all` (default: 500; all at one severity and at that of budget.field)",
        parser=parse_limit,
        metavar="N",
    ),
]


def stress(
    run: RunArgument = None,
    variant: Variants = None,
    severity: Severities = None,
    only: Only = None,
    limit: Limit = None,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Measure what variants lose on photos as a field gives them: blurred, dark, wet, sent on."""
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.photos.stress import SEVERITIES, find_stresses
    from workbench.report import stress as words
    from workbench.results.folder import find_run
    from workbench.run.stress import StressRequest, find_trials, left_out, measure_stress

    severities = parse_severities(severity) if severity is not None else SEVERITIES
    stresses = find_stresses([word.strip() for word in only.split(",")] if only is not None else ())
    request = StressRequest(tuple(variant or ()), stresses, severities, limit)
    found = find_workspace(workspace)
    folder = find_run(found.results, run)
    info = folder.info().model_copy(update={"budget": found.budget})
    with ProgressDisplay(quiet=quiet) as report:
        record = measure_stress(folder, info, request, report)
    trials, names = folder.trials(), [t.variant for t in find_trials(folder, info, request.variants)]
    same = left_out(trials, request.variants)
    answer = words.stress_answer(record, info, trials, names, severities, stresses, same)
    print_answer(words.as_json(answer), words.text(answer), form)
    field = found.budget.field
    return int(field is not None and not answer.certified_at(field.severity))
