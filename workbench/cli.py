"""The commands. Each loads, calls one function and renders; only here is anything printed.

argparse, and next to no import at the top: `--help` and a misspelt recipe answer at once.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from workbench import __version__
from workbench.errors import Refused, WorkbenchError
from workbench.system.packages import missing_extra

if TYPE_CHECKING:
    from workbench.report import Columns, Format
    from workbench.results.verdict import Comparison
    from workbench.workspace.workspace import Workspace

DONE, ANSWER_IS_NO, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
FORMATS = ("table", "markdown", "csv", "json", "html")
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 the answer is no, 2 wrong input."""
    # pydantic looks for plugins among all installed packages when it is imported; ours uses none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    options = parser().parse_args(arguments)
    command: Command = options.command
    if threading.current_thread() is threading.main_thread():
        # A run that is asked to stop cleans up as after Ctrl-C; the server has its own way.
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = command(options)
        sys.stdout.flush()
        return code
    except WorkbenchError as error:
        if options.debug:
            raise
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return ANSWER_IS_NO if isinstance(error, Refused) else WRONG_INPUT
    except BrokenPipeError:
        # `| head` has read enough. What is left in the buffer must not fail once more on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None or options.debug:
            raise
        print(f"error: {missing.message}\nhint: {missing.hint}", file=sys.stderr)
        return WRONG_INPUT
    except OSError as error:
        if options.debug:
            raise
        # Whatever was not translated on the way: a disk, a right or a file that is not as it should be.
        print(f"error: {error}", file=sys.stderr)
        print("hint: --debug shows where it happened", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and running it again takes it up", file=sys.stderr)
        return INTERRUPTED


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def init(options: argparse.Namespace) -> int:
    from workbench.workspace.draft import write_draft

    path, findings = write_draft(options.folder)
    for finding in findings:
        print(finding)
    print(f"wrote {path}: read it through, then `krishi-bench run`")
    return DONE


def doctor(options: argparse.Namespace) -> int:
    from workbench.run.doctor import diagnose
    from workbench.terminal import ProgressLine

    with ProgressLine(quiet=options.quiet) as report:
        diagnosis = diagnose(report)
    _print(diagnosis.facts(), diagnosis.text(), options.format)
    return DONE


def export(options: argparse.Namespace) -> int:
    from workbench.run.export_checkpoint import export_checkpoint
    from workbench.terminal import ProgressLine

    with ProgressLine(quiet=options.quiet) as report:
        exported = export_checkpoint(
            _workspace(options),
            options.checkpoint,
            options.output,
            tuple(options.input_shape),
            opset=options.opset_version,
            exporter=options.exporter,
            factory=options.factory,
            report=report,
        )
    print(exported.sentence())
    return DONE


def run(options: argparse.Namespace) -> int:
    from workbench.terminal import ProgressLine
    from workbench.workspace import recipe

    variants = recipe.load(options.recipes or [recipe.shipped()])
    workspace = _workspace(options)

    from workbench.measure.latency import Plan
    from workbench.report import html
    from workbench.run import pipeline

    settings = pipeline.Options(
        plan=Plan(
            rounds=options.rounds,
            turns=options.turns,
            budget_s=options.time_budget,
            seed=options.seed,
        ),
        build_timeout_s=options.build_timeout,
        arguments=tuple(sys.argv[1:]),
        advised=options.advised,
    )
    with ProgressLine(quiet=options.quiet) as report:
        comparison = pipeline.run_workspace(workspace, variants, settings, report)
    html.write(comparison, workspace.results)
    return _show([comparison], options.format)


def tune(options: argparse.Namespace) -> int:
    from workbench.measure.latency import Plan
    from workbench.report import html
    from workbench.run import pipeline
    from workbench.run.tune.recipe_file import recipe_path
    from workbench.run.tune.tune import tune as search
    from workbench.terminal import ProgressLine
    from workbench.workspace import recipe

    workspace = _workspace(options)
    settings = pipeline.Options(
        plan=Plan(budget_s=options.budget, seed=options.seed), arguments=tuple(sys.argv[1:])
    )
    target = recipe_path(workspace, options.name)
    with ProgressLine(quiet=options.quiet) as report:
        variants = recipe.load(options.recipes or [recipe.shipped()])
        tuned = search(workspace, variants, target, settings, report)
    html.write(tuned.comparison, workspace.results)
    code = _show([tuned.comparison], options.format)
    print(tuned.sentence(), file=sys.stderr)
    return code


def advise(options: argparse.Namespace) -> int:
    from workbench.run import pipeline
    from workbench.terminal import ProgressLine
    from workbench.workspace import recipe

    variants = recipe.load(options.recipes or [recipe.shipped()])
    with ProgressLine(quiet=options.quiet) as report:
        advice = pipeline.advise_workspace(_workspace(options), variants, report)
    _print(advice.facts(), advice.text(), options.format)
    return DONE


def explain(options: argparse.Namespace) -> int:
    from workbench.run.advice.explain import explain as describe
    from workbench.workspace import recipe

    explanation = describe(*recipe.parse(recipe.find(options.recipe)))
    _print(explanation.facts(), explanation.text(), options.format)
    return DONE


def compare(options: argparse.Namespace) -> int:
    from workbench.results.history import compare_runs, details_of

    results = _workspace(options).results
    if options.variant is not None:
        details = details_of(results, options.runs, options.variant, reanalyse=options.reanalyse)
        _print(details.facts(), details.text(), options.format)
        return DONE
    found = compare_runs(
        results, options.runs, mix_machines=options.mix_machines, reanalyse=options.reanalyse
    )
    return _show(found, options.format, options.columns)


def promote(options: argparse.Namespace) -> int:
    from workbench.registry.promotion import publish

    promotion = publish(
        _workspace(options),
        run_id=options.run,
        variant=options.variant,
        bump=options.bump,
        version=options.version,
        alias=options.alias,
        force=options.force,
        require_shadow=options.require_shadow,
    )
    _print(promotion.facts(), promotion.sentence(), options.format)
    return DONE


def models(options: argparse.Namespace) -> int:
    from workbench.registry.store import Registry
    from workbench.report import models as listing

    found = listing.listed(Registry(_workspace(options).registry))
    _print([asdict(entry) for entry in found], listing.as_table(found), options.format)
    return DONE


def rollback(options: argparse.Namespace) -> int:
    from workbench.registry.store import Registry

    workspace = _workspace(options)
    bundle = Registry(workspace.registry).rollback(options.name or workspace.name, options.alias)
    answer = {"name": bundle.manifest.name, "alias": options.alias, "version": bundle.version}
    _print(
        answer, f"{options.alias} of {bundle.manifest.name} points at {bundle.version} again", options.format
    )
    return DONE


def verify(options: argparse.Namespace) -> int:
    from workbench.registry.store import Registry

    registry = Registry(_workspace(options).registry)
    problems = registry.verify()
    versions = sum(len(registry.versions(name)) for name in registry.names())
    answer = {"versions": versions, "problems": [str(problem) for problem in problems]}
    text = "\n".join(map(str, problems)) or f"{versions} versions, every file as it was published"
    _print(answer, text, options.format)
    return ANSWER_IS_NO if problems else DONE


def gc(options: argparse.Namespace) -> int:
    from workbench.registry.gc import collect
    from workbench.registry.store import Registry

    registry = Registry(_workspace(options).registry)
    reclaimed = collect(registry, keep=options.keep, delete=options.delete)
    _print(reclaimed.facts(), reclaimed.text(), options.format)
    return DONE


def serve(options: argparse.Namespace) -> int:
    from serve.app import serve as start
    from serve.settings import Settings

    workspace = _workspace(options)
    told = {
        "alias": options.alias,
        "pin": options.pin,
        "workers": options.workers,
        "shadow": options.shadow,
        "sample": options.sample,
        "canary": options.canary,
        "weight": options.weight,
        "queue_budget_s": options.queue_budget,
        "deadline_s": options.deadline,
    }
    settings = replace(
        Settings.from_environment(), registry=workspace.registry, model=options.name or workspace.name
    )
    if options.alias is not None:
        settings = replace(settings, pin=None)  # one of the two, as on the command line
    settings = replace(settings, **{name: value for name, value in told.items() if value is not None})
    start(settings, host=options.host, port=options.port)
    return DONE


def shadow_report(options: argparse.Namespace) -> int:
    from workbench.registry.shadow_record import write
    from workbench.registry.shadow_report import report_of

    workspace = _workspace(options)
    report = report_of(options.url)
    for result in report.results():
        print(f"wrote {write(workspace.results, result)}", file=sys.stderr)
    _print(report.facts(), report.text(), options.format)
    return DONE


def schema(options: argparse.Namespace) -> int:
    from workbench.workspace.recipe import Recipe
    from workbench.workspace.workspace import WorkspaceFile

    described = Recipe.model_json_schema() if options.of == "recipe" else WorkspaceFile.model_json_schema()
    print(json.dumps(described, indent=2))
    return DONE


def _seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `1h`."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"`{text}` is not a time: give 90s, 10m or 1h")
    return seconds


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"`{text}` is not a port: give a number from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 1 up")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 0 up")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a fraction from 0 to 1")
    return share


