"""What a recipe does, when that helps and when it hurts, with the source of each statement."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel

from workbench.backends import takes_onnx
from workbench.run.advice.notes import EXPORTERS, NOTES, ON_GPU, Note
from workbench.workspace import requirements as needs
from workbench.workspace.recipe import Recipe, Variant

WIDTH = 100
SHOWN = 8  # variants listed by name; more are counted


@dataclass(frozen=True, slots=True)
class Part:
    """One thing a recipe does. title: the step, runtime or setting, as the recipe spells it.

    values: of a setting, as YAML has them; several where the variants differ.
    """

    title: str
    values: tuple[str, ...]
    note: Note


@dataclass(frozen=True, slots=True)
class Explanation:
    """unmet: why it would be skipped here, or None."""

    recipe: str
    description: str
    variants: tuple[str, ...]
    axes: tuple[str, ...]
    needs: tuple[str, ...]
    unmet: str | None
    parts: tuple[Part, ...]

    def facts(self) -> dict[str, Any]:
        """The keys of `--format json`."""
        return asdict(self)

    def text(self) -> str:
        """The explanation for a terminal of 100 columns."""
        lines = wrapped(f"{self.recipe}: {self.description}" if self.description else self.recipe, "")
        shown = list(self.variants[:SHOWN])
        if more := len(self.variants) - len(shown):
            shown.append(f"and {more} more")
        lines += wrapped(f"{_count(len(self.variants), 'variant')}: {', '.join(shown)}", "")
        for axis in self.axes:
            lines += wrapped(f"varies {axis}", "  ")
        if self.needs:
            lines += wrapped(f"needs {', '.join(self.needs)}", "")
        if self.unmet is not None:
            lines += wrapped(f"skipped here: {self.unmet}", "")
        for part in self.parts:
            values = f": {', '.join(part.values)}" if part.values else ""
            lines += ["", *wrapped(part.title + values, "")]
            for label, said in (
                ("does", part.note.does),
                ("helps", part.note.helps),
                ("hurts", part.note.hurts),
                ("source", part.note.source),
            ):
                if said:
                    lines += wrapped(said, " " * 10, f"  {label:<8}")
        return "\n".join(lines) + "\n"


def explain(
    recipe: Recipe, variants: Sequence[Variant], *, flags: frozenset[str] | None = None
) -> Explanation:
    """Explain a recipe and the variants it expands into (`recipe.parse` gives both).

    flags: the processor's features; this one's by default. What has no entry in `explanations.NOTES` is
    left out: a setting at its default, or one whose name says it all. Where a variant runs decides whether
    it is the note of processors or of GPUs.
    """
    axes = tuple(f"{key}: {', '.join(map(_value, values))}" for key, values in recipe.matrix.items())
    return Explanation(
        recipe.name,
        recipe.description,
        tuple(variant.name for variant in variants),
        axes,
        recipe.needs,
        needs.unmet(recipe.needs, flags=flags),
        _merged(variants),
    )


def _merged(variants: Sequence[Variant]) -> tuple[Part, ...]:
    """Each thing that any variant does, once, in the order a variant does them."""
    values: dict[tuple[int, str, Note], dict[str, None]] = {}
    for variant in variants:
        for rank, section in enumerate(_sections(variant)):
            for part in section:
                values.setdefault((rank, part.title, part.note), {}).update(dict.fromkeys(part.values))
    seen: dict[tuple[str, Note], Part] = {}
    for (_, title, note), found in sorted(values.items(), key=lambda item: item[0][0]):
        seen.setdefault((title, note), Part(title, tuple(found), note))
    return tuple(seen.values())


def _sections(variant: Variant) -> Iterator[list[Part]]:
    exporter, notes = variant.export.exporter, _notes(variant)
    exported = takes_onnx(variant.runtime)
    yield [Part(f"export with {exporter}", (), EXPORTERS[exporter])] if exported else []
    yield list(_settings("preprocess", variant.preprocess, notes))
    yield [
        part
        for step in variant.steps
        for part in (Part(f"step {step.use}", (), notes[step.use]), *_settings(step.use, step, notes))
    ]
    backend = variant.runtime.backend
    yield [Part(f"runtime {backend}", (), notes[backend]), *_settings("runtime", variant.runtime, notes)]


def _notes(variant: Variant) -> Mapping[str, Note]:
    return {**NOTES, **ON_GPU} if variant.runtime.device == "cuda" else NOTES


def _settings(owner: str, model: BaseModel, notes: Mapping[str, Note]) -> Iterator[Part]:
    """The settings that are not at their default, or whose value has a note of its own."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel) and f"{owner}.{name}" not in notes:
            yield from _settings(f"{owner}.{name}", value, notes)
            continue
        note = notes.get(f"{owner}.{name}={_value(value)}")
        if note is None and value != field.default:
            note = notes.get(f"{owner}.{name}")
        if note is not None:
            yield Part(f"{owner}.{name}", (_value(value),), note)


def _value(value: object) -> str:
    """As YAML would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    """Lines of at most WIDTH columns. first: what the first begins with; the others are indented deeper."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent if first is not None else indent + "  ",
        break_on_hyphens=False,
    )
