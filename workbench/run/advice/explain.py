"""What a recipe does, when that helps and when it hurts (evidence.yaml), with its sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from workbench.backends import takes_onnx
from workbench.system.records import Record
from workbench.workspace import requirements
from workbench.workspace.fields import as_yaml, described, summary
from workbench.workspace.recipe import Recipe, Variant


@dataclass(frozen=True, slots=True)
class Key:
    """What the evidence is of.

    of: the `use` of a step, a backend, or a section of a recipe (`export`, `preprocess`, `runtime`).
    field: a setting of it, dotted where it is in a section of its own; "" for the step or backend itself.
    value: of the setting; None for every value but the default. gpu: on a GPU, where it replaces the key
    without.
    """

    of: str
    field: str = ""
    value: str | bool | None = None
    gpu: bool = False


class Evidence(Record):
    """helps, hurts: None where nothing is known. source: of both."""

    key: Key
    helps: str | None = None
    hurts: str | None = None
    source: str


@lru_cache(maxsize=1)
def _data() -> Any:
    import yaml

    text = Path(__file__).with_name("evidence.yaml").read_bytes()
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # ten times as fast


@lru_cache(maxsize=1)
def phrases() -> dict[str, str]:
    """Sources, figures and phrases that the evidence and the speed rules share."""
    return {name: text.format_map(_data()["phrases"]) for name, text in _data()["phrases"].items()}


@lru_cache(maxsize=1)
def all_evidence() -> dict[Key, Evidence]:
    entries = {}
    for entry in _data()["evidence"]:
        key = Key(**entry.pop("key"))
        entries[key] = Evidence(key=key, **{name: text.format_map(phrases()) for name, text in entry.items()})
    return entries


def evidence(of: str, field: str, value: str | bool | None, *, gpu: bool) -> Evidence | None:
    """The evidence for this value, or with None for any but the default; on a GPU, its own first."""
    key = Key(of, field, value)
    return (all_evidence().get(replace(key, gpu=True)) if gpu else None) or all_evidence().get(key)


@dataclass(frozen=True, slots=True)
class Note:
    """does: the description of a field, or what the docstring of a step or runtime says it does.

    helps, hurts, source: of the evidence; None where there is none.
    """

    does: str | None
    helps: str | None = None
    hurts: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One step, runtime or setting of a recipe. title: as the recipe spells it.

    values: of a setting, as YAML writes them; several where the variants differ.
    """

    title: str
    values: tuple[str, ...]
    note: Note


@dataclass(frozen=True, slots=True)
class Explanation:
    """A recipe in words. unmet: why it would be skipped on this machine, or None."""

    recipe: str
    description: str
    variants: tuple[str, ...]
    axes: tuple[str, ...]
    needs: tuple[str, ...]
    unmet: str | None
    parts: tuple[Part, ...]


def explain(
    recipe: Recipe, variants: Sequence[Variant], *, flags: frozenset[str] | None = None
) -> Explanation:
    """Explain a recipe and the variants it expands into (`recipe.parse` gives both).

    flags: the processor's features; this one's by default. A setting at its default is left out unless there
    is evidence for that value.
    """
    axes = tuple(f"{key}: {', '.join(map(as_yaml, values))}" for key, values in recipe.matrix.items())
    names, unmet = tuple(variant.name for variant in variants), requirements.unmet(recipe.needs, flags=flags)
    return Explanation(recipe.name, recipe.description, names, axes, recipe.needs, unmet, _merge(variants))


def _merge(variants: Sequence[Variant]) -> tuple[Part, ...]:
    """Each part of any variant once, with all its values, in the order of the recipe's sections."""
    order: dict[tuple[int, str], None] = {}  # values of one setting stay together
    values: dict[tuple[str, Note], dict[str, None]] = {}
    for variant in variants:
        for rank, section in enumerate(_sections(variant)):
            for part in section:
                order.setdefault((rank, part.title))
                values.setdefault((part.title, part.note), {}).update(dict.fromkeys(part.values))
    places = {title: place for place, (_, title) in enumerate(sorted(order, key=lambda item: item[0]))}
    ordered = sorted(values.items(), key=lambda item: places[item[0][0]])
    return tuple(Part(title, tuple(found), note) for (title, note), found in ordered)


def _sections(variant: Variant) -> Iterator[list[Part]]:
    runtime, gpu = variant.runtime, variant.runtime.device == "cuda"
    yield list(_settings("export", variant.export, gpu=gpu)) if takes_onnx(runtime) else []
    yield list(_settings("preprocess", variant.preprocess, gpu=gpu))
    yield [
        part
        for step in variant.steps
        for part in (_heading("step", step.use, step, gpu=gpu), *_settings(step.use, step, gpu=gpu))
    ]
    yield [_heading("runtime", runtime.backend, runtime, gpu=gpu), *_settings("runtime", runtime, gpu=gpu)]


def _heading(kind: str, name: str, model: BaseModel, *, gpu: bool) -> Part:
    """A step or a runtime as such."""
    return Part(f"{kind} {name}", (), _note(summary(type(model)), evidence(name, "", None, gpu=gpu)))


def _settings(owner: str, model: BaseModel, path: str = "", *, gpu: bool) -> Iterator[Part]:
    """The settings that are not at their default, or whose value has evidence of its own."""
    for name, field in described(type(model)):
        value, place = getattr(model, name), f"{path}{name}"
        if not isinstance(value, BaseModel) or field.default is None:
            found = evidence(owner, place, value, gpu=gpu) if isinstance(value, str | bool) else None
            if value != field.default:
                found = found or evidence(owner, place, None, gpu=gpu)
            if found or value != field.default:
                yield Part(f"{owner}.{place}", (as_yaml(value),), _note(field.description, found))
        if isinstance(value, BaseModel):
            yield from _settings(owner, value, f"{place}.", gpu=gpu)


def _note(does: str | None, found: Evidence | None) -> Note:
    return Note(does) if found is None else Note(does, found.helps, found.hurts, found.source)
