"""Recipes: how to export, which steps, on which runtime. A matrix expands one into several variants."""

import copy
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from workbench.backends import DEFAULT, OrtRuntime, Runtime, Target
from workbench.errors import FieldProblem, WorkbenchError, did_you_mean
from workbench.model.export.settings import Export
from workbench.photos.contract import Decode, Preprocess, StatedPreprocess
from workbench.steps import Step
from workbench.steps.rules import check_fit, check_sequence
from workbench.system.files import digest_of, file_name
from workbench.system.records import Record
from workbench.workspace import yamlfile
from workbench.workspace.matrix import assign, labels_of
from workbench.workspace.requirements import Need

KIND = "recipe"
SUFFIXES = (".yaml", ".yml")
ASIDE = "_"  # first letter of files that other recipes extend and that are no recipes themselves
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Axis = Annotated[list[Any], Field(min_length=1)]


def _check_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Raise FieldProblem at the first step that cannot follow those before it."""
    for position in range(len(steps)):
        try:
            check_sequence(steps[: position + 1])
        except WorkbenchError as error:
            raise FieldProblem(error.message, hint=error.hint, at=(position,)) from None
    return steps


class RecipePreprocess(StatedPreprocess):
    """The `preprocess` section of a recipe: its differences from the workspace's preprocessing.

    A `crop` or `scale` alone changes `resize` in proportion: the network sees the same part of the photo.
    """

    scale: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = Field(
        None,
        description="Size of the input as a fraction of the workspace's `crop`, up to 2, rounded to a "
        "multiple of 16 pixels (of 8 below 128). `resize` follows it. It excludes `crop` and `resize`.",
    )
    decode: Decode | None = Field(None, description=Preprocess.model_fields["decode"].description)

    @model_validator(mode="after")
    def _one_size(self) -> "RecipePreprocess":
        if self.scale is not None and (self.crop is not None or self.resize is not None):
            raise FieldProblem(
                "`scale` is a fraction of the workspace's size, `crop` and `resize` are pixels",
                hint="give `scale` alone, or the pixels",
            )
        return self


UNCHANGED = RecipePreprocess()


def scaled_side(side: int, scale: float) -> int:
    """Pixels of a side at a scale: the nearest multiple of 16, below 128 of 8; at least 8.

    Networks halve their input four or five times and pad sides that do not divide.
    """
    exact = side * scale
    grid = 16 if exact >= 128 else 8
    return max(grid, grid * round(exact / grid))


class Recipe(Record):
    """One YAML file: how to export and optimise. The model and the photos come from the workspace."""

    name: Name = Field(
        description="Name of the recipe: letters, digits, `.`, `_` and `-`, 60 characters at most. It is "
        "never inherited."
    )
    description: str = Field("", description="One sentence for reports and `explain`.")
    export: Export = Field(Export(), description="How torch becomes ONNX: section `export`.")
    extends: str | None = Field(
        None,
        description="File of another recipe, relative to this one, whose keys hold where this one gives "
        "none. Mappings are merged key by key, lists are replaced whole, `null` drops a key.",
    )
    needs: tuple[Need, ...] = Field(
        (),
        description="Libraries, with versions if need be (`openvino>=2025.0`), and processor features "
        "(`vnni | asimddp` is either) without which the variants are skipped.",
    )
    steps: Annotated[tuple[Step, ...], AfterValidator(_check_order)] = Field(
        (), description="Steps from ONNX to ONNX, in this order; by default the export runs as it is."
    )
    runtime: Runtime = Field(
        OrtRuntime(), description="Backend, device and settings to measure and serve with: section `runtime`."
    )
    preprocess: RecipePreprocess = Field(
        UNCHANGED, description="Differences from the workspace's preprocessing: section `preprocess`."
    )
    matrix: dict[str, Axis] = Field(
        {},
        description="Dotted keys (`steps.static_int8.calibration.method`, `runtime.threads`, `export`) with "
        "the values to try; every combination is a variant. A step is named by its `use` or its position. A "
        "value that is a mapping is merged into the section that the key names.",
    )

    @model_validator(mode="after")
    def _steps_fit(self) -> "Recipe":
        opset = self.export.opset if "opset" in self.export.model_fields_set else None
        check_fit(self.steps, self.runtime, opset)
        return self


@dataclass(frozen=True, slots=True)
class Variant:
    """One combination of a recipe's values. needs: see `requirements.unmet`; not part of what is built."""

    name: str
    recipe: str
    description: str
    export: Export
    steps: tuple[Step, ...]
    runtime: Runtime
    preprocess: RecipePreprocess = UNCHANGED
    needs: tuple[str, ...] = ()

    @property
    def runs_apart(self) -> bool:
        """Whether it names a version of the runtime, or is built or run in another environment."""
        apart = [self.runtime.environment(), *(step.environment(self.runtime) for step in self.steps)]
        return self.runtime.version is not None or any(apart)

    @property
    def digest(self) -> str:
        """64 hex digits of the build and the runtime settings, without the name."""
        parts = [self.export, *self.steps, self.runtime, self.preprocess]
        dumped = [part.model_dump(mode="json") for part in parts]
        if self.runtime.version is None:  # the digests of recipes without one are what they were
            del dumped[-2]["version"], dumped[-2]["packages"]
        return digest_of(dumped)

    @property
    def build_digest(self) -> str:
        """64 hex digits of what is built, whichever runtime runs it."""
        parts = [self.export, *self.steps, self.preprocess]
        return digest_of([part.model_dump(mode="json") for part in parts])


