"""`promote`, `models`, `rollback`, `verify` and `gc`: the registry."""

from typing import Annotated, Literal

import typer

from workbench.cli.options import (
    AliasOption,
    Answers,
    Debug,
    ModelName,
    WorkspaceOption,
    count,
    find_workspace,
    option,
    run_ids,
    share,
    variant_names,
)
from workbench.cli.output import print_answer

PANEL = "Publish"
RunOption = Annotated[
    str | None, option("--run", "run id (default: the latest)", metavar="RUN", autocompletion=run_ids)
]
VariantOption = Annotated[
    str | None, option("--variant", "default: the winner", metavar="NAME", autocompletion=variant_names)
]
BumpOption = Annotated[
    Literal["patch", "minor", "major"] | None, option("--bump", "default: what the change demands")
]
VersionOption = Annotated[str | None, option("--version", "instead of --bump", metavar="X.Y.Z")]
FORCE = (
    "publish what misses the budget or has a grave remark, or under a number that promises too much; the "
    "reason is recorded in the manifest"
)
ForceOption = Annotated[str | None, option("--force", FORCE, metavar="REASON")]
AGREEMENT = "refuse what did not agree on at least this share of shadowed requests, such as 0.99"
RequireShadow = Annotated[float | None, share("--require-shadow", AGREEMENT)]
Keep = Annotated[int, count("--keep", "steps each alias can be rolled back (default: 3)", least=0)]
DELETE = "do it: move them to the trash, and delete what lay there for a day (default: only say so)"
Delete = Annotated[bool, option("--delete", DELETE)]


def promote(
    run: RunOption = None,
    variant: VariantOption = None,
    bump: BumpOption = None,
    version: VersionOption = None,
    alias: AliasOption = "production",
    force: ForceOption = None,
    require_shadow: RequireShadow = None,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Publish a variant as a version and point an alias at it."""
    if bump is not None and version is not None:
        raise typer.BadParameter("not allowed with --bump", param_hint="'--version'")
    # An option in the place of the reason was meant as an option.
    if force is not None and (not force.strip() or force.startswith("-")):
        raise typer.BadParameter("say why", param_hint="'--force'")

    from workbench.registry.promotion import publish
    from workbench.report import registry as words
    from workbench.report.verdict import shortfalls

    promotion = publish(
        find_workspace(workspace),
        run_id=run,
        variant=variant,
        bump=bump,
        version=version,
        alias=alias,
        force=force,
        describe=shortfalls,
        require_shadow=require_shadow,
    )
    print_answer(words.promotion_answer(promotion), words.promotion(promotion), form)
    return 0


def models(form: Answers = "table", workspace: WorkspaceOption = None, _debug: Debug = False) -> int:
    """List versions, aliases and where each came from."""
    from workbench.registry.store import Registry
    from workbench.report import registry as words

    answer = words.versions_answer(Registry(find_workspace(workspace).registry))
    print_answer(answer, words.versions(answer), form)
    return 0


def rollback(
    alias: AliasOption = "production",
    name: ModelName = None,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Point an alias at the version it pointed at before."""
    from workbench.registry.store import Registry

    found = find_workspace(workspace)
    bundle = Registry(found.registry).rollback(name or found.name, alias)
    answer = {"name": bundle.manifest.name, "alias": alias, "version": bundle.version}
    print_answer(answer, f"{alias} of {bundle.manifest.name} points at {bundle.version} again", form)
    return 0


def verify(form: Answers = "table", workspace: WorkspaceOption = None, _debug: Debug = False) -> int:
    """Re-hash every published file."""
    from workbench.registry.store import Registry

    registry = Registry(find_workspace(workspace).registry)
    problems = registry.verify()
    versions = sum(len(registry.versions(name)) for name in registry.names())
    answer = {"versions": versions, "problems": [str(problem) for problem in problems]}
    text = "\n".join(map(str, problems)) or f"{versions} versions, every file as it was published"
    print_answer(answer, text, form)
    return int(bool(problems))


def gc(
    keep: Keep = 3,
    delete: Delete = False,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Take away published versions that nothing needs any more."""
    from workbench.registry.gc import collect
    from workbench.registry.store import Registry
    from workbench.report import registry as words

    reclaimed = collect(Registry(find_workspace(workspace).registry), keep=keep, delete=delete)
    print_answer(words.collection_answer(reclaimed), words.collection(reclaimed), form)
    return 0
