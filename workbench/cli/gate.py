"""`gate`: whether a candidate may take the place of what is there; for machines."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.measure import BuildTimeout, Rounds, TimeBudget
from workbench.cli.options import (
    Answers,
    Debug,
    Quiet,
    Seed,
    WorkspaceOption,
    find_workspace,
    option,
    recipe_names,
    run_ids,
    variant_names,
)
from workbench.cli.output import check_file, print_answer

if TYPE_CHECKING:
    from workbench.results.gate import FailCondition, GateReport

PANEL = "Decide"
Candidates = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CANDIDATE",
        help="recipes, published versions or .onnx files (default: the workspace's own recipes)",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
Against = Annotated[
    str,
    option(
        "--against", "a version, an alias, RUN:VARIANT or FILE.onnx (default: production)", metavar="WHAT"
    ),
]
FailOn = Annotated[
    str,
    option(
        "--fail-on",
        "what must not get worse, by more than how much: accuracy, latency, p95, throughput, size, "
        "memory, load (default: accuracy, p95>5%, size>10%)",
        metavar="LIST",
    ),
]
OfRun = Annotated[
    str | None,
    option(
        "--variant",
        "a run's variant, built anew, as the candidate",
        metavar="NAME",
        autocompletion=variant_names,
    ),
]
RunOption = Annotated[
    str | None, option("--run", "of --variant (default: the latest)", metavar="RUN", autocompletion=run_ids)
]
Strict = Annotated[bool, option("--strict", "fail too where a regression cannot be excluded")]
Junit = Annotated[Path | None, option("--junit", "write JUnit XML too", metavar="FILE")]
MarkdownFile = Annotated[
    Path | None, option("--markdown", "write Markdown for a pull request", metavar="FILE")
]
BenchmarkFile = Annotated[
    Path | None, option("--pytest-benchmark", "write the timed calls as its JSON", metavar="FILE")
]
Beside = Annotated[
    Path | None, option("--beside", "show a JSON of pytest-benchmark below the table", metavar="FILE")
]
SUMMARY, ON_GITHUB = "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"


def gate(
    candidates: Candidates = None,
    against: Against = "production",
    fail_on: FailOn = "accuracy, p95>5%, size>10%",
    variant: OfRun = None,
    run: RunOption = None,
    strict: Strict = False,
    time_budget: TimeBudget = 180.0,
    rounds: Rounds = 20,
    build_timeout: BuildTimeout = 900.0,
    seed: Seed = 0,
    junit: Junit = None,
    markdown: MarkdownFile = None,
    pytest_benchmark: BenchmarkFile = None,
    beside: Beside = None,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    quiet: Quiet = False,
    _debug: Debug = False,
) -> int:
    """Measure candidates against what is published, and fail on a real regression."""
    _check_together(candidates, variant, run)

    from workbench.registry.gate import candidates_of, reference_of
    from workbench.report import gate as words
    from workbench.results.gate import parse_conditions

    found = find_workspace(workspace)
    conditions = parse_conditions(fail_on, found.budget)
    _check_files(conditions, junit, markdown, pytest_benchmark)
    figures = _elsewhere(beside)

    from workbench.cli.progress_display import ProgressDisplay
    from workbench.measure.latency import Plan
    from workbench.run.gate import GateRequest, run_gate
    from workbench.run.pipeline import Options

    wanted = candidates_of(found, candidates or [], run, variant)
    request = GateRequest(reference_of(found, against), wanted, conditions, strict)
    with ProgressDisplay(quiet=quiet) as report:
        plan = Plan(rounds=rounds, budget_s=time_budget, seed=seed)
        options = Options(plan=plan, build_timeout_s=build_timeout, arguments=tuple(sys.argv[1:]))
        made = run_gate(found, request, options, report)
    answer = {**made.model_dump(mode="json"), "passed": made.exit_code == 0}
    print_answer(answer, words.text(made) + figures, form)
    _write(made, junit, markdown, pytest_benchmark)
    return made.exit_code


def _check_together(candidates: list[str] | None, variant: str | None, run: str | None) -> None:
    """Raise BadParameter for what excludes each other."""
    if variant is not None and candidates:
        raise typer.BadParameter("not allowed beside candidates", param_hint="'--variant'")
    if run is not None and variant is None:
        raise typer.BadParameter("only with --variant", param_hint="'--run'")


def _check_files(
    conditions: "Sequence[FailCondition]", junit: Path | None, markdown: Path | None, exported: Path | None
) -> None:
    """Raise where a file could not be written, before anything is measured."""
    from workbench.results.gate import TIMED

    if exported is not None and not {condition.kind for condition in conditions} & TIMED:
        raise typer.BadParameter("nothing is timed: add `latency>5%`", param_hint="'--fail-on'")
    check_file("--junit", junit)
    check_file("--markdown", markdown)
    check_file("--pytest-benchmark", exported)


def _elsewhere(path: Path | None) -> str:
    from workbench.report.pytest_benchmark import table

    return f"\n{table(path)}" if path is not None else ""


def _write(made: "GateReport", junit: Path | None, markdown: Path | None, exported: Path | None) -> None:
    """The files that were asked for, and what GitHub shows where the command runs there."""
    from workbench.report import gate as words
    from workbench.report.junit import render
    from workbench.system.files import write_atomic

    if junit is not None:
        write_atomic(junit, render(made))
    if markdown is not None:
        write_atomic(markdown, words.markdown(made).encode())
    if exported is not None and made.rounds:
        _export(made, exported)
    if summary := os.environ.get(SUMMARY):
        with Path(summary).open("a", encoding="utf-8") as file:  # other steps write there too
            file.write(words.markdown(made))
    if os.environ.get(ON_GITHUB) == "true":
        for line in words.annotations(made):
            print(line, file=sys.stderr)  # the runner reads both streams


def _export(made: "GateReport", path: Path) -> None:
    from workbench.measure.records import BASELINE
    from workbench.measure.samples import hot_calls
    from workbench.report.pytest_benchmark import render
    from workbench.results.folder import RunFolder
    from workbench.system.files import write_atomic

    folder = RunFolder(Path(made.run))
    timed = [trial.variant for trial in folder.trials() if trial.latency is not None]
    names = {name: made.reference if name == BASELINE else name for name in timed}
    write_atomic(path, render(folder.info(), hot_calls(folder.path / "latency.parquet"), names))