def to_yaml(variant: Variant, name: str) -> str:
    """A recipe of this name, as a file holds it, that gives this variant alone."""
    import yaml

    content: dict[str, object] = {
        "name": name,
        "description": variant.description,
        "needs": list(variant.needs),
        "export": variant.export.model_dump(mode="json", exclude_unset=True),
        "steps": [step.model_dump(mode="json", exclude_unset=True) for step in variant.steps],
        "runtime": _stated(variant.runtime),
        "preprocess": variant.preprocess.model_dump(mode="json", exclude_none=True),
    }
    kept = {key: value for key, value in content.items() if value}
    return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100))


def _stated(runtime: Runtime) -> dict[str, object]:
    """What was said of it; the backend too, where it is not the one that is taken where nothing is said."""
    named = {} if runtime.backend == DEFAULT else {"backend": runtime.backend}
    return named | runtime.model_dump(mode="json", exclude_unset=True, exclude={"backend"})


def load(paths: Sequence[Path]) -> list[Variant]:
    """The variants of recipe files, of the `*.yaml` files of folders, and of shipped recipes by name.

    Raises WorkbenchError for a file that is no valid recipe, a path that does not exist, a folder with
    no recipe in it, and two recipes of one name.
    """
    variants: list[Variant] = []
    owners: dict[str, Path] = {}
    for path in dict.fromkeys(itertools.chain.from_iterable(_files(path) for path in paths)):
        _, found = parse(path)
        if (name := found[0].recipe) in owners:
            hint = "give one of them another `name`"
            raise WorkbenchError(f"{path} and {owners[name]} are both named `{name}`", hint=hint)
        owners[name] = path
        variants += found
    _check_file_names(variants)
    return variants


def chosen(paths: Sequence[Path] | None, targets: Collection[Target] = ()) -> list[Variant]:
    """The variants of these paths (see `load`); by default of the shipped recipes that run in this
    environment as it is, or are for a device among the targets."""
    if paths:
        return load(paths)
    devices = set(targets) - {"server"}
    return [v for v in load([shipped()]) if not v.runs_apart or devices & v.runtime.TARGETS]


def _check_file_names(variants: Sequence[Variant]) -> None:
    """Raise WorkbenchError where two names give one file name: logs and predictions are filed under them."""
    from workbench.measure.records import BASELINE

    filed = {file_name(BASELINE): BASELINE}
    for name in (variant.name for variant in variants):
        if (other := filed.setdefault(file_name(name), name)) != name:
            hint = "give one of their recipes another `name`"
            raise WorkbenchError(
                f"variants `{other}` and `{name}` would be filed under the same name", hint=hint
            )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [find(str(path))]
    files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES and not f.name.startswith(ASIDE))
    if not files:
        raise WorkbenchError(f"{path} holds no recipe", hint="recipes are .yaml files")
    return files


def read(path: Path) -> list[Variant]:
    """The variants of a recipe that a run wrote. A variant of a matrix may have settings that it ignores."""
    return parse(path, ignored=True)[1]


