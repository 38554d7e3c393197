"""`run`, `tune` and `export`: what builds and measures."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
    parse_count,
    recipes,
    seconds,
)
from workbench.cli.output import print_comparisons

if TYPE_CHECKING:
    from workbench.run.advice.advise import Advice

PANEL = "Measure"


def run(
    recipes: Recipes = None,
    time_budget: Annotated[
        float,
        seconds("--time-budget", "for timing: 60s, 10m (default: 3m); building and checking come on top"),
    ] = 180.0,
    rounds: Annotated[int, count("--rounds", "rounds of fresh launches, at most (default: 20)")] = 20,
    turns: Annotated[int, count("--turns", "timed turns a round, at most (default: 60)")] = 60,
    build_timeout: Annotated[float, seconds("--build-timeout", "for one variant (default: 15m)")] = 900.0,
    seed: Seed = 0,
    advised: Annotated[bool, option("--advised", "only what `advise` finds worth trying")] = False,
    form: Tables = "table",
    output: Output = None,
    verbose: Verbose = False,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Build, measure and compare the variants of recipes."""
    from workbench.workspace import recipe

    variants = recipe.load(recipes or [recipe.shipped()])
    found = find_workspace(workspace)

    from workbench.cli.progress_display import ProgressDisplay
    from workbench.measure.latency import Plan
    from workbench.report import advice, html
    from workbench.run import pipeline
    from workbench.system.progress import Progress

    settings = pipeline.Options(
        plan=Plan(rounds=rounds, turns=turns, budget_s=time_budget, seed=seed),
        build_timeout_s=build_timeout,
        arguments=tuple(sys.argv[1:]),
        advised=advised,
    )
    with ProgressDisplay(quiet=quiet) as report:

        def show_advice(given: "Advice") -> None:
            for line in advice.headlines(given):
                report(Progress("advice", 0, 0, line))

        comparison = pipeline.run_workspace(found, variants, settings, report, show_advice)
    html.write(comparison, found.results)
    return print_comparisons([comparison], form, verbose=verbose, output=output)


def tune(
    recipes: Annotated[list[Path] | None, recipes("to begin with (default: all shipped)")] = None,
    budget: Annotated[float, seconds("--budget", "time for all of it (default: 10m)")] = 600.0,
    name: Annotated[
        str | None, option("--name", "of the recipe (default: tuned-<model>)", metavar="NAME")
    ] = None,
    seed: Seed = 0,
    form: Tables = "table",
    output: Output = None,
    verbose: Verbose = False,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Search for the best variant within the budget, and write it as a recipe."""
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.measure.latency import Plan
    from workbench.report import html
    from workbench.report import tune as words
    from workbench.run import pipeline
    from workbench.run.tune.recipe_file import recipe_path
    from workbench.run.tune.tune import tune as search
    from workbench.workspace import recipe

    found = find_workspace(workspace)
    settings = pipeline.Options(plan=Plan(budget_s=budget, seed=seed), arguments=tuple(sys.argv[1:]))
    target = recipe_path(found, name)
    with ProgressDisplay(quiet=quiet) as report:
        variants = recipe.load(recipes or [recipe.shipped()])
        tuned = search(found, variants, target, settings, report)
    html.write(tuned.comparison, found.results)
    code = print_comparisons([tuned.comparison], form, verbose=verbose, output=output)
    print(words.text(tuned), file=sys.stderr)
    return code


def export(
    checkpoint: Annotated[Path, option("--checkpoint", metavar="FILE")],
    output: Annotated[Path, option("--output", metavar="FILE")],
    input_shape: Annotated[
        tuple[int, int, int, int],
        typer.Option("--input-shape", parser=parse_count, metavar="N C H W", help="of the network's input"),
    ] = (1, 3, 224, 224),
    opset_version: Annotated[
        int, option("--opset-version", "opset to write (default: 18)", metavar="N")
    ] = 18,
    exporter: Annotated[
        Literal["dynamo", "torchscript"] | None,
        option("--exporter", "default: dynamo from opset 18 on, else torchscript"),
    ] = None,
    factory: Annotated[
        str | None, option("--factory", "builds the network a state dict fits", metavar="FILE.py:CALLABLE")
    ] = None,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Export one checkpoint to ONNX and check its answers against torch's."""
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.report import export as words
    from workbench.run.export_checkpoint import export_checkpoint

    with ProgressDisplay(quiet=quiet) as report:
        exported = export_checkpoint(
            find_workspace(workspace),
            checkpoint,
            output,
            input_shape,
            opset=opset_version,
            exporter=exporter,
            factory=factory,
            report=report,
        )
    print(words.text(exported))
    return 0
