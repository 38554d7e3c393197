"""`promote`, `models`, `rollback`, `verify` and `gc`: the registry."""

import sys
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
from workbench.cli.output import print_answer, terminal_width

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
NO_ABSTAIN = (
    "promise nothing of the answers: the version calls none uncertain (default: krishi.yaml's `abstain`)"
)
NoAbstain = Annotated[bool, option("--no-abstain", NO_ABSTAIN)]
RequireShadow = Annotated[float | None, share("--require-shadow", AGREEMENT)]
EXPLAIN = "publish a second model file that shows where the network looked, at the cost of one call"
Explain = Annotated[bool, option("--explain", EXPLAIN)]
ForClass = Annotated[
    str | None,
    option("--class", "the winner of a class of a fleet's run, as `ALIAS@CLASS`", metavar="NAME"),
]
Keep = Annotated[int, count("--keep", "steps each alias can be rolled back (default: 3)", least=0)]
PAST_DAMAGED = "pass over versions that are damaged or were collected (default: refuse, and name them)"
PastDamaged = Annotated[bool, option("--past-damaged", PAST_DAMAGED)]
DELETE = "do it: move them to the trash, and delete what lay there for a day (default: only say so)"
Delete = Annotated[bool, option("--delete", DELETE)]


TargetOption = Annotated[
    Literal["server", "android"] | None,
    option("--target", "its winner, under an alias of its own (default: the workspace's first)"),
]


def promote(
    run: RunOption = None,
    variant: VariantOption = None,
    bump: BumpOption = None,
    version: VersionOption = None,
    target: TargetOption = None,
    alias: AliasOption = "production",
    force: ForceOption = None,
    require_shadow: RequireShadow = None,
    explain: Explain = False,
    device_class: ForClass = None,
    no_abstain: NoAbstain = False,
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
        alias=target if target not in (None, "server") and alias == "production" else alias,
        force=force,
        describe=shortfalls,
        require_shadow=require_shadow,
        explain=explain,
        device_class=device_class,
        abstain=not no_abstain,
        target=target,
    )
    print_answer(words.promotion_answer(promotion), words.promotion(promotion), form)
    return 0


def models(form: Answers = "table", workspace: WorkspaceOption = None, _debug: Debug = False) -> int:
    """List versions, aliases and where each came from."""
    from workbench.registry.store import Registry
    from workbench.report import registry as words

    registry = Registry(find_workspace(workspace, inputs=False).registry)
    answer = words.versions_answer(registry)
    print_answer(answer, words.versions(answer, terminal_width()), form)
    for sentence in words.alias_faults(registry):
        print(sentence, file=sys.stderr)
    return 0


def rollback(
    alias: AliasOption = "production",
    name: ModelName = None,
    past_damaged: PastDamaged = False,
    form: Answers = "table",
    workspace: WorkspaceOption = None,
    _debug: Debug = False,
) -> int:
    """Point an alias at the version it pointed at before."""
    from workbench.registry.store import Registry

    found = find_workspace(workspace, inputs=False)
    registry, model = Registry(found.registry), name or found.name
    version = registry.rollback(model, alias, past_damaged=past_damaged).version
    reason = registry.aliases(model)[alias].history[-1].reason
    answer = {"name": model, "alias": alias, "version": version, "reason": reason}
    print_answer(answer, f"{alias} of {model} points at {version} again: {reason}", form)
    return 0


def verify(form: Answers = "table", workspace: WorkspaceOption = None, _debug: Debug = False) -> int:
    """Re-hash every published file."""
    from workbench.errors import plural
    from workbench.registry.store import Registry

    registry = Registry(find_workspace(workspace, inputs=False).registry)
    problems = registry.verify()
    harmful = [str(problem) for problem in problems if not problem.harmless]
    notes = [str(problem) for problem in problems if problem.harmless]
    versions = sum(len(registry.versions(name)) for name in registry.names())
    answer = {"versions": versions, "problems": harmful} | ({"notes": notes} if notes else {})
    lines = [*harmful, *(f"note: {note}" for note in notes)]
    if not harmful:
        lines.append(f"{plural(versions, 'version')}, every file as it was published")
    print_answer(answer, "\n".join(lines), form)
    return int(bool(harmful))


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

    reclaimed = collect(Registry(find_workspace(workspace, inputs=False).registry), keep=keep, delete=delete)
    print_answer(words.collection_answer(reclaimed), words.collection(reclaimed), form)
    return 0
