"""`package`: a published version as an app's developer needs it."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import Answers, Debug, ModelName, WorkspaceOption, find_workspace, option
from workbench.cli.output import print_answer

PANEL = "Publish"
Which = Annotated[
    str | None,
    typer.Argument(
        metavar="[VERSION|ALIAS]", help="default: alias android, else production", show_default=False
    ),
]
Android = Annotated[
    bool, option("--android", "for an Android app: LiteRT model, Kotlin and Python beside it")
]
Folder = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="new folder to write", show_default=False)
]
BENCHMARK = "LiteRT's benchmark_model for Android: times the model on phones that adb sees"
Benchmark = Annotated[Path | None, option("--benchmark-model", BENCHMARK, metavar="FILE")]


def package(
    output: Folder,
    which: Which = None,
    android: Android = False,
    benchmark_model: Benchmark = None,
    name: ModelName = None,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Write a version as a folder for a phone's app, with golden photos and answers."""
    if not android:
        raise typer.BadParameter("say for what: --android", param_hint="'--android'")

    from workbench.registry.android.package import MODEL, chosen
    from workbench.registry.android.package import package as write
    from workbench.registry.android.phones import time_on_phones
    from workbench.registry.store import Registry
    from workbench.report import phones as words
    from workbench.system.records import write_record

    found = find_workspace(workspace)
    bundle = chosen(Registry(found.registry), name or found.name, which)
    packaged = write(bundle, output, found.results)
    timings = time_on_phones(packaged.folder / MODEL, benchmark_model)
    write_record(packaged.folder / "phones.json", timings)
    print_answer(words.packaged_answer(packaged, timings), words.packaged(packaged, timings), form)
    return 0
