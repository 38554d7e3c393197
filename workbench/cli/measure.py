"""`run`, `tune` and `export`: what builds and measures."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from workbench.cli.fleet import (
    conclude_fleet,
    conclude_tuning,
    fleet_of,
    run_on_fleet,
    tune_on_fleet,
    variants_to_resume,
)
from workbench.cli.options import (
    AnswerFormat,
    Debug,
    Output,
    Quiet,
    Recipes,
    Seed,
    TableFormat,
    Tables,
    Verbose,
    WorkspaceOption,
    amount,
    count,
    find_workspace,
    option,
    recipes,
    seconds,
)
from workbench.cli.output import check_output, print_comparisons, write_report

if TYPE_CHECKING:
    from workbench.measure.power import Power
    from workbench.report.vega import ChartDrawer
    from workbench.results.remarks import Remark
    from workbench.results.verdict import Comparison
    from workbench.run.advice.advise import Advice
    from workbench.system.progress import Report
    from workbench.system.spans import Spans
    from workbench.workspace.workspace import Workspace

PANEL = "Measure"
TimeBudget = Annotated[
    float, seconds("--time-budget", "for timing: 60s, 10m (default: 3m); building and checking come on top")
]
Rounds = Annotated[int, count("--rounds", "rounds of fresh launches, at most (default: 20)")]
Turns = Annotated[int, count("--turns", "timed turns a round, at most (default: 120)")]
MemoryLimit = Annotated[
    int | None,
    amount("--memory", "that timing may hold at a time: 2GB, 500MB (default: nine tenths of the free)"),
]
BuildTimeout = Annotated[float, seconds("--build-timeout", "for one variant (default: 15m)")]
Yes = Annotated[bool, option("--yes", "make the environments that recipes need, without asking")]
Wheels = Annotated[
    Path | None,
    option("--wheels", "make them from this folder of wheels, without the network", metavar="DIR"),
]
Advised = Annotated[bool, option("--advised", "only what `advise` finds worth trying")]
Timings = Annotated[bool, option("--timings", "say where the time went, on stderr")]
FleetFlag = Annotated[bool, option("--fleet", "on every device of fleet.yaml")]
ClassOption = Annotated[
    list[str] | None,
    option("--class", "with --fleet: devices of this class alone (repeatable)", metavar="NAME"),
]
ShardFlag = Annotated[
    bool, option("--shard", "with --fleet: each device of a class checks a part of the photos")
]
ResumeOption = Annotated[
    str | None, option("--resume", "with --fleet: do what is missing in a run", metavar="RUN")
]
Start = Annotated[list[Path] | None, recipes("to begin with (default: all shipped)")]
SearchBudget = Annotated[float, seconds("--budget", "time for all of it (default: 10m)")]
NAME = "of the recipe (default: tuned-<model>; with --fleet tuned-<class>, or NAME-<class>)"
RecipeName = Annotated[str | None, option("--name", NAME, metavar="NAME")]
FleetSearch = Annotated[bool, option("--fleet", "a search for each class of devices in fleet.yaml")]
SearchedClass = Annotated[
    list[str] | None, option("--class", "with --fleet: for this class alone (repeatable)", metavar="NAME")
]
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
Weights = Annotated[
    str | None, option("--weights", "their place in a state dict, as `inspect` lists them", metavar="NAME")
]


def run(
    recipes: Recipes = None,
    time_budget: TimeBudget = 180.0,
    rounds: Rounds = 20,
    turns: Turns = 120,
    memory: MemoryLimit = None,
    build_timeout: BuildTimeout = 900.0,
    seed: Seed = 0,
    advised: Advised = False,
    yes: Yes = False,
    wheels: Wheels = None,
    timings: Timings = False,
    fleet: FleetFlag = False,
    device_class: ClassOption = None,
    shard: ShardFlag = False,
    resume: ResumeOption = None,
    form: Tables = "table",
    output: Output = None,
    verbose: Verbose = False,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Build, measure and compare the variants of recipes."""
    check_output(form, output)
    own = {"--output": output, "--advised": advised, "--timings": timings, "--verbose": verbose}
    of_fleets = {"--class": device_class, "--shard": shard, "--resume": resume}
    _check_fleet(form, recipes, of_fleets, fleet=fleet, own=own)

    from workbench.workspace import recipe

    variants = [] if resume else recipe.chosen(recipes)
    found = find_workspace(workspace)
    if resume:
        variants = variants_to_resume(found, resume)
    devices = fleet_of(found, device_class or []) if fleet else None

    from workbench.cli.environments import agreed
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.cli.report_ahead import ReportAhead
    from workbench.measure.latency import Plan
    from workbench.model.source.checkpoint_file import kind_of
    from workbench.run import pipeline
    from workbench.run.environments import make_all

    to_make = agreed(variants, kind_of(found.model.checkpoint), yes=yes)
    with ReportAhead() as ahead:
        with ProgressDisplay(quiet=quiet) as report:
            settings = pipeline.Options(
                unmade=make_all(to_make, report, wheels=wheels),
                plan=Plan(rounds=rounds, turns=turns, budget_s=time_budget, seed=seed, memory_bytes=memory),
                build_timeout_s=build_timeout,
                arguments=tuple(sys.argv[1:]),
                advised=advised,
                show_remarks=partial(_report_remarks, report),
                show_power=partial(_report_power, report),
                spans=(spans := _spans()),
                later=ahead.before_timing,
            )
            if devices is not None:
                folder = run_on_fleet(found, devices, variants, settings, report, resume, shard=shard)
            else:
                advice = partial(_report_advice, report)
                comparison = pipeline.run_workspace(found, variants, settings, report, advice)
        if devices is not None:
            return conclude_fleet(folder, form)
        return _conclude(
            comparison,
            found,
            spans,
            form,
            verbose=verbose,
            output=output,
            timings=timings,
            drawer=ahead.drawer,
        )