def parse(path: Path, *, ignored: bool = False) -> tuple[Recipe, list[Variant]]:
    """A recipe file merged with those it extends, and its variants. Raises WorkbenchError.

    ignored: whether it may have settings that do nothing in any variant.
    """
    document = _document(path)
    recipe = yamlfile.validated(Recipe, document.data, document, kind=KIND)
    from workbench.measure.records import BASELINE

    if recipe.name == BASELINE:
        raise WorkbenchError(
            f"{document.where(('name',))}: name: `{BASELINE}` is what every run measures against",
            hint="choose another name",
        )
    variants = _variants(document, recipe)
    if not ignored:
        _check_used(document, variants)
    return recipe, variants


def _document(path: Path) -> yamlfile.Document:
    """A file merged with those it extends, with its own `name` and without `extends`."""
    document = holder = yamlfile.read(path, kind=KIND)
    chain = [path]
    while (parent := holder.data.pop("extends", None)) is not None:
        where = f"{holder.where(('extends',))}: extends"
        if not isinstance(parent, str) or not parent:
            raise WorkbenchError(f"{where}: this must be one file (got {parent!r})")
        found = chain[-1].parent / parent
        if any(found.resolve() == earlier.resolve() for earlier in chain):
            listed = " -> ".join(file.name for file in [*chain, found])
            raise WorkbenchError(f"{where}: a recipe cannot extend itself ({listed})")
        if not found.is_file():
            hint = f"the path is relative to {chain[-1].parent}"
            if ours := next((file for file in _files(shipped()) if file.stem == Path(parent).stem), None):
                hint += f"; the shipped recipe is {ours}"
            raise WorkbenchError(f"{where}: {found} does not exist", hint=hint)
        chain.append(found)
        holder = yamlfile.read(found, kind=KIND)
        holder.data.pop("name", None)
        holder.lines.pop(("name",), None)
        document = yamlfile.merged(document, holder)
        document.data.pop("extends", None)  # the loop takes the next one from its own file
    return document


def find(given: str) -> Path:
    """The path of a recipe file, or of a shipped recipe by its name. Raises WorkbenchError."""
    path, known = Path(given), {file.stem: file for file in _files(shipped())}
    if path.is_file() or path.suffix in SUFFIXES:
        return path
    if given in known:
        return known[given]
    raise WorkbenchError(
        f"`{given}` is neither a recipe file nor one of those shipped ({', '.join(known)})",
        hint=did_you_mean(given, known),
    )


def _variants(document: yamlfile.Document, recipe: Recipe) -> list[Variant]:
    variants: dict[str, Variant] = {}
    for label, one in _expand(document, recipe):
        name = f"{one.name}[{label}]" if label else one.name
        # Compared as file names, because logs and predictions are filed under them.
        if file_name(name) in variants:
            raise WorkbenchError(
                f"{document.where(('matrix',))}: matrix: two variants would be named `{name}`",
                hint="remove the value that is there twice",
            )
        given = (one.description, one.export, one.steps, one.runtime, one.preprocess, one.needs)
        variants[file_name(name)] = Variant(name, one.name, *given)
    return list(variants.values())


def _check_used(document: yamlfile.Document, variants: Sequence[Variant]) -> None:
    """Raise WorkbenchError at the first setting of a step that every variant ignores."""
    steps = [place for variant in variants for place in enumerate(variant.steps)]
    used = {(step.use, name) for _, step in steps for name in step.changed() if name not in step.ignored()}
    for position, step in steps:
        for name, why in step.ignored().items():
            if (step.use, name) not in used:
                where = f"{document.where(('steps', position, name))}: steps[{position}].{name}"
                message = f"{document.path} is not a valid {KIND}\n  {where}: with `{why}` it does nothing"
                raise WorkbenchError(message, hint=f"leave it out, or change `{why}`")


def _expand(document: yamlfile.Document, recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    plain = {key: value for key, value in document.data.items() if key != "matrix"}
    keys = list(recipe.matrix)
    last = [key.rpartition(".")[2] for key in keys]
    shown = [key if last.count(short) > 1 else short for key, short in zip(keys, last, strict=True)]
    for values in itertools.product(*recipe.matrix.values()):
        data = copy.deepcopy(plain)
        labels: list[str] = []
        for key, short, value in zip(keys, shown, values, strict=True):
            assign(data, key, value, document)
            labels += labels_of(short, value)
        at = ("matrix", keys[0]) if len(keys) == 1 else ("matrix",)
        resolved = yamlfile.validated(Recipe, data, document, kind=KIND, at=at if keys else None)
        yield ",".join(labels), resolved


def shipped() -> Path:
    """The folder of the recipes that come with the package, or with the checkout."""
    installed = Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"
