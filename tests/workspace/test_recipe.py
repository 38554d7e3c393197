"""Recipes: their variants and the names of these, and the errors."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import error_of
from workbench.backends import SETTINGS, OrtRuntime, TorchRuntime
from workbench.errors import WorkbenchError
from workbench.model.export.settings import Export
from workbench.photos.contract import Preprocess
from workbench.run.prepare import overridden
from workbench.steps import STEPS
from workbench.steps.batch import DynamicBatch, FixedBatch
from workbench.steps.fold import FoldPreprocess
from workbench.steps.fp16.settings import Fp16
from workbench.steps.int8.settings import Calibration, DynamicInt8, StaticInt8
from workbench.steps.nncf.settings import NncfInt8
from workbench.steps.optimize import Optimize
from workbench.steps.rules import check_sequence
from workbench.steps.simplify import Simplify
from workbench.workspace import recipe
from workbench.workspace.recipe import Recipe, RecipePreprocess, Variant, scaled_side

ROOT = Path(__file__).parents[2]


def variants(folder: Path, text: str) -> list[Variant]:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return recipe.load([path])


def names(folder: Path, text: str) -> list[str]:
    return [variant.name for variant in variants(folder, text)]


def refused(folder: Path, text: str) -> tuple[str, str | None]:
    error = error_of(lambda: variants(folder, text))
    return error.message.replace(f"{folder}/", ""), error.hint


def test_a_recipe_without_a_matrix_is_one_variant_of_its_own_name(tmp_path: Path) -> None:
    (only,) = variants(tmp_path, "name: plain\ndescription: as it is\n")
    assert only == Variant("plain", "plain", "as it is", Export(), (), OrtRuntime())


def test_a_matrix_makes_every_combination_in_order(tmp_path: Path) -> None:
    text = "name: a\nmatrix:\n  export.opset: [18, 19]\n  runtime.threads: [1, 2]\n"
    assert [(v.export.opset, v.runtime.threads) for v in variants(tmp_path, text)] == [
        (18, 1), (18, 2), (19, 1), (19, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: int8-static\nsteps: [{use: static_int8}]\n"
            "matrix: {steps.static_int8.calibration.method: [minmax, entropy]}\n",
            ["int8-static[method=minmax]", "int8-static[method=entropy]"],
        ),
        (
            "name: fp32\nmatrix:\n  export:\n"
            "    - {exporter: torchscript, opset: 13}\n    - {exporter: dynamo, opset: 18}\n",
            ["fp32[torchscript,opset=13]", "fp32[dynamo,opset=18]"],
        ),
        (
            "name: a\nsteps: [{use: dynamic_int8}]\n"
            "matrix: {steps.dynamic_int8.op_types: [[Conv, MatMul], [Gemm]]}\n",
            ["a[op_types=Conv+MatMul]", "a[op_types=Gemm]"],
        ),
        (
            "name: a\nsteps: [{use: fp16}]\nmatrix: {steps.fp16.exclude_nodes: [[], [head]]}\n",
            ["a[exclude_nodes=none]", "a[exclude_nodes=head]"],
        ),
        (
            "name: a\nmatrix: {export.dynamic_batch: [true, false]}\n",
            ["a[dynamic_batch=true]", "a[dynamic_batch=false]"],
        ),
        (
            "name: a\nsteps: [{use: simplify}, {use: dynamic_int8}]\nmatrix:\n"
            "  steps.dynamic_int8.weight: [qint8]\n  runtime.threads: [2]\n",
            ["a[weight=qint8,threads=2]"],
        ),
        (
            "name: a\nsteps: [{use: simplify}, {use: simplify}]\n"
            "matrix: {steps.0.tool: [onnxsim], steps.1.tool: [onnxslim, onnxsim]}\n",
            ["a[steps.0.tool=onnxsim,steps.1.tool=onnxslim]", "a[steps.0.tool=onnxsim,steps.1.tool=onnxsim]"],
        ),
        (
            "name: a\nmatrix:\n  steps: [[{use: simplify}, {use: static_int8, weight: int8}], []]\n",
            ["a[steps=simplify+static_int8:int8]", "a[steps=none]"],
        ),
        ("name: a\nmatrix: {}\n", ["a"]),
    ],
)
def test_variants_are_named_so_that_a_table_can_be_read(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    assert names(tmp_path, text) == expected


@pytest.mark.parametrize(("first", "name"), [("fp16", "simplify"), ("simplify", "1")])
def test_a_step_is_named_by_its_use_or_its_position(tmp_path: Path, first: str, name: str) -> None:
    text = (
        f"name: a\nsteps: [{{use: {first}}}, {{use: simplify}}]\nmatrix: {{steps.{name}.tool: [onnxsim]}}\n"
    )
    (only,) = variants(tmp_path, text)
    assert only.steps[1] == Simplify(use="simplify", tool="onnxsim") != only.steps[0]


def test_a_mapping_value_is_merged_into_the_section_it_names(tmp_path: Path) -> None:
    text = (
        "name: a\nexport: {dynamic_batch: false, opset: 20}\n"
        "matrix:\n  export: [{opset: 18}, {exporter: torchscript}]\n"
    )
    assert [v.export for v in variants(tmp_path, text)] == [
        Export(dynamic_batch=False, opset=18),
        Export(dynamic_batch=False, opset=20, exporter="torchscript"),
    ]


def test_one_variant_does_not_leak_into_the_next(tmp_path: Path) -> None:
    text = "name: a\nmatrix:\n  runtime:\n    - {device: cuda, cuda_graph: true}\n    - {device: cpu}\n"
    assert variants(tmp_path, text)[1].runtime == OrtRuntime(device="cpu")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "name: a\nsteps:\n  - use: static_int\n",
            "r.yaml is not a valid recipe\n"
            "  r.yaml:3: steps[0].use: `static_int` is not one of simplify, dynamic_int8, static_int8, "
            "nncf_int8, litert, executorch, fp16, fold_preprocess, optimize, fixed_batch, dynamic_batch",
            "did you mean `static_int8`?",
        ),
        (
            "name: a\nsteps:\n  - use: static_int8\n    calibration:\n      methd: entropy\n",
            "r.yaml is not a valid recipe\n  r.yaml:5: steps[0].calibration.methd: unknown key",
            "did you mean `method`?",
        ),
        (
            "name: a\nsteps:\n  - use: simplify\n  - use: optimize\n  - use: static_int8\n",
            "r.yaml is not a valid recipe\n"
            "  r.yaml:5: steps[2]: step `static_int8` comes after `optimize`, which nothing may follow",
            "move `static_int8` before `optimize`",
        ),
        (
            "name: a\nmatrix:\n  runtime.thread: [1, 2]\n",
            "r.yaml is not a valid recipe\n  r.yaml:3: runtime.thread: unknown key",
            "did you mean `threads`?",
        ),
        (
            "name: a\nmatrix:\n  runtme.threads: [1, 2]\n",
            "r.yaml is not a valid recipe\n  r.yaml:3: runtme: unknown key",
            "did you mean `runtime`?",
        ),
        (
            "name: a\nsteps: [{use: simplify}]\nmatrix:\n  steps.simplfy.tool: [onnxsim]\n",
            "r.yaml:4: matrix: `steps.simplfy.tool`: the recipe has no step `simplfy`",
            "did you mean `simplify`?",
        ),
        (
            "name: a\nsteps: [{use: simplify}]\nmatrix:\n  steps.9.tool: [onnxsim]\n",
            "r.yaml:4: matrix: `steps.9.tool`: the recipe has no step `9`",
            None,
        ),
        (
            "name: a\nsteps: [{use: simplify}, {use: simplify}]\nmatrix:\n  steps.simplify.tool: [onnxsim]\n",
            "r.yaml:4: matrix: `steps.simplify.tool`: there are 2 steps `simplify`",
            "name the one you mean by its position, counted from 0",
        ),
        (
            "name: a\nruntime: {threads: 1}\nmatrix:\n  runtime.threads.max: [1]\n",
            "r.yaml:4: matrix: `runtime.threads.max` leads through a plain value",
            None,
        ),
        (
            "name: a\nsteps: [{use: simplify}]\nmatrix:\n  steps.simplify: [null]\n",
            "r.yaml:4: matrix: `steps.simplify`: None is no mapping to merge into the step",
            "to vary which steps there are, give lists of steps under `steps`",
        ),
        (
            "name: a\nmatrix:\n  steps: [[simplify]]\n  steps.simplify.tool: [onnxsim]\n",
            "r.yaml:4: matrix: `steps.simplify.tool`: a step is a mapping such as {use: simplify} "
            "(got ['simplify'])",
            None,
        ),
        (
            "name: a\nmatrix:\n  runtime.threads: [1, two]\n",
            "r.yaml is not a valid recipe\n  r.yaml:3: runtime.threads: input should be a valid integer, "
            "unable to parse string as an integer (got 'two')",
            None,
        ),
        (
            "name: a\nmatrix:\n  runtime.threads: 3\n",
            "r.yaml is not a valid recipe\n"
            "  r.yaml:3: matrix.runtime.threads: this must be a list, `[...]` (got 3)",
            None,
        ),
        (
            "name: a\nmatrix:\n  runtime.threads: [2, 2]\n",
            "r.yaml:2: matrix: two variants would be named `a[threads=2]`",
            "remove the value that is there twice",
        ),
        (
            "name: baseline\n",
            "r.yaml:1: name: `baseline` is what every run measures against",
            "choose another name",
        ),
        (
            "name: a\nmatrix:\n  name: [b, baseline]\n",
            "r.yaml:3: matrix: `name` is the same for all variants",
            "`export`, `steps`, `runtime` and `preprocess` can vary",
        ),
        (
            "name: a\nmatrix:\n  matrix.x: [[1]]\n",
            "r.yaml:3: matrix: `matrix.x` is the same for all variants",
            "`export`, `steps`, `runtime` and `preprocess` can vary",
        ),
    ],
)
def test_an_error_names_the_line_and_the_remedy(
    tmp_path: Path, text: str, message: str, hint: str | None
) -> None:
    assert refused(tmp_path, text) == (message, hint)


def test_names_that_would_share_their_log_files_are_refused(tmp_path: Path) -> None:
    text = "name: a\nsteps: [{use: fp16}]\nmatrix: {steps.fp16.exclude_nodes: [[x/y], [x y]]}\n"
    assert "two variants would be named" in refused(tmp_path, text)[0]


@pytest.mark.parametrize("use", ["litert", "executorch"])
def test_a_setting_that_no_variant_heeds_is_refused_and_one_that_a_matrix_crosses_is_not(
    tmp_path: Path, use: str
) -> None:
    step = f"name: r\nsteps:\n  - use: {use}\n    exclude_roles: [first]\nruntime: {{backend: {use}}}\n"
    message, hint = refused(tmp_path, step)
    assert message.endswith("r.yaml:4: steps[0].exclude_roles: with `quantize: none` it does nothing")
    assert hint == "leave it out, or change `quantize: none`"
    axis = f"matrix: {{steps.{use}.exclude_roles: [[first], [last]]}}\n"
    assert "with `quantize: none` it does nothing" in refused(tmp_path, step + axis)[0]
    for crossed in (f"steps.{use}.quantize: [none, static]", f"steps.{use}: [{{quantize: static}}, {{}}]"):
        found = variants(tmp_path, f"{step}matrix: {{{crossed}}}\n")
        assert len(found) == 2
        for variant in found:  # as a run records it
            (tmp_path / "recorded.yaml").write_text(recipe.to_yaml(variant, "recorded"))
            assert [each.digest for each in recipe.read(tmp_path / "recorded.yaml")] == [variant.digest]


@pytest.mark.parametrize(
    ("use", "setting"),
    [
        ("executorch", "images: 50"),
        ("executorch", "per_channel: false"),
        ("litert", "images: 50"),
        ("litert", "float_ends: false"),
    ],
)
def test_what_only_quantising_heeds_is_refused_without_it(tmp_path: Path, use: str, setting: str) -> None:
    step = f"name: r\nsteps:\n  - use: {use}\n    {setting}\nruntime: {{backend: {use}}}\n"
    name = setting.partition(":")[0]
    message = refused(tmp_path, step)[0]
    assert message.endswith(f"r.yaml:4: steps[0].{name}: with `quantize: none` it does nothing")
    assert len(variants(tmp_path, f"{step}matrix: {{steps.{use}.quantize: [none, static]}}\n")) == 2


def test_calibration_photos_are_refused_where_litert_calibrates_on_none(tmp_path: Path) -> None:
    step = "name: r\nsteps: [{use: litert, quantize: dynamic, images: 50}]\nruntime: {backend: litert}\n"
    assert "steps[0].images: with `quantize: dynamic` it does nothing" in refused(tmp_path, step)[0]


def test_a_default_that_is_spelt_out_is_nothing_to_refuse(tmp_path: Path) -> None:
    step = "name: r\nsteps: [{use: litert, images: 200}]\nruntime: {backend: litert}\n"
    assert len(variants(tmp_path, step)) == 1


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    for file in ("one.yaml", "two.yaml"):
        (tmp_path / file).write_text("name: same\n")
    error = error_of(lambda: recipe.load([tmp_path]))
    assert error.message == f"{tmp_path}/two.yaml and {tmp_path}/one.yaml are both named `same`"
    assert error.hint == "give one of them another `name`"


def test_a_folder_gives_its_yaml_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for file in ("b.yaml", "a.yml", "c.yaml"):
        (tmp_path / file).write_text(f"name: of-{file[0]}\n")
    (tmp_path / "notes.txt").write_text("not a recipe")
    assert [v.name for v in recipe.load([tmp_path])] == ["of-a", "of-b", "of-c"]


def test_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n")
    assert len(recipe.load([path, tmp_path])) == 1


def test_a_folder_without_recipes_is_refused(tmp_path: Path) -> None:
    error = error_of(lambda: recipe.load([tmp_path]))
    assert (error.message, error.hint) == (f"{tmp_path} holds no recipe", "recipes are .yaml files")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match=r"gone\.yaml does not exist"):
        recipe.load([tmp_path / "gone.yaml"])


def test_the_digest_is_of_what_is_built_and_not_of_its_name(tmp_path: Path) -> None:
    (one,) = variants(tmp_path, "name: one\ndescription: first\nruntime: {threads: 2}\n")
    (two,) = variants(tmp_path, "name: two\nruntime: {threads: 2}\n")
    (three,) = variants(tmp_path, "name: one\ndescription: first\nruntime: {threads: 3}\n")
    assert one.digest == two.digest != three.digest


def test_the_order_of_the_steps_is_part_of_the_digest(tmp_path: Path) -> None:
    orders = ("[{use: simplify}, {use: fp16}]", "[{use: fp16}, {use: simplify}]")
    one, two = (variants(tmp_path, f"name: a\nsteps: {steps}\n")[0] for steps in orders)
    assert one.digest != two.digest


OP_TYPES = st.lists(st.sampled_from(["Conv", "MatMul", "Gemm", "Add"]), min_size=1, max_size=3, unique=True)
DRAWN = st.one_of(
    st.builds(Simplify, use=st.just("simplify"), tool=st.sampled_from(["onnxslim", "onnxsim"])),
    st.builds(
        DynamicInt8,
        use=st.just("dynamic_int8"),
        weight=st.sampled_from(["qint8", "quint8"]),
        per_channel=st.booleans(),
        op_types=OP_TYPES.map(tuple),
    ),
    st.builds(
        StaticInt8,
        use=st.just("static_int8"),
        per_channel=st.booleans(),
        calibration=st.builds(
            Calibration,
            method=st.sampled_from(["minmax", "entropy", "percentile"]),
            images=st.integers(1, 500),
        ),
        exclude_nodes=st.lists(st.text("abc/_*.", min_size=1), max_size=2).map(tuple),
        exclude_roles=st.lists(st.sampled_from(["first", "last", "squeeze_excite"]), unique=True).map(tuple),
        reduce_range=st.booleans(),
    ),
    st.builds(NncfInt8, use=st.just("nncf_int8"), preset=st.sampled_from(["mixed", "performance"])),
    st.builds(Fp16, use=st.just("fp16"), exclude_op_types=OP_TYPES.map(tuple)),
    st.builds(FoldPreprocess, use=st.just("fold_preprocess")),
    st.builds(Optimize, use=st.just("optimize"), level=st.sampled_from(["basic", "extended", "all"])),
    st.builds(FixedBatch, use=st.just("fixed_batch"), size=st.integers(1, 8)),
    st.builds(DynamicBatch, use=st.just("dynamic_batch")),
)
USES = sorted(STEPS)


def refusal(uses: Sequence[str]) -> WorkbenchError | None:
    """The error of `check_sequence`."""
    try:
        check_sequence([STEPS[use].model_validate({"use": use}) for use in uses])
    except WorkbenchError as error:
        return error
    return None


RECIPES = st.builds(
    Recipe,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(lambda n: n != "baseline"),
    description=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=40),
    export=st.builds(
        Export,
        exporter=st.sampled_from(["dynamo", "torchscript"]),
        opset=st.integers(7, 25),
        dynamic_batch=st.booleans(),
    ),
    steps=st.lists(DRAWN, max_size=3)
    .map(tuple)
    .filter(lambda steps: refusal([step.use for step in steps]) is None),
    needs=st.lists(
        st.sampled_from(["openvino>=2025.0", "nncf", "avx512_bf16 | amx", "onnxruntime >= 1.20, < 99"]),
        max_size=2,
        unique=True,
    ).map(tuple),
    preprocess=st.one_of(
        st.builds(RecipePreprocess, scale=st.floats(0.1, 2)),
        st.builds(RecipePreprocess, crop=st.none() | st.integers(32, 512)),
    ),
    runtime=st.builds(OrtRuntime, threads=st.integers(1, 8)),
    matrix=st.fixed_dictionaries(
        {},
        optional={
            "export.dynamic_batch": st.permutations([True, False]),
            "runtime.threads": st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
        },
    ),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(RECIPES)
def test_a_recipe_written_out_and_read_back_gives_the_same_variants(tmp_path: Path, made: Recipe) -> None:
    content: dict[str, Any] = made.model_dump(mode="json")
    first = variants(tmp_path, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
    again = variants(tmp_path, yaml.safe_dump(content, default_flow_style=True, sort_keys=True))
    assert {v.name.count("[") for v in first} <= {0, 1}
    assert {v.digest for v in first} == {v.digest for v in again}
    assert all(v.steps == made.steps and v.description == made.description for v in first)
    assert all(v.needs == made.needs and v.preprocess == made.preprocess for v in first)
    expected = prod(len(values) for values in made.matrix.values())
    assert len({v.digest for v in first}) == len({v.name for v in first}) == expected


def test_the_shipped_recipes_load_with_names_of_their_own_and_descriptions() -> None:
    loaded = recipe.load([ROOT / "recipes"])
    assert len({variant.name for variant in loaded}) == len(loaded) >= 10
    assert all(variant.description for variant in loaded)


def test_the_shipped_recipes_are_found_from_anywhere() -> None:
    names, expected = (
        {path.name for path in at.glob("*.yaml")} for at in (recipe.shipped(), ROOT / "recipes")
    )
    assert names == expected


@pytest.mark.parametrize("names", [("baseline_", "other"), ("f", "f_")])
def test_variants_that_would_share_a_file_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n")
    with pytest.raises(WorkbenchError, match="would be filed under the same name"):
        recipe.load([tmp_path])


@settings(max_examples=200)
@given(st.lists(st.sampled_from(USES), max_size=5))
def test_any_order_of_steps_is_taken_or_refused_with_a_reason_and_a_remedy(uses: list[str]) -> None:
    error = refusal(uses)
    assert error is None or (error.message and error.hint and any(use in error.message for use in uses))
    # What is fine as a whole is fine up to any point.
    assert error is not None or all(refusal(uses[:length]) is None for length in range(len(uses)))


BASE = """
name: base
description: what is shared
steps:
  - {use: static_int8, calibration: {images: 32}}