def _check_fleet(
    form: TableFormat,
    recipes: list[Path] | None,
    of_fleets: Mapping[str, object],
    *,
    fleet: bool,
    own: Mapping[str, object],
) -> None:
    """Raise BadParameter for options of `run` that do not go together.

    of_fleets: options of a run with --fleet; own: of one without.
    """
    for flag, given in of_fleets.items():
        if given and not fleet:
            raise typer.BadParameter("only with --fleet", param_hint=f"'{flag}'")
    if not fleet:
        return
    if form not in get_args(AnswerFormat):
        raise typer.BadParameter("with --fleet it is table or json", param_hint="'--format'")
    for flag, value in own.items():
        if value:
            raise typer.BadParameter("not allowed with --fleet", param_hint=f"'{flag}'")
    if of_fleets.get("--resume") and recipes:
        raise typer.BadParameter("a run is resumed with its own recipes", param_hint="'RECIPE'")
    if of_fleets.get("--resume") and of_fleets.get("--shard"):
        raise typer.BadParameter("a run is resumed as it began", param_hint="'--shard'")


def _spans() -> "Spans":
    from workbench.system.spans import Spans, seconds_since_start

    spans = Spans()
    spans.add("starting", seconds_since_start())
    return spans


def _conclude(
    comparison: "Comparison",
    workspace: "Workspace",
    spans: "Spans",
    form: TableFormat,
    *,
    verbose: bool,
    output: Path | None,
    timings: bool,
    drawer: "ChartDrawer | None" = None,
) -> int:
    """Print a run that has just ended, leave its page in its folder, and record where the time went.

    drawer: as in `page.write`.
    """
    from workbench.report import timings as words
    from workbench.results.folder import RunFolder
    from workbench.results.history import record_timings

    comparison = record_timings(workspace.results, comparison, spans)
    folder = RunFolder(workspace.results / comparison.info.run_id)
    code = print_comparisons([comparison], form, folders=[folder], verbose=verbose, output=output)
    sys.stdout.flush()  # the page takes seconds
    with spans.span("report"):
        write_report(comparison, folder, drawer)
    comparison = record_timings(workspace.results, comparison, spans)
    if timings and comparison.info.timings is not None:
        print(words.text(comparison.info.timings), file=sys.stderr)
    return code


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


def _report_power(report: "Report", found: "Power") -> None:
    from workbench.report.power import sentence
    from workbench.system.progress import Progress

    report(Progress("photos", 0, 0, sentence(found)))


def tune(
    recipes: Start = None,
    budget: SearchBudget = 600.0,
    name: RecipeName = None,
    seed: Seed = 0,
    yes: Yes = False,
    wheels: Wheels = None,
    timings: Timings = False,
    fleet: FleetSearch = False,
    device_class: SearchedClass = None,
    form: Tables = "table",
    output: Output = None,
    verbose: Verbose = False,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Search for the best variant within the budget, and write it as a recipe."""
    check_output(form, output)
    own = {"--output": output, "--timings": timings, "--verbose": verbose}
    _check_fleet(form, None, {"--class": device_class}, fleet=fleet, own=own)

    from workbench.cli.environments import agreed
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.measure.latency import Plan
    from workbench.model.source.checkpoint_file import kind_of
    from workbench.report import tune as words
    from workbench.run import pipeline
    from workbench.run.environments import make_all
    from workbench.run.tune.tune import recipe_path
    from workbench.run.tune.tune import tune as search
    from workbench.workspace import recipe

    found = find_workspace(workspace)
    devices = fleet_of(found, device_class or []) if fleet else None
    target = recipe_path(found, name)
    variants = recipe.chosen(recipes, found.targets)
    to_make = agreed(variants, kind_of(found.model.checkpoint), yes=yes)
    with ProgressDisplay(quiet=quiet) as report:
        settings = pipeline.Options(
            unmade=make_all(to_make, report, wheels=wheels),
            plan=Plan(budget_s=budget, seed=seed),
            arguments=tuple(sys.argv[1:]),
            show_remarks=partial(_report_remarks, report),
            show_power=partial(_report_power, report),
            spans=(spans := _spans()),
        )
        if devices is not None:
            fleet_tuned = tune_on_fleet(found, devices, variants, name, settings, report)
        else:
            tuned = search(found, variants, target, settings, report)
    if devices is not None:
        return conclude_tuning(fleet_tuned, form)
    code = _conclude(tuned.comparison, found, spans, form, verbose=verbose, output=output, timings=timings)
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
    weights: Weights = None,
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Export one checkpoint to ONNX and check its answers against torch's."""
    from workbench.cli.progress_display import ProgressDisplay
    from workbench.report import export as words
    from workbench.run.export_checkpoint import ExportRequest, export_checkpoint

    request = ExportRequest(
        checkpoint, output, input_shape, opset_version, exporter, not no_reparameterize, factory, weights
    )
    with ProgressDisplay(quiet=quiet) as report:
        exported = export_checkpoint(find_workspace(workspace), request, report)
    print(words.text(exported))
    return 0
