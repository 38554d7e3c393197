"""`compare`, `advise` and `explain`: what helps to choose."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from workbench.cli.fleet import print_matrix
from workbench.cli.options import (
    AnswerFormat,
    Answers,
    Debug,
    Output,
    Quiet,
    Recipes,
    TableFormat,
    Tables,
    Verbose,
    WorkspaceOption,
    find_workspace,
    option,
    recipes,
    run_ids,
    variant_names,
)
from workbench.cli.output import (
    ColumnSet,
    check_output,
    exit_code,
    print_answer,
    print_comparisons,
    print_plots,
)
from workbench.system.packages import require

PANEL = "Decide"
PAIR_FORMATS: tuple[TableFormat, ...] = ("table", "csv", "json")
Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="ids, or folders of runs from anywhere (default: the latest)",
        autocompletion=run_ids,
        show_default=False,
    ),
]
VariantOption = Annotated[
    str | None,
    option("--variant", "everything known of one variant", metavar="NAME", autocompletion=variant_names),
]
Reanalyse = Annotated[bool, option("--reanalyse", "work every latency out again from the raw samples")]
ColumnsOption = Annotated[
    ColumnSet, typer.Option("--columns", help="audit: in which precision the multiplications really ran")
]
# Runs of different machines are shown side by side without it; scripts may still give it.
MixMachines = Annotated[bool, option("--mix-machines", hidden=True, expose_value=False)]
PairsOption = Annotated[bool, option("--pairs", "every two variants: which is faster, and by how much")]
OnlyOption = Annotated[
    Literal["pareto"] | None,
    option("--only", "pareto: the front of accuracy, speed and size, and the winner"),
]
SortOption = Annotated[
    Literal["speed", "accuracy", "size", "memory", "p50"] | None, option("--sort", "best first")
]
PlotOption = Annotated[bool, option("--plot", "draw accuracy against speed below the table")]
OneRecipe = Annotated[str, recipes("a file, or the name of one that is shipped")]


def compare(
    runs: Runs = None,
    variant: VariantOption = None,
    reanalyse: Reanalyse = False,
    columns: ColumnsOption = "speed",
    pairs: PairsOption = False,
    only: OnlyOption = None,
    sort: SortOption = None,
    plot: PlotOption = False,
    _mix_machines: MixMachines = False,
    form: Tables = "table",
    output: Output = None,
    verbose: Verbose = False,
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Show what runs measured, and which variant won."""
    of_table = {"--only": only, "--sort": sort, "--plot": plot, "--verbose": verbose}
    of_table["--columns"] = columns != "speed"
    _check_together(variant, form, output, of_table, pairs=pairs)
    check_output(form, output)
    require(*(("plotext",) if plot else ()), extra="report")

    from workbench.report.arrangement import arranged
    from workbench.results.folder import find_run, fleet_run
    from workbench.results.history import compare_runs

    results = find_workspace(workspace, inputs=False).results
    fleet = fleet_run(results, runs[0] if runs else None) if len(runs or []) < 2 else None
    if fleet is not None and variant is None and not pairs:
        _check_of_a_fleet(fleet, {**of_table, "--reanalyse": reanalyse})
        return print_matrix(fleet, form, output)
    if variant is not None:
        return _print_variant(results, runs or [], variant, form, reanalyse=reanalyse)
    if pairs:
        return _print_pairs(results, runs or [], form, output)
    found = compare_runs(results, runs or [], reanalyse=reanalyse)
    shown = [arranged(comparison, only=only, order=sort) for comparison in found]
    folders = [find_run(results, run) for run in runs or []] or [find_run(results, None)]
    print_comparisons(shown, form, folders=folders, columns=columns, verbose=verbose, output=output)
    if plot:
        print_plots(shown)
    return exit_code(found)


def _check_together(
    variant: str | None,
    form: TableFormat,
    output: Path | None,
    of_table: Mapping[str, object],
    *,
    pairs: bool,
) -> None:
    """Raise BadParameter for options of `compare` that exclude each other. of_table: those of the table."""
    if variant is not None and form not in get_args(AnswerFormat):
        raise typer.BadParameter("with --variant it is table or json", param_hint="'--format'")
    if variant is not None and output is not None:
        raise typer.BadParameter("not allowed with --variant", param_hint="'--output'")
    if pairs and variant is not None:
        raise typer.BadParameter("not allowed with --variant", param_hint="'--pairs'")
    if pairs and form not in PAIR_FORMATS:
        raise typer.BadParameter(f"with --pairs it is {', '.join(PAIR_FORMATS)}", param_hint="'--format'")
    if given := [name for name, value in of_table.items() if value and (pairs or variant is not None)]:
        other = "--pairs" if pairs else "--variant"
        raise typer.BadParameter(f"not allowed with {other}", param_hint=f"'{given[0]}'")
    if of_table["--plot"] and (form != "table" or output is not None):
        raise typer.BadParameter("only below a table in the terminal", param_hint="'--plot'")


def _check_of_a_fleet(folder: Path, given: Mapping[str, object]) -> None:
    """Raise BadParameter for an option that the table of classes does not have."""
    for name, value in given.items():
        if value:
            message = f"only for the run of one device, as `compare {folder.name}/devices/NAME` shows it"
            raise typer.BadParameter(message, param_hint=f"'{name}'")


def _print_variant(
    results: Path, runs: list[str], variant: str, form: TableFormat, *, reanalyse: bool
) -> int:
    from workbench.report import details as words
    from workbench.results.history import details_of

    details = details_of(results, runs, variant, reanalyse=reanalyse)
    print_answer(words.answer(details), words.text(details), form)
    return 0


def _print_pairs(results: Path, runs: list[str], form: TableFormat, output: Path | None) -> int:
    from workbench.report import pairs as words
    from workbench.results.pairs import pairs_of
    from workbench.system.files import write_atomic

    found = pairs_of(results, runs)
    text = {"csv": words.as_csv, "json": words.as_json}.get(form, words.text)(found)
    if output is not None:
        write_atomic(output, text.encode())
    else:
        print(text, end="")
    return 0


def advise(
    recipes: Recipes = None,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Say which recipes are worth trying on this network and machine, and why."""
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.report import advice as words
    from workbench.run import pipeline
    from workbench.workspace import recipe

    variants = recipe.chosen(recipes)
    with ProgressDisplay(quiet=quiet) as report:
        advice = pipeline.advise_workspace(find_workspace(workspace), variants, report)
    print_answer(words.answer(advice), words.text(advice), form)
    return 0


def explain(recipe: OneRecipe, form: Answers = "table", _debug: Debug = False) -> int:
    """Say what a recipe does, when it helps and when it hurts."""
    from workbench.report import advice as words
    from workbench.run.advice.explain import explain as describe
    from workbench.workspace.recipe import find, parse

    explanation = describe(*parse(find(recipe)))
    print_answer(asdict(explanation), words.explanation(explanation), form)
    return 0
