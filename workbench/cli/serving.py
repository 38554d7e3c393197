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
    seconds,
    share,
)
from workbench.cli.output import print_answer

PANEL = "Serve"
Text = str | None
Number = float | None
ServedAlias = Annotated[
    Text, option("--alias", "followed wherever it moves (default: production)", metavar="NAME")
]
PinOption = Annotated[Text, option("--pin", "serve this version and watch no alias", metavar="X.Y.Z")]
HostOption = Annotated[str, typer.Option("--host", metavar="HOST")]
PortOption = Annotated[int, count("--port", "default: 8000; 0 takes a free one", least=0, most=65535)]
WorkersOption = Annotated[int | None, count("--workers", "processes, at most 64 (default: 1)")]
ShadowOption = Annotated[
    Text, option("--shadow", "run a candidate beside it on a sample of requests", metavar="X.Y.Z")
]
SampleOption = Annotated[Number, share("--sample", "share of photos the shadow sees (default: 0.1)")]
CanaryOption = Annotated[
    Text, option("--canary", "have a candidate answer a share of the requests", metavar="X.Y.Z")
]
WeightOption = Annotated[Number, share("--weight", "share of photos it answers (default: 0.05)")]
QueueBudget = Annotated[
    Number, seconds("--queue-budget", "refuse (429) what would wait longer (default: 1s)")
]
Deadline = Annotated[Number, seconds("--deadline", "drop (504) what did wait longer (default: 5s)")]
KeepAlive = Annotated[
    Number, seconds("--keep-alive", "how long an idle connection stays open (default: 75s)")
]
CorsOrigins = Annotated[
    Text, option("--cors-origins", "whose web pages may call it, with commas between", metavar="URLS")
]
RootPath = Annotated[Text, option("--root-path", "path below which a proxy publishes it", metavar="PATH")]


def serve(
    # What has no default here is as the environment says (serve/settings.py).
    alias: ServedAlias = None,
    pin: PinOption = None,
    name: ModelName = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    workers: WorkersOption = None,
    shadow: ShadowOption = None,
    sample: SampleOption = None,
    canary: CanaryOption = None,
    weight: WeightOption = None,
    queue_budget: QueueBudget = None,
    deadline: Deadline = None,
    keep_alive: KeepAlive = None,
    cors_origins: CorsOrigins = None,
    root_path: RootPath = None,
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Serve the version an alias points at."""
    if alias is not None and pin is not None:
        raise typer.BadParameter("not allowed with --pin", param_hint="'--alias'")

    from serve.server import run
    from serve.settings import Settings

    found = find_workspace(workspace)
    given = {"alias": alias, "pin": pin, "workers": workers, "shadow": shadow, "sample": sample}
    given |= {"canary": canary, "weight": weight, "queue_budget_s": queue_budget, "deadline_s": deadline}
    given |= {"keep_alive_s": keep_alive, "cors_origins": cors_origins, "root_path": root_path}
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if alias is not None:
        settings["pin"] = None  # one of the two, whatever the environment says
    settings |= {"registry": found.registry, "model": name or found.name, "host": host, "port": port}
    run(Settings.from_environment(**settings))
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
