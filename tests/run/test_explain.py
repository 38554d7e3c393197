"""What `explain` says: every thing a recipe does, with a source, in 100 columns."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from workbench.backends import BACKENDS, SETTINGS
from workbench.model.export.settings import Exporter
from workbench.run.advice.explain import Explanation, explain
from workbench.run.advice.notes import EXPORTERS, NOTES, ON_GPU
from workbench.steps import STEPS
from workbench.workspace import recipe
from workbench.workspace.recipe import RecipePreprocess

SHIPPED = sorted(path.stem for path in recipe.shipped().glob("*.yaml"))


def explained(folder: Path, text: str) -> Explanation:
    path = folder / "r.yaml"
    path.write_text(text)
    return explain(*recipe.parse(path), flags=frozenset({"avx2"}))


def test_every_step_backend_and_exporter_has_a_note() -> None:
    assert set(STEPS) | set(BACKENDS) <= set(NOTES)
    assert set(get_args(Exporter)) == set(EXPORTERS)


def test_every_setting_of_a_runtime_has_a_note() -> None:
    explained = {key.partition("=")[0] for key in NOTES}
    plain = {"backend"}  # its value names the backend, which has a note
    fields = {name for settings in SETTINGS.values() for name in settings.model_fields}
    assert {f"runtime.{name}" for name in fields - plain} <= explained


def test_every_value_that_only_a_gpu_has_is_explained() -> None:
    for key in ("precision=tf32", "cuda_graph=true"):
        assert f"runtime.{key}" in NOTES


def test_every_note_says_what_it_does_and_who_says_so() -> None:
    assert all(note.does and note.source for note in (*NOTES.values(), *ON_GPU.values(), *EXPORTERS.values()))


def test_every_note_is_of_a_step_or_setting_that_exists() -> None:
    owners: dict[str, Any] = {"preprocess": RecipePreprocess, **STEPS}
    of_runtimes = {name for settings in SETTINGS.values() for name in settings.model_fields}
    for key in NOTES | ON_GPU:
        path, _, _ = key.partition("=")
        owner, *fields = path.split(".")
        if not fields:
            assert owner in owners or owner in BACKENDS
            continue
        if owner == "runtime":
            assert set(fields) <= of_runtimes, key
            continue
        model = owners[owner]
        for field in fields:
            assert field in model.model_fields, key
            model = model.model_fields[field].annotation


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_explained_in_100_columns(name: str) -> None:
    text = explain(*recipe.parse(recipe.find(name))).text()
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith(f"{name}: ")
    assert text.count("\n  does ") == text.count("\n  source ") >= 1


def test_steps_settings_and_axes_are_explained_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    text = (
        "name: a\ndescription: all of it\nneeds: [amx]\nexport: {exporter: torchscript}\n"
        "preprocess: {scale: 0.5}\nsteps:\n  - {use: simplify}\n  - {use: static_int8, reduce_range: true}\n"
        "matrix: {runtime.threads: [1, 2]}\n"
    )
    found = explained(tmp_path, text)
    titles = [part.title for part in found.parts]
    assert [title for title in titles if not title.startswith("static_int8.")] == [
        "export with torchscript",
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
    assert "\nskipped here: it needs amx" in found.text()


OF_CPUS = re.compile(r"measured: onnxruntime|OpenVINO|[Xx]86|VNNI|on a CPU: |dot products|\d times\b")


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_said_of_a_gpu_recipe_is_of_gpus(name: str) -> None:
    parsed, variants = recipe.parse(recipe.find(name))
    if {variant.runtime.device for variant in variants} == {"cuda"}:
        for part in explain(parsed, variants).parts:
            if not part.title.startswith("export with"):  # exporting is the same for both
                note = part.note
                said = " ".join(filter(None, (note.does, note.helps, note.hurts, note.source)))
                assert not OF_CPUS.search(said), part.title


@pytest.mark.parametrize(
    ("steps", "runtime", "titles"),
    [
        (
            "[]",
            "backend: torch, precision: f16, compile: true",
            "runtime torch|runtime.precision|runtime.compile",
        ),
        ("[]", "backend: torch, precision: bf16", "runtime.precision"),
        ("[{use: static_int8, reduce_range: true}]", "backend: onnxruntime", "step static_int8"),
        ("[{use: dynamic_int8}]", "backend: onnxruntime", "step dynamic_int8"),
        ("[{use: nncf_int8}]", "backend: onnxruntime", "step nncf_int8"),
        ("[{use: fp16}]", "backend: onnxruntime", "step fp16"),
    ],
)
def test_what_is_measured_on_cpus_is_not_said_of_a_gpu(
    tmp_path: Path, steps: str, runtime: str, titles: str
) -> None:
    text = f"name: a\nsteps: {steps}\nruntime: {{device: cuda, {runtime}}}\n"
    found = {part.title: part.note for part in explained(tmp_path, text).parts}
    for title in titles.split("|"):
        assert found[title] in ON_GPU.values()
        assert found[title] not in NOTES.values()


def test_a_recipe_for_both_explains_both(tmp_path: Path) -> None:
    text = "name: a\nsteps: [{use: fp16}]\nmatrix: {runtime.device: [cpu, cuda]}\n"
    notes = [part.note for part in explained(tmp_path, text).parts if part.title == "step fp16"]
    assert notes == [NOTES["fp16"], ON_GPU["fp16"]]


def test_many_variants_are_counted_rather_than_listed(tmp_path: Path) -> None:
    found = explained(tmp_path, "name: a\nmatrix: {runtime.threads: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}\n")
    assert "10 variants: " in found.text() and "and 2 more" in found.text()


def test_the_facts_are_plain_data(tmp_path: Path) -> None:
    import json

    facts = explained(tmp_path, "name: a\nsteps: [{use: fp16}]\n").facts()
    assert json.loads(json.dumps(facts))["parts"][1]["note"]["source"] == NOTES["fp16"].source


def test_a_recipe_without_a_description_is_its_name(tmp_path: Path) -> None:
    found = replace(explained(tmp_path, "name: a\n"), parts=())
    assert found.text() == "a\n1 variant: a\n"
