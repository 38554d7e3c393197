"""What a gate compares: the words of a command as published versions, runs, files and recipes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.measure.records import BASELINE
from workbench.registry.bundle import Bundle
from workbench.registry.semver import is_version
from workbench.registry.store import Registry
from workbench.results.folder import RunFolder, find_run
from workbench.run.given import Given, given, of_file, of_run
from workbench.workspace import recipe
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import Workspace

PRODUCTION = "production"
ONNX = ".onnx"
RECIPES = "recipes"  # the folder beside krishi.yaml


def reference_of(workspace: Workspace, word: str) -> Given:
    """An .onnx file, a version, an alias, or `RUN` or `RUN:VARIANT`. Raises WorkbenchError."""
    if (found := _published(workspace, word)) is not None:
        return found
    run, _, variant = word.partition(":")
    try:
        return of_run(workspace.results, run, variant or None)
    except WorkbenchError as error:
        if variant or Path(run).exists():
            raise
        known = ", ".join(_names(workspace)) or "none"
        raise WorkbenchError(
            f"--against: `{word}` is no .onnx file, no version or alias of `{workspace.name}` and no run: "
            f"{error.message}",
            hint=f"publish one with `krishi-bench promote`, or name an .onnx file; published are {known}",
        ) from error


def candidates_of(
    workspace: Workspace, words: Sequence[str], run: str | None, variant: str | None
) -> list[Variant | Given]:
    """The variants of recipes, published versions and .onnx files that the words name.

    variant: the recipe that a run, by default the latest, recorded for it, built anew. With nothing named,
    the workspace's own recipes. Raises WorkbenchError.
    """
    if variant is not None:
        return [_recorded(workspace, run, variant)]
    recipes: list[Path] = []
    found: list[Variant | Given] = []
    for word in words:
        # A recipe's name comes before an alias of the same name.
        named = Path(word).suffix != ONNX and (Path(word).exists() or _shipped(word))
        if not named and (published := _published(workspace, word)) is not None:
            found.append(published)
        else:
            recipes.append(Path(word))
    if not words:
        return [*_own_recipes(workspace)]
    return [*(recipe.load(recipes) if recipes else ()), *found]


def _published(workspace: Workspace, word: str) -> Given | None:
    """None where the word is neither an .onnx file nor a version or alias. Raises WorkbenchError."""
    registry, path = Registry(workspace.registry), Path(word)
    if path.suffix == ONNX:
        if not path.is_file():
            raise WorkbenchError(f"{path} does not exist")
        return of_file(path)
    if is_version(word):
        return _of_bundle(registry.bundle(workspace.name, word), word)
    if word not in registry.aliases(workspace.name):
        return None
    bundle = registry.resolve(workspace.name, word)
    return _of_bundle(bundle, f"{bundle.version} ({word})")


def _shipped(word: str) -> bool:
    return (recipe.shipped() / f"{word}.yaml").is_file()


def _of_bundle(bundle: Bundle, label: str) -> Given:
    bundle.verify()
    found = bundle.manifest
    return given(bundle.version, bundle.artifact, found.runtime, label, found.preprocess, found.class_names)


def _names(workspace: Workspace) -> list[str]:
    registry = Registry(workspace.registry)
    return [*registry.aliases(workspace.name), *registry.versions(workspace.name)]


def _recorded(workspace: Workspace, run: str | None, name: str) -> Variant:
    folder = find_run(workspace.results, run)
    path = folder.recipe(name)
    if not path.is_file():
        known = [trial.variant for trial in folder.trials() if folder.recipe(trial.variant).is_file()]
        why = "it is what every run measures against" if name == BASELINE else f"it has {', '.join(known)}"
        raise WorkbenchError(f"run {folder.run_id} recorded no recipe of a variant `{name}`", hint=why)
    (variant,) = recipe.read(path)
    return replace(variant, name=name)


def _own_recipes(workspace: Workspace) -> list[Variant]:
    """Those of `recipes/` beside krishi.yaml, else the recipe that made what production points at."""
    folder = workspace.root / RECIPES
    if workspace.file is not None and folder.is_dir():
        return recipe.load([folder])
    registry = Registry(workspace.registry)
    if registry.pointed(workspace.name, PRODUCTION) is not None:
        made = registry.resolve(workspace.name, PRODUCTION).manifest.provenance
        if RunFolder(workspace.results / made.run_id).recipe(made.variant).is_file():
            return [_recorded(workspace, made.run_id, made.variant)]
    raise WorkbenchError(
        f"nothing was named, and there are no recipes in {folder}",
        hint="name a recipe, a version or an .onnx file: `krishi-bench gate recipes/ship.yaml`",
    )
