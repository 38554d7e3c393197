"""What `explain` prints: each part of a recipe, described by its field, with the evidence, in 100 columns."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from workbench.report.advice import explanation as text_of
from workbench.run.advice.explain import Explanation, Key, all_evidence, explain
from workbench.workspace import recipe
from workbench.workspace.fields import described, models_in, summary, tags_of

EVIDENCE = all_evidence()
SHIPPED = sorted(path.stem for path in recipe.shipped().glob("*.yaml"))
STEPS = models_in(recipe.Recipe.model_fields["steps"].annotation)
RUNTIMES = models_in(recipe.Recipe.model_fields["runtime"].annotation)


def explained(folder: Path, text: str) -> Explanation:
    path = folder / "r.yaml"
    path.write_text(text)
    return explain(*recipe.parse(path), flags=frozenset({"avx2"}))


def models_of(key: Key) -> list[type[BaseModel]]:
    """The models that have the setting of a key: of a section, or of a step or backend by its tag."""
    if key.of in ("export", "preprocess", "runtime"):
        return models_in(recipe.Recipe.model_fields[key.of].annotation)
    return [model for model in (*STEPS, *RUNTIMES) if key.of in tags_of(model)]


def annotations(model: type[BaseModel], path: str) -> list[Any]:
    """The annotation of a dotted field; [] where the model has none."""
    name, _, rest = path.partition(".")
    if name not in model.model_fields:
        return []
    annotation = model.model_fields[name].annotation
    return [a for inner in models_in(annotation) for a in annotations(inner, rest)] if rest else [annotation]


def choices(annotation: Any) -> set[object]:
    """The values that an annotation lists: of its literals, and both of a boolean."""
    if annotation is bool:
        return {True, False}
    inner = get_args(annotation)
    return {a for a in inner if isinstance(a, str)} | {c for a in inner for c in choices(a)}


@pytest.mark.parametrize("key", EVIDENCE, ids=str)
def test_every_key_of_the_evidence_is_a_step_or_setting_and_a_value_it_can_have(key: Key) -> None:
    models = models_of(key)
    assert models
    if key.field:
        found = [annotation for model in models for annotation in annotations(model, key.field)]
        assert found
        assert key.value is None or any(key.value in choices(annotation) for annotation in found)


def test_every_step_backend_and_exporter_has_evidence() -> None:
    (export,) = models_in(recipe.Recipe.model_fields["export"].annotation)
    tags = {tag for model in (*STEPS, *RUNTIMES) for tag in tags_of(model)}
    assert {key.of for key in EVIDENCE if not key.field} == tags
    exporters = {key.value for key in EVIDENCE if key.of == "export"}
    assert exporters == choices(export.model_fields["exporter"].annotation)


def test_evidence_names_its_source_and_says_something() -> None:
    assert all(found.source and (found.helps or found.hurts) for found in EVIDENCE.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_explained_in_100_columns(name: str) -> None:
    found = explain(*recipe.parse(recipe.find(name)))
    text = text_of(found)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith(f"{name}: ")
    titles = {part.title for part in found.parts if part.note.does}
    assert text.count("\n  does ") == len(titles) >= 1
    assert text.count("\n  source ") == sum(part.note.source is not None for part in found.parts) >= 1


def test_steps_settings_and_axes_are_explained_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    text = (
        "name: a\ndescription: all of it\nneeds: [amx]\nexport: {exporter: torchscript}\n"
        "preprocess: {scale: 0.5}\nsteps:\n  - {use: simplify}\n  - {use: static_int8, reduce_range: true}\n"
        "matrix: {runtime.threads: [1, 2]}\n"
    )
    found = explained(tmp_path, text)
    titles = [part.title for part in found.parts]
    assert [title for title in titles if not title.startswith("static_int8.")] == [
        "export.exporter",
        "preprocess.scale",
        "step simplify",
        "step static_int8",
        "runtime onnxruntime",
        "runtime.threads",
    ]
    assert "static_int8.reduce_range" in titles and "static_int8.equalize" not in titles
    assert found.parts[-1].values == ("1", "2")
    assert found.axes == ("runtime.threads: 1, 2",)
    assert found.unmet == "it needs amx: this processor has no amx"
    assert "\nskipped here: it needs amx" in text_of(found)


def test_a_step_is_described_by_its_class_and_a_setting_by_its_field(tmp_path: Path) -> None:
    text = "name: a\nsteps: [{use: nncf_int8, accuracy_control: {max_drop: 0.02}}]\nexport: {opset: 20}\n"
    notes = {part.title: part.note for part in explained(tmp_path, text).parts}
    (nncf,) = (model for model in STEPS if "nncf_int8" in tags_of(model))
    (control,) = models_in(nncf.model_fields["accuracy_control"].annotation)
    assert notes["step nncf_int8"].does == summary(nncf)
    for title, model in (("accuracy_control", nncf), ("accuracy_control.max_drop", control)):
        field = dict(described(model))[title.rpartition(".")[2]]
        assert notes[f"nncf_int8.{title}"].does == field.description
    # A setting without evidence is described all the same.
    assert notes["export.opset"].does and notes["export.opset"].source is None


def test_a_setting_with_several_values_is_described_once(tmp_path: Path) -> None:
    text = "name: a\nmatrix: {export: [{exporter: torchscript, opset: 18}, {exporter: dynamo, opset: 20}]}\n"
    found = explained(tmp_path, text)
    assert [part.title for part in found.parts][:3] == ["export.exporter", "export.exporter", "export.opset"]
    assert text_of(found).count("`dynamo` is torch's current exporter") == 1


OF_CPUS = re.compile(r"measured: onnxruntime|OpenVINO|[Xx]86|VNNI|on a CPU: |dot products|\d times\b")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_evidence_for_a_gpu_recipe_is_of_gpus(name: str) -> None:
    parsed, variants = recipe.parse(recipe.find(name))
    if {variant.runtime.device for variant in variants} == {"cuda"}:
        for part in explain(parsed, variants).parts:
            if not part.title.startswith("export."):  # exporting is the same for both
                note = part.note
                text = " ".join(filter(None, (note.helps, note.hurts, note.source)))
                assert not OF_CPUS.search(text), part.title


@pytest.mark.parametrize(
    ("steps", "runtime", "keys"),
    [
        (
            "[]",
            "backend: torch, precision: f16, compile: true",
            [Key("torch"), Key("runtime", "precision", "f16"), Key("runtime", "compile", True)],
        ),
        ("[]", "backend: torch, precision: bf16", [Key("runtime", "precision", "bf16")]),
        ("[{use: static_int8, reduce_range: true}]", "backend: onnxruntime", [Key("static_int8")]),
        ("[{use: dynamic_int8}]", "backend: onnxruntime", [Key("dynamic_int8")]),
        ("[{use: nncf_int8}]", "backend: onnxruntime", [Key("nncf_int8")]),
        ("[{use: fp16}]", "backend: onnxruntime", [Key("fp16")]),
    ],
)
def test_evidence_of_gpus_replaces_that_of_cpus(
    tmp_path: Path, steps: str, runtime: str, keys: list[Key]
) -> None:
    text = f"name: a\nsteps: {steps}\nruntime: {{device: cuda, {runtime}}}\n"
    notes = [part.note for part in explained(tmp_path, text).parts]
    found = [(note.helps, note.hurts, note.source) for note in notes]
    for key in keys:
        on_gpu, on_cpu = EVIDENCE[replace(key, gpu=True)], EVIDENCE[key]
        assert (on_gpu.helps, on_gpu.hurts, on_gpu.source) in found
        assert (on_cpu.helps, on_cpu.hurts, on_cpu.source) not in found


def test_a_recipe_for_both_explains_both(tmp_path: Path) -> None:
    text = "name: a\nsteps: [{use: fp16}]\nmatrix: {runtime.device: [cpu, cuda]}\n"
    notes = [part.note for part in explained(tmp_path, text).parts if part.title == "step fp16"]
    assert [note.helps for note in notes] == [
        EVIDENCE[Key("fp16")].helps,
        EVIDENCE[Key("fp16", gpu=True)].helps,
    ]


def test_many_variants_are_counted_rather_than_listed(tmp_path: Path) -> None:
    found = explained(tmp_path, "name: a\nmatrix: {runtime.threads: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}\n")
    assert "10 variants: " in text_of(found) and "and 2 more" in text_of(found)


def test_the_facts_are_plain_data(tmp_path: Path) -> None:
    facts = asdict(explained(tmp_path, "name: a\nsteps: [{use: fp16}]\n"))
    assert json.loads(json.dumps(facts))["parts"][1]["note"]["source"] == EVIDENCE[Key("fp16")].source


def test_a_recipe_without_a_description_is_its_name(tmp_path: Path) -> None:
    found = replace(explained(tmp_path, "name: a\n"), parts=())
    assert text_of(found) == "a\n1 variant: a\n"
