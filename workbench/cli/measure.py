"""`run`, `tune` and `export`: what builds and measures."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from workbench.cli.options import (
    Debug,
    Output,
    Quiet,
    Recipes,
    Seed,
    Tables,
    Verbose,
    WorkspaceOption,
    count,
    find_workspace,
    option,
    recipes,
    seconds,
)
from workbench.cli.output import check_output, print_run

if TYPE_CHECKING:
    from workbench.results.remarks import Remark
    from workbench.run.advice.advise import Advice
    from workbench.system.progress import Report

PANEL = "Measure"
TimeBudget = Annotated[
    float, seconds("--time-budget", "for timing: 60s, 10m (default: 3m); building and checking come on top")
]
Rounds = Annotated[int, count("--rounds", "rounds of fresh launches, at most (default: 20)")]
Turns = Annotated[int, count("--turns", "timed turns a round, at most (default: 60)")]
BuildTimeout = Annotated[float, seconds("--build-timeout", "for one variant (default: 15m)")]
Advised = Annotated[bool, option("--advised", "only what `advise` finds worth trying")]
Start = Annotated[list[Path] | None, recipes("to begin with (default: all shipped)")]
SearchBudget = Annotated[float, seconds("--budget", "time for all of it (default: 10m)")]
RecipeName = Annotated[str | None, option("--name", "of the recipe (default: tuned-<model>)", metavar="NAME")]
InputShape = Annotated[
    tuple[int, int, int, int],
    count("--input-shape", "of the network's input (default: 1 3 224 224)", metavar="N C H W"),
]
OpsetVersion = Annotated[int, option("--opset-version", "opset to write (default: 18)", metavar="N")]
Exporter = Annotated[
    Literal["auto", "dynamo", "torchscript"],
    option("--exporter", "auto: dynamo, and torchscript where that fails or does not write the opset"),
]
Unmerged = Annotated[
    bool, option("--no-reparameterize", "leave branches that could be merged for inference as they are")
]
Factory = Annotated[
    str | None, option("--factory", "builds the network a state dict fits", metavar="FILE.py:CALLABLE")
]


def run(
    recipes: Recipes = None,
    time_budget: TimeBudget = 180.0,
    rounds: Rounds = 20,
    turns: Turns = 60,
    build_timeout: BuildTimeout = 900.0,
    seed: Seed = 0,
    advised: Advised = False,
    form: Tables = "table",
    output: Output = None,
    verbose: Verbose = False,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Build, measure and compare the variants of recipes."""
    check_output(form, output)

    from workbench.workspace import recipe

    variants = recipe.load(recipes or [recipe.shipped()])
    found = find_workspace(workspace)

    from workbench.cli.progress_display import ProgressDisplay
    from workbench.measure.latency import Plan
    from workbench.run import pipeline

    with ProgressDisplay(quiet=quiet) as report:
        settings = pipeline.Options(
            plan=Plan(rounds=rounds, turns=turns, budget_s=time_budget, seed=seed),
            build_timeout_s=build_timeout,
            arguments=tuple(sys.argv[1:]),
            advised=advised,
            show_remarks=partial(_report_remarks, report),
        )
        comparison = pipeline.run_workspace(
            found, variants, settings, report, partial(_report_advice, report)
        )
    return print_run(comparison, found.results, form, verbose=verbose, output=output)


def _report_advice(report: "Report", given: "Advice") -> None:
    from workbench.report.advice import headlines
    from workbench.system.progress import Progress

    for line in headlines(given):
        report(Progress("advice", 0, 0, line))


def _report_remarks(report: "Report", remarks: "Sequence[Remark]") -> None:
    from workbench.report.remarks import sentence
    from workbench.system.progress import Progress

    for remark in remarks:
        report(Progress("wrong" if remark.gravity == "grave" else "note", 0, 0, sentence(remark)))


def tune(
    recipes: Start = None,
    budget: SearchBudget = 600.0,
    name: RecipeName = None,
    seed: Seed = 0,
    form: Tables = "table",
    output: Output = None,
    verbose: Verbose = False,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Search for the best variant within the budget, and write it as a recipe."""
    check_output(form, output)

    from workbench.cli.progress_display import ProgressDisplay
    from workbench.measure.latency import Plan
    from workbench.report import tune as words
    from workbench.run import pipeline
    from workbench.run.tune.tune import recipe_path
    from workbench.run.tune.tune import tune as search
    from workbench.workspace import recipe

    found = find_workspace(workspace)
    target = recipe_path(found, name)
    with ProgressDisplay(quiet=quiet) as report:
        variants = recipe.load(recipes or [recipe.shipped()])
        settings = pipeline.Options(
            plan=Plan(budget_s=budget, seed=seed),
            arguments=tuple(sys.argv[1:]),
            show_remarks=partial(_report_remarks, report),
        )
        tuned = search(found, variants, target, settings, report)
    code = print_run(tuned.comparison, found.results, form, verbose=verbose, output=output)
    print(words.text(tuned), file=sys.stderr)
    return code


def export(
    checkpoint: Annotated[Path, option("--checkpoint", metavar="FILE")],
    output: Annotated[Path, option("--output", metavar="FILE")],
    input_shape: InputShape = (1, 3, 224, 224),
    opset_version: OpsetVersion = 18,
    exporter: Exporter = "auto",
    no_reparameterize: Unmerged = False,
    factory: Factory = None,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Export one checkpoint to ONNX and check its answers against torch's."""
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.report import export as words
    from workbench.run.export_checkpoint import ExportRequest, export_checkpoint

    request = ExportRequest(
        checkpoint, output, input_shape, opset_version, exporter, not no_reparameterize, factory
    )
    with ProgressDisplay(quiet=quiet) as report:
        exported = export_checkpoint(find_workspace(workspace), request, report)
    print(words.text(exported))
    return 0
