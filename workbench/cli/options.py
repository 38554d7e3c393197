"""The kinds of values that commands take, and the options that several of them share."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from workbench.results.folder import RunFolder
    from workbench.workspace.workspace import Workspace

AnswerFormat = Literal["table", "json"]
TableFormat = Literal["table", "markdown", "csv", "json", "html", "parquet"]


def parse_seconds(given: object) -> float:
    """`90`, `90s`, `10m` or `1h`."""
    text, units = str(given), {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"`{text}` is not a time: give 90s, 10m or 1h")
    return seconds


def parse_bytes(given: object) -> int:
    """`500MB`, `2GB` or `2GiB`."""
    found = re.fullmatch(r"([0-9.]+) ?([MG])(i?)B", str(given), re.IGNORECASE)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if found is None or number <= 0:
        raise typer.BadParameter(f"`{given}` is not an amount of memory: give 500MB, 2GB or 2GiB")
    base = 1024 if found[3] else 1000
    return int(number * base ** {"M": 2, "G": 3}[found[2].upper()])


def parse_whole(given: object, least: int = 0, most: int | None = None) -> int:
    text = str(given)
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        span = f"from {least} up" if most is None else f"from {least} to {most}"
        raise typer.BadParameter(f"`{text}` is not a number {span}")
    return int(text)


def parse_share(given: object) -> float:
    try:
        share = float(str(given))
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"`{given}` is not a fraction from 0 to 1")
    return share


def option(flag: str, text: str | None = None, **settings: Any) -> Any:
    """An option whose help names the default itself, where there is one to name."""
    return typer.Option(flag, help=text, show_default=False, **settings)


def seconds(flag: str, text: str) -> Any:
    return option(flag, text, parser=parse_seconds, metavar="T")


def amount(flag: str, text: str) -> Any:
    return option(flag, text, parser=parse_bytes, metavar="SIZE")


def count(flag: str, text: str, least: int = 1, most: int | None = None, metavar: str = "N") -> Any:
    return option(flag, text, parser=lambda given: parse_whole(given, least, most), metavar=metavar)


def share(flag: str, text: str) -> Any:
    return option(flag, text, parser=parse_share, metavar="F")


def recipes(text: str) -> Any:
    return typer.Argument(metavar="RECIPE", help=text, autocompletion=recipe_names, show_default=False)


def recipe_names(incomplete: str) -> list[str]:
    """The shipped recipes, for completion; files are completed by the shell."""
    from workbench.workspace.recipe import shipped

    return _starting_with(incomplete, sorted(path.stem for path in shipped().glob("[!_]*.yaml")))


def run_ids(context: typer.Context, incomplete: str) -> list[str]:
    return _from_runs(context, incomplete, lambda runs: [run.run_id for run in runs])


def variant_names(context: typer.Context, incomplete: str) -> list[str]:
    """The variants of the latest run."""
    return _from_runs(
        context, incomplete, lambda runs: [t.variant for run in runs[-1:] for t in run.trials()]
    )


def _starting_with(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _from_runs(
    context: typer.Context, incomplete: str, names: Callable[["list[RunFolder]"], list[str]]
) -> list[str]:
    from workbench.errors import WorkbenchError
    from workbench.results.folder import runs

    try:
        results = find_workspace(context.params.get("workspace"), inputs=False).results
        return _starting_with(incomplete, names(runs(results)))
    except WorkbenchError:
        return []  # Nothing to offer where there is no workspace, or the run cannot be read.


def _note_debug(context: typer.Context, debug: bool) -> None:
    context.meta["debug"] = debug


Debug = Annotated[
    bool, option("--debug", "show the traceback of an error", callback=_note_debug, expose_value=False)
]
WorkspaceOption = Annotated[
    Path | None,
    option("--workspace", "folder of krishi.yaml (default: nearest, else the sample)", metavar="DIR"),
]
Output = Annotated[Path | None, option("--output", "write to this file instead", metavar="FILE")]
Verbose = Annotated[bool, option("--verbose", "every reason, the advice and the search")]
Quiet = Annotated[bool, option("--quiet", "no progress")]
Answers = Annotated[AnswerFormat, typer.Option("--format")]
Tables = Annotated[TableFormat, typer.Option("--format")]
Recipes = Annotated[
    list[Path] | None, recipes("files, folders or names of shipped ones (default: all shipped)")
]
Seed = Annotated[int, option("--seed", "of the order of launches and turns", metavar="N")]
AliasOption = Annotated[str, typer.Option("--alias", metavar="NAME")]
ModelName = Annotated[str | None, option("--name", "default: the workspace's", metavar="MODEL")]


def find_workspace(folder: Path | None, *, inputs: bool = True) -> "Workspace":
    """inputs: its model and its photos must be there."""
    from workbench.workspace.workspace import find

    return find(folder, Path.cwd(), inputs=inputs)