def _workspace(options: argparse.Namespace) -> "Workspace":
    from workbench.workspace.workspace import find

    return find(options.workspace, Path.cwd())


def _show(comparisons: Sequence["Comparison"], form: "Format", columns: "Columns" = "speed") -> int:
    from workbench.report import render

    sys.stdout.write(render(form, comparisons, color=sys.stdout.isatty(), columns=columns))
    answered = all(found.winner and found.certified and not found.nothing_else for found in comparisons)
    return DONE if answered else ANSWER_IS_NO


def _print(answer: object, text: str, form: str) -> None:
    print(json.dumps(answer, indent=2) if form == "json" else text)


def parser() -> argparse.ArgumentParser:
    """Every command and option."""
    top = argparse.ArgumentParser(
        prog="krishi-bench",
        description="From a trained image classifier to a served model, with every claim measured here.",
    )
    top.add_argument("--version", action="version", version=f"krishi-bench {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, *, workspace: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(command=command)
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if workspace:
            made.add_argument(
                "--workspace",
                type=Path,
                metavar="DIR",
                help="folder of krishi.yaml (default: nearest, else the sample)",
            )
        return made

    _add_building(add)
    _add_publishing(add)
    made = add(
        "schema", schema, "print the JSON Schema of recipes or of krishi.yaml, for editors", workspace=False
    )
    made.add_argument("of", nargs="?", choices=["recipe", "workspace"], default="recipe")
    return top


def _add_building(add: Callable[..., argparse.ArgumentParser]) -> None:
    made = add("init", init, "write a commented krishi.yaml from what a folder holds", workspace=False)
    made.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER")

    made = add("doctor", doctor, "say what this machine can run, and how good its clock is", workspace=False)
    made.add_argument("--quiet", action="store_true", help="no progress")
    _add_format(made)

    made = add("export", export, "export one checkpoint to ONNX and check its answers against torch's")
    made.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    made.add_argument("--output", type=Path, required=True, metavar="FILE")
    made.add_argument(
        "--input-shape", type=_count, nargs=4, default=[1, 3, 224, 224], metavar=("N", "C", "H", "W")
    )
    made.add_argument(
        "--opset-version", type=int, default=18, metavar="N", help="opset to write (default: 18)"
    )
    made.add_argument(
        "--exporter",
        choices=["dynamo", "torchscript"],
        help="default: dynamo from opset 18 on, else torchscript",
    )
    made.add_argument("--factory", metavar="FILE.py:CALLABLE", help="builds the network a state dict fits")
    made.add_argument("--quiet", action="store_true", help="no progress")

    made = add("run", run, "build, measure and compare the variants of recipes")
    made.add_argument(
        "recipes",
        nargs="*",
        type=Path,
        metavar="RECIPE",
        help="files, folders or names of shipped ones (default: all shipped)",
    )
    made.add_argument(
        "--time-budget",
        type=_seconds,
        default=180.0,
        metavar="T",
        help="for timing: 60s, 10m (default: 3m); building and checking come on top",
    )
    made.add_argument(
        "--rounds",
        type=_count,
        default=20,
        metavar="N",
        help="rounds of fresh launches, at most (default: 20)",
    )
    made.add_argument(
        "--turns", type=_count, default=60, metavar="N", help="timed turns a round, at most (default: 60)"
    )
    made.add_argument(
        "--build-timeout", type=_seconds, default=900.0, metavar="T", help="for one variant (default: 15m)"
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of launches and turns")
    made.add_argument("--advised", action="store_true", help="only what `advise` finds worth trying")
    made.add_argument("--quiet", action="store_true", help="no progress")
    made.add_argument("--format", choices=FORMATS, default="table")

    made = add("advise", advise, "say which recipes are worth trying on this network and machine, and why")
    made.add_argument(
        "recipes",
        nargs="*",
        type=Path,
        metavar="RECIPE",
        help="files, folders or names of shipped ones (default: all shipped)",
    )
    made.add_argument("--quiet", action="store_true", help="no progress")
    _add_format(made)

    made = add("tune", tune, "search for the best variant within the budget, and write it as a recipe")
    made.add_argument(
        "recipes", nargs="*", type=Path, metavar="RECIPE", help="to begin with (default: all shipped)"
    )
    made.add_argument(
        "--budget", type=_seconds, default=600.0, metavar="T", help="time for all of it (default: 10m)"
    )
    made.add_argument("--name", metavar="NAME", help="of the recipe (default: tuned-<model>)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of launches and turns")
    made.add_argument("--quiet", action="store_true", help="no progress")
    made.add_argument("--format", choices=FORMATS, default="table")

    made = add("explain", explain, "say what a recipe does, when it helps and when it hurts", workspace=False)
    made.add_argument("recipe", metavar="RECIPE", help="a file, or the name of one that is shipped")
    _add_format(made)

    made = add("compare", compare, "show what runs measured, and which variant won")
    made.add_argument("runs", nargs="*", metavar="RUN", help="run ids (default: the latest)")
    made.add_argument("--variant", metavar="NAME", help="everything known of one variant")
    made.add_argument(
        "--reanalyse", action="store_true", help="work every latency out again from the raw samples"
    )
    made.add_argument(
        "--columns",
        choices=["speed", "audit"],
        default="speed",
        help="audit: in which precision the multiplications really ran",
    )
    made.add_argument("--mix-machines", action="store_true", help="show runs of different machines together")
    made.add_argument("--format", choices=FORMATS, default="table")


def _add_publishing(add: Callable[..., argparse.ArgumentParser]) -> None:
    made = add("promote", promote, "publish a variant as a version and point an alias at it")
    made.add_argument("--run", metavar="RUN", help="run id (default: the latest)")
    made.add_argument("--variant", metavar="NAME", help="default: the winner")
    number = made.add_mutually_exclusive_group()
    number.add_argument(
        "--bump", choices=["patch", "minor", "major"], help="default: what the change demands"
    )
    number.add_argument("--version", metavar="X.Y.Z")
    made.add_argument("--alias", default="production", metavar="NAME")
    made.add_argument(
        "--force", action="store_true", help="publish what misses the budget; recorded in the manifest"
    )
    made.add_argument(
        "--require-shadow",
        type=_share,
        metavar="F",
        help="refuse what did not agree on at least this share of shadowed requests, such as 0.99",
    )
    _add_format(made)

    made = add("models", models, "list versions, aliases and where each came from")
    _add_format(made)

    made = add("rollback", rollback, "point an alias at the version it pointed at before")
    made.add_argument("--alias", default="production", metavar="NAME")
    made.add_argument("--name", metavar="MODEL", help="default: the workspace's")
    _add_format(made)

    made = add("verify", verify, "re-hash every published file")
    _add_format(made)

    made = add("gc", gc, "take away published versions that nothing needs any more")
    made.add_argument(
        "--keep",
        type=_number,
        default=3,
        metavar="N",
        help="steps each alias can be rolled back (default: 3)",
    )
    made.add_argument(
        "--delete",
        action="store_true",
        help="do it: move them to the trash, and delete what lay there for a day (default: only say so)",
    )
    _add_format(made)

    _add_serving(add)


def _add_serving(add: Callable[..., argparse.ArgumentParser]) -> None:
    made = add("serve", serve, "serve the version an alias points at")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--alias", metavar="NAME", help="followed wherever it moves (default: production)")
    which.add_argument("--pin", metavar="X.Y.Z", help="serve this version and watch no alias")
    made.add_argument("--name", metavar="MODEL", help="default: the workspace's")
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument(
        "--port", type=_port, default=8000, metavar="N", help="default: 8000; 0 takes a free one"
    )
    # No defaults here: what is not given is what the environment says (serve/settings.py).
    made.add_argument("--workers", type=_count, metavar="N", help="processes, at most 64 (default: 1)")
    made.add_argument("--shadow", metavar="X.Y.Z", help="run a candidate beside it on a sample of requests")
    made.add_argument(
        "--sample", type=_share, metavar="F", help="share of photos the shadow sees (default: 0.1)"
    )
    made.add_argument("--canary", metavar="X.Y.Z", help="have a candidate answer a share of the requests")
    made.add_argument("--weight", type=_share, metavar="F", help="share of photos it answers (default: 0.05)")
    made.add_argument(
        "--queue-budget", type=_seconds, metavar="T", help="refuse (429) what would wait longer (default: 1s)"
    )
    made.add_argument(
        "--deadline", type=_seconds, metavar="T", help="drop (504) what did wait longer (default: 5s)"
    )

    made = add("shadow-report", shadow_report, "say how the shadow of a running server does, and keep it")
    made.add_argument("--url", default="http://127.0.0.1:8000", help="default: http://127.0.0.1:8000")
    _add_format(made)


def _add_format(made: argparse.ArgumentParser) -> None:
    made.add_argument("--format", choices=["table", "json"], default="table")


if __name__ == "__main__":
    sys.exit(main())