runtime: {threads: 1, spinning: true}
matrix:
  steps.static_int8.calibration.method: [minmax, entropy]
  runtime.batch: [1, 8]
"""


def extended(folder: Path, text: str, base: str = BASE) -> list[Variant]:
    (folder / "base.yaml").write_text(base)
    return variants(folder, text)


def test_a_recipe_inherits_what_it_does_not_say(tmp_path: Path) -> None:
    text = "name: child\nextends: base.yaml\nruntime: {threads: 2}\nmatrix: {runtime.batch: [4]}\n"
    first, second = extended(tmp_path, text)
    assert first.name == "child[method=minmax,batch=4]" and second.name == "child[method=entropy,batch=4]"
    assert first.description == "what is shared"
    assert first.runtime == OrtRuntime(threads=2, spinning=True, batch=4)
    assert isinstance(first.steps[0], StaticInt8) and first.steps[0].calibration.images == 32


def test_a_list_is_replaced_and_a_null_drops_what_is_inherited(tmp_path: Path) -> None:
    text = (
        "name: child\nextends: base.yaml\nsteps: [{use: fp16}]\nruntime: {spinning: null}\n"
        "matrix: {steps.static_int8.calibration.method: null}\n"
    )
    found = extended(tmp_path, text)
    assert [variant.name for variant in found] == ["child[batch=1]", "child[batch=8]"]
    assert all([step.use for step in variant.steps] == ["fp16"] for variant in found)
    assert found[0].runtime == OrtRuntime(threads=1)


def test_a_child_equals_the_same_recipe_written_out(tmp_path: Path) -> None:
    child = extended(tmp_path, "name: child\nextends: base.yaml\nruntime: {batch: 2}\n")
    whole = variants(tmp_path, BASE.replace("threads: 1,", "threads: 1, batch: 2,"))
    assert [variant.digest for variant in child] == [variant.digest for variant in whole]


def test_a_chain_of_parents_is_followed_from_folder_to_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yaml").write_text("name: one\nextends: two.yaml\nexport: {opset: 19}\n")
    (tmp_path / "deep" / "two.yaml").write_text("runtime: {threads: 3}\nexport: {opset: 20}\n")
    (only,) = variants(tmp_path, "name: child\nextends: deep/one.yaml\n")
    assert (only.name, only.export.opset, only.runtime.threads) == ("child", 19, 3)


def test_an_error_in_a_parent_names_the_parent(tmp_path: Path) -> None:
    base = "name: base\n\nruntime: {thread: 1}\n"
    text = "name: child\nextends: base.yaml\nruntime: {batch: 0}\n"
    message = error_of(lambda: extended(tmp_path, text, base)).message.replace(f"{tmp_path}/", "")
    assert "base.yaml:3: runtime.thread: unknown key" in message
    assert "r.yaml:3: runtime.batch: input should be greater than 0" in message


def test_a_child_needs_a_name_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match=r"r\.yaml:1: name: this key is required"):
        extended(tmp_path, "extends: base.yaml\n")


@pytest.mark.parametrize("given", ["int8-static", "int8-static.yaml"])
def test_the_name_of_a_shipped_recipe_is_answered_with_its_path(tmp_path: Path, given: str) -> None:
    hint = refused(tmp_path, f"name: mine\nextends: {given}\n")[1]
    assert hint is not None
    path = hint.rpartition(" ")[2]
    (only, *_) = variants(tmp_path, f"name: mine\nextends: {path}\n")
    assert only.recipe == "mine"


def test_recipes_that_extend_each_other_are_refused_with_the_circle(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: a\nextends: r.yaml\n")[0]
    assert message == "r.yaml:2: extends: a recipe cannot extend itself (r.yaml -> r.yaml)"
    (tmp_path / "b.yaml").write_text("name: b\nextends: r.yaml\n")
    message = refused(tmp_path, "name: a\nextends: b.yaml\n")[0]
    assert message == "b.yaml:2: extends: a recipe cannot extend itself (r.yaml -> b.yaml -> r.yaml)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gone.yaml", "r.yaml:2: extends: gone.yaml does not exist"),
        ("[a.yaml, b.yaml]", "r.yaml:2: extends: this must be one file (got ['a.yaml', 'b.yaml'])"),
    ],
)
def test_a_parent_that_cannot_be_found_is_named(tmp_path: Path, given: str, message: str) -> None:
    assert refused(tmp_path, f"name: a\nextends: {given}\n")[0] == message


def test_a_file_that_is_only_there_to_be_extended_is_no_recipe_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "_shared.yaml").write_text("runtime: {threads: 2}\n")
    (tmp_path / "a.yaml").write_text("name: a\nextends: _shared.yaml\n")
    assert [variant.runtime.threads for variant in recipe.load([tmp_path])] == [2]


def test_needs_change_neither_what_is_built_nor_its_digest(tmp_path: Path) -> None:
    (one,) = variants(tmp_path, "name: a\nneeds: [avx512_bf16 | amx, openvino>=2025.0]\n")
    (two,) = variants(tmp_path, "name: a\n")
    assert one.needs == ("avx512_bf16 | amx", "openvino>=2025.0") and one.digest == two.digest


@pytest.mark.parametrize(
    ("need", "message", "hint"),
    [
        ("opnvino", "`opnvino` is neither a library nor a processor feature that is known here", "openvino"),
        ("avx2 | avx512_vni", "`avx512_vni` is neither", "avx512_vnni"),
        ("nncf=>2", "`=>2` is no version that nncf can be held against", "write `nncf>=1.2`"),
    ],
)
def test_the_error_about_an_unknown_need_suggests_a_correction(
    tmp_path: Path, need: str, message: str, hint: str
) -> None:
    found, remedy = refused(tmp_path, f"name: a\nneeds:\n  - avx2\n  - {need}\n")
    assert f"r.yaml:4: needs[1]: {message}" in found
    assert remedy is not None and hint in remedy


def test_a_scale_excludes_pixels(tmp_path: Path) -> None:
    message, hint = refused(tmp_path, "name: a\npreprocess:\n  scale: 0.5\n  crop: 96\n")
    assert "r.yaml:2: preprocess: `scale` is a fraction of the workspace's size" in message
    assert hint == "give `scale` alone, or the pixels"


def test_the_ways_to_decode_can_be_compared(tmp_path: Path) -> None:
    found = variants(tmp_path, "name: a\nmatrix: {preprocess.decode: [scaled, full]}\n")
    assert [variant.name for variant in found] == ["a[decode=scaled]", "a[decode=full]"]
    own = Preprocess(resize=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    contracts = [overridden(own, variant.preprocess) for variant in found]
    assert contracts == [own, own.model_copy(update={"decode": "full"})]
    assert len({variant.digest for variant in found}) == 2


@pytest.mark.parametrize(
    ("side", "scale", "expected"),
    [(224, 0.86, 192), (224, 0.71, 160), (224, 0.57, 128), (128, 0.57, 72), (8, 0.1, 8)],
)
def test_a_scaled_side_is_one_that_networks_divide_well(side: int, scale: float, expected: int) -> None:
    assert scaled_side(side, scale) == expected


def test_a_shipped_recipe_is_found_by_its_name_and_a_misspelt_one_is_answered() -> None:
    assert recipe.find("int8-static") == recipe.shipped() / "int8-static.yaml"
    assert error_of(lambda: recipe.find("int8-statc")).hint == "did you mean `int8-static`?"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_shipped_recipes_stay_few_enough_for_one_run(device: str) -> None:
    assert sum(variant.runtime.device == device for variant in recipe.chosen(None)) <= 32


def test_the_recipes_for_gpus_ask_the_runtime_alone_what_is_missing() -> None:
    # `needs` is asked before the runtime: it would have people install packages for a GPU that is not there.
    loaded = recipe.load([recipe.shipped()])
    assert not any(variant.needs for variant in loaded if variant.runtime.device == "cuda")


def test_every_gpu_runtime_is_tried_by_a_shipped_recipe() -> None:
    loaded = [v.runtime for v in recipe.load([recipe.shipped()]) if v.runtime.device == "cuda"]
    on_gpu = {name for name, settings in SETTINGS.items() if "cuda" in settings.DEVICES}
    assert {runtime.backend for runtime in loaded} == on_gpu
    reference = [r for r in loaded if r == TorchRuntime(device="cuda", precision="f32")]
    assert len(reference) == 1
