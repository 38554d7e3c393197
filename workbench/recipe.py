"""Recipes: how to export, which steps, on which runtime. A matrix expands one into several variants."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from workbench import yamlfile
from workbench.backends import Runtime
from workbench.errors import WorkbenchError
from workbench.export import Export
from workbench.files import digest_of, file_name
from workbench.steps import Step

KIND = "recipe"
BASELINE = "baseline"
FIXED = ("name", "description", "matrix")  # what a matrix cannot vary
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
Axis = Annotated[list[Any], Field(min_length=1)]


class Recipe(BaseModel):
    """One YAML file. Says how, never what: the model and the data come from the workspace.

    matrix: dotted keys (`steps.static_int8.calibration.method`, `runtime.threads`, `export`) to the
    values to try; every combination is a variant. A step is named by its `use`, or by its position.
    A value that is a mapping is merged into the section it names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    description: str = ""
    export: Export = Export()
    steps: tuple[Step, ...] = ()
    runtime: Runtime = Runtime()
    matrix: dict[str, Axis] = {}


@dataclass(frozen=True, slots=True)
class Variant:
    """One recipe fully resolved."""

    name: str
    recipe: str
    description: str
    export: Export
    steps: tuple[Step, ...]
    runtime: Runtime

    @property
    def digest(self) -> str:
        """64 hex digits of what is built and how it runs; the name plays no part."""
        parts = [self.export, *self.steps, self.runtime]
        return digest_of([part.model_dump(mode="json") for part in parts])


def load(paths: Sequence[Path]) -> list[Variant]:
    """The variants of recipe files and of the `*.yaml` files of folders, in order.

    Raises WorkbenchError for a file that is no valid recipe, a path that does not exist, a folder with
    no recipe in it, and two recipes of one name.
    """
    variants: list[Variant] = []
    owners: dict[str, Path] = {}
    for path in dict.fromkeys(itertools.chain.from_iterable(_files(path) for path in paths)):
        found = read(path)
        if (name := found[0].recipe) in owners:
            raise WorkbenchError(
                f"{path} and {owners[name]} are both named `{name}`", hint="give one of them another `name`"
            )
        owners[name] = path
        variants += found
    _check_file_names(variants)
    return variants


def _check_file_names(variants: Sequence[Variant]) -> None:
    """Logs and predictions are filed under a variant's name, so no two may be filed alike."""
    filed = {file_name(BASELINE): BASELINE}
    for variant in variants:
        if (other := filed.setdefault(file_name(variant.name), variant.name)) != variant.name:
            raise WorkbenchError(
                f"variants `{other}` and `{variant.name}` would be filed under the same name",
                hint="give one of their recipes another `name`",
            )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    if not files:
        raise WorkbenchError(f"{path} holds no recipe", hint="recipes are .yaml files")
    return files


def read(path: Path) -> list[Variant]:
    """The variants of one recipe file."""
    document = yamlfile.read(path, kind=KIND)
    recipe = yamlfile.validated(Recipe, document.data, document, kind=KIND)
    if recipe.name == BASELINE:
        raise WorkbenchError(
            f"{document.where(('name',))}: name: `{BASELINE}` is what every run measures against",
            hint="choose another name",
        )
    variants = [_variant(label, resolved) for label, resolved in _expand(document, recipe)]
    names: set[str] = set()
    for variant in variants:
        # Compared as file names, because logs and predictions are filed under them.
        if file_name(variant.name) in names:
            raise WorkbenchError(
                f"{document.where(('matrix',))}: matrix: two variants would be named `{variant.name}`",
                hint="remove the value that is there twice",
            )
        names.add(file_name(variant.name))
    return variants


def _variant(label: str, recipe: Recipe) -> Variant:
    return Variant(
        f"{recipe.name}[{label}]" if label else recipe.name,
        recipe.name,
        recipe.description,
        recipe.export,
        recipe.steps,
        recipe.runtime,
    )


def _expand(document: yamlfile.Document, recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    plain = {key: value for key, value in document.data.items() if key != "matrix"}
    keys = list(recipe.matrix)
    last = [key.rpartition(".")[2] for key in keys]
    shown = [key if last.count(short) > 1 else short for key, short in zip(keys, last, strict=True)]
    for values in itertools.product(*recipe.matrix.values()):
        data = copy.deepcopy(plain)
        labels: list[str] = []
        for key, short, value in zip(keys, shown, values, strict=True):
            _assign(data, key, value, document)
            labels += _labels(short, value)
        at = ("matrix", keys[0]) if len(keys) == 1 else ("matrix",)
        resolved = yamlfile.validated(Recipe, data, document, kind=KIND, at=at if keys else None)
        yield ",".join(labels), resolved


def _labels(key: str, value: Any) -> list[str]:
    """How a value reads in a variant's name: `opset=13`; in a mapping, words need no key: `torchscript`."""
    if isinstance(value, dict):
        return [
            item if isinstance(item, str) else label
            for inner, item in value.items()
            for label in _labels(str(inner), item)
        ]
    if isinstance(value, list):
        # An item that is a mapping is a step: `simplify+static_int8:int8`.
        items = [":".join(_labels("", item)) if isinstance(item, dict) else str(item) for item in value]
        return [f"{key}={'+'.join(items) or 'none'}"]
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}"]


def _assign(data: dict[str, Any], key: str, value: Any, document: yamlfile.Document) -> None:
    """Put `value` at a matrix key. Raises WorkbenchError where the key leads nowhere."""
    place: tuple[str, ...] = ("matrix", key)
    if key.partition(".")[0] in FIXED:
        raise WorkbenchError(
            f"{document.where(place)}: matrix: `{key}` is the same for all variants",
            hint="`export`, `steps` and `runtime` can vary",
        )
    target: Any = data
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(target, list):
            target = _step(target, part, key, document.where(place))
        else:
            target = target.setdefault(part, {})
        if not isinstance(target, dict | list):
            raise WorkbenchError(f"{document.where(place)}: matrix: `{key}` leads through a plain value")
    if isinstance(target, list):
        target = {last: _step(target, last, key, document.where(place))}
    if isinstance(value, dict) and isinstance(target.get(last), dict):
        target[last].update(value)
    else:
        target[last] = value


def _step(steps: list[Any], part: str, key: str, where: str) -> dict[str, Any]:
    if part.isdecimal() and int(part) < len(steps):
        positioned: dict[str, Any] = steps[int(part)]
        return positioned
    named: list[dict[str, Any]] = [step for step in steps if step.get("use") == part]
    if len(named) == 1:
        return named[0]
    if named:
        raise WorkbenchError(
            f"{where}: matrix: `{key}`: there are {len(named)} steps `{part}`",
            hint="name the one you mean by its position, counted from 0",
        )
    meant = yamlfile.closest(part, [step["use"] for step in steps])
    raise WorkbenchError(
        f"{where}: matrix: `{key}`: the recipe has no step `{part}`",
        hint=f"did you mean `{meant}`?" if meant else None,
    )


def shipped() -> Path:
    """The folder of the recipes that come with the package, or with the checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "recipes"
