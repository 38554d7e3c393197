"""`serve` and `shadow-report`: the server."""

import sys
from typing import Annotated, Any

import typer

from workbench.cli.options import (
    Answers,
    Debug,
    ModelName,
    WorkspaceOption,
    count,
    find_workspace,
    option,
    parse_port,
    seconds,
    share,
)
from workbench.cli.output import print_answer

PANEL = "Serve"


def serve(
    # What has no default here is as the environment says (serve/settings.py).
    alias: Annotated[
        str | None,
        option("--alias", "followed wherever it moves (default: production)", metavar="NAME"),
    ] = None,
    pin: Annotated[
        str | None, option("--pin", "serve this version and watch no alias", metavar="X.Y.Z")
    ] = None,
    name: ModelName = None,
    host: Annotated[str, typer.Option("--host", metavar="HOST")] = "127.0.0.1",
    port: Annotated[
        int, option("--port", "default: 8000; 0 takes a free one", parser=parse_port, metavar="N")
    ] = 8000,
    workers: Annotated[int | None, count("--workers", "processes, at most 64 (default: 1)")] = None,
    shadow: Annotated[
        str | None,
        option("--shadow", "run a candidate beside it on a sample of requests", metavar="X.Y.Z"),
    ] = None,
    sample: Annotated[
        float | None, share("--sample", "share of photos the shadow sees (default: 0.1)")
    ] = None,
    canary: Annotated[
        str | None, option("--canary", "have a candidate answer a share of the requests", metavar="X.Y.Z")
    ] = None,
    weight: Annotated[float | None, share("--weight", "share of photos it answers (default: 0.05)")] = None,
    queue_budget: Annotated[
        float | None, seconds("--queue-budget", "refuse (429) what would wait longer (default: 1s)")
    ] = None,
    deadline: Annotated[
        float | None, seconds("--deadline", "drop (504) what did wait longer (default: 5s)")
    ] = None,
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Serve the version an alias points at."""
    if alias is not None and pin is not None:
        raise typer.BadParameter("not allowed with --pin", param_hint="'--alias'")

    from serve.server import run
    from serve.settings import Settings

    found = find_workspace(workspace)
    given: dict[str, Any] = {
        "alias": alias,
        "pin": pin,
        "workers": workers,
        "shadow": shadow,
        "sample": sample,
        "canary": canary,
        "weight": weight,
        "queue_budget_s": queue_budget,
        "deadline_s": deadline,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if alias is not None:
        given["pin"] = None  # one of the two, whatever the environment says
    given |= {"registry": found.registry, "model": name or found.name, "host": host, "port": port}
    run(Settings.from_environment(**given))
    return 0


def shadow_report(
    url: Annotated[str, typer.Option("--url", metavar="URL")] = "http://127.0.0.1:8000",
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Say how the shadow of a running server does, and keep it."""
    from workbench.registry.shadow_record import write
    from workbench.registry.shadow_report import report_of
    from workbench.report import registry as words

    results = find_workspace(workspace).results
    report = report_of(url)
    for result in report.results():
        print(f"wrote {write(results, result)}", file=sys.stderr)
    print_answer(words.shadow_answer(report), words.shadow(report), form)
    return 0
