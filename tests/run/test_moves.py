"""Where a search may go: every move is a variant that can be built, its own, and worth its look."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.backends import OrtRuntime
from workbench.model.export.settings import Export
from workbench.run.tune.moves import (
    Move,
    at_size,
    coarse,
    mixed,
    refinements,
    sizes,
    static_step,
    with_step,
)
from workbench.steps.fp16.settings import Fp16
from workbench.steps.int8.layer_sensitivity import LayerSensitivity
from workbench.steps.int8.settings import StaticInt8
from workbench.steps.simplify import Simplify
from workbench.workspace.recipe import RecipePreprocess, Variant

SIMPLIFY, FP16 = Simplify(use="simplify"), Fp16(use="fp16")

ROLES = ("first", "last", "depthwise", "squeeze_excite", "hardswish")
steps = st.fixed_dictionaries(
    {},
    optional={
        "activation": st.just("uint8"),
        "weight": st.sampled_from(["int8", "uint8"]),
        "per_channel": st.booleans(),
        "calibration": st.fixed_dictionaries(
            {"method": st.sampled_from(["minmax", "entropy", "percentile"])},
            optional={"images": st.integers(1, 50)},
        ),
        "op_types": st.lists(st.sampled_from(["Conv", "Gemm", "MatMul", "Add"]), min_size=1, unique=True),
        "exclude_nodes": st.lists(st.sampled_from("abxyz"), unique=True),
        "exclude_roles": st.lists(st.sampled_from(ROLES), unique=True),
        "bias_correction": st.booleans(),
        "equalize": st.booleans(),
    },
)
times = st.none() | st.floats(0, 1e6)
layer_lists = st.lists(st.tuples(st.floats(0, 10), times, times), max_size=24).map(
    lambda rows: [LayerSensitivity(f"layer{i}", *row) for i, row in enumerate(rows)]
)


def int8(**fields: Any) -> Variant:
    step = StaticInt8.model_validate({"use": "static_int8", **fields})
    return Variant("int8", "int8", "", Export(), (SIMPLIFY, step), OrtRuntime())


def floats(*steps: Any) -> Variant:
    return Variant("plain", "plain", "", Export(), steps, OrtRuntime())


def excluded(move: Move) -> tuple[str, ...]:
    step = static_step(move.variant)
    assert step is not None
    return step.exclude_nodes


def costing(name: str, error: float, gain_ns: float | None) -> LayerSensitivity:
    return LayerSensitivity(name, error, None if gain_ns is None else 1000.0 + gain_ns, 1000.0)


# Input sizes


@given(st.integers(1, 4096))
def test_sizes_shrink_and_stay_multiples_of_what_networks_halve(crop: int) -> None:
    found = sizes((crop, crop))
    assert all(height == width < crop for height, width in found)
    assert found == sorted(set(found), reverse=True)
    assert all(size % (16 if crop >= 128 else 8) == 0 for size, _ in found)
    assert all(0.4 * crop <= size for size, _ in found)


def test_the_sizes_of_a_usual_network_reach_down_to_two_fifths_of_it() -> None:
    assert [height for height, _ in sizes((224, 224))] == [208, 192, 176, 160, 144, 128, 112, 96]
    assert sizes((32, 32)) == [(24, 24), (16, 16)]
    assert sizes((8, 8)) == []


def test_the_sizes_of_an_input_that_is_not_square_keep_its_shape() -> None:
    assert sizes((96, 128)) == [(88, 120), (80, 104), (72, 96), (64, 88), (56, 72), (48, 64), (40, 56)]
    assert at_size(int8(), (64, 88)).preprocess == RecipePreprocess(crop=(64, 88))
    assert at_size(int8(), (64, 88)).name == "int8@64x88px"


@given(st.integers(1, 4096))
def test_a_coarse_scan_takes_every_second_size_and_misses_none_by_more_than_one(crop: int) -> None:
    every = sizes((crop, crop))
    scanned = coarse(every)
    assert set(scanned) <= set(every)
    assert bool(scanned) == bool(every)
    assert all({every[i], every[i + 1]} & set(scanned) for i in range(len(every) - 1))


@given(st.integers(9, 4096), st.sampled_from(["bicubic", None]))
def test_a_variant_at_another_size_differs_in_nothing_but_its_size(crop: int, filtering: str | None) -> None:
    before = replace(int8(), preprocess=RecipePreprocess(interpolation=filtering))
    after = at_size(before, (crop, crop))
    assert after.preprocess == RecipePreprocess(crop=crop, interpolation=filtering)
    assert (after.steps, after.runtime, after.export) == (before.steps, before.runtime, before.export)
    assert after.digest != before.digest
    assert after.name == f"int8@{crop}px"


def test_a_size_replaces_whatever_size_was_asked_for_before() -> None:
    scaled = replace(int8(), preprocess=RecipePreprocess(scale=0.5))
    resized = replace(int8(), preprocess=RecipePreprocess(resize=256, crop=224))
    smaller = [at_size(variant, (96, 96)).preprocess for variant in (scaled, resized)]
    assert smaller == [RecipePreprocess(crop=96)] * 2


# Photos to calibrate on


# Refinements of a static INT8 step


def test_only_a_variant_with_static_int8_has_a_step_to_refine() -> None:
    for variant in (floats(), floats(SIMPLIFY, FP16)):
        assert static_step(variant) is None
        assert list(refinements(variant)) == []
        assert list(mixed(variant, [costing("a", 1.0, 5.0), costing("b", 1.0, 5.0)])) == []


@given(steps)
def test_changing_the_step_changes_that_field_alone(fields: dict[str, Any]) -> None:
    before = int8(**fields)
    after = with_step(before, "reduced", reduce_range=True)
    old, new = static_step(before), static_step(after)
    assert old is not None and new is not None
    assert new == old.model_copy(update={"reduce_range": True})
    assert after.steps[0] is before.steps[0]
    assert (after.name, after.recipe) == ("int8+reduced", "int8")


def test_a_step_is_never_changed_into_one_that_a_recipe_could_not_ask_for() -> None:
    with pytest.raises(ValueError, match="activation int8 needs weight int8"):
        with_step(int8(weight="uint8"), "wrong", activation="int8")


@given(steps)
def test_every_refinement_is_a_variant_of_its_own(fields: dict[str, Any]) -> None:
    before = int8(**fields)
    moves = list(refinements(before))
    digests = [move.variant.digest for move in moves]
    assert before.digest not in digests
    assert len(set(digests)) == len(digests)
    assert len({move.variant.name for move in moves}) == len(moves)
    assert all(move.why and move.variant.recipe == "int8" for move in moves)


@given(steps)
def test_a_refinement_takes_back_nothing_that_was_left_in_float(fields: dict[str, Any]) -> None:
    before = static_step(int8(**fields))
    assert before is not None
    for move in refinements(int8(**fields)):
        after = static_step(move.variant)
        assert after is not None
        assert set(before.exclude_roles) <= set(after.exclude_roles)
        assert after.exclude_nodes == before.exclude_nodes


def test_the_known_repairs_are_all_there() -> None:
    names = [move.variant.name.removeprefix("int8+") for move in refinements(int8())]
    assert names == [
        "conv-only", "float-se", "float-se-hs", "float-dw", "float-ends", "bias", "equalized",
        "percentile", "entropy", "per-tensor",
    ]  # fmt: skip


# Mixed precision


@given(steps, layer_lists)
def test_every_mix_excludes_layers_that_exist_and_leaves_some_in_int8(
    fields: dict[str, Any], layers: list[LayerSensitivity]
) -> None:
    before = int8(**fields)
    already = set(fields.get("exclude_nodes", ()))
    moves = list(mixed(before, layers))
    names = {layer.name for layer in layers}
    for move in moves:
        left_out = set(excluded(move)) - already
        assert left_out and left_out < names
        assert already <= set(excluded(move))
        assert len(set(excluded(move))) == len(excluded(move))
    sets = [frozenset(excluded(move)) for move in moves]
    assert len(set(sets)) == len(sets), "two moves would build the same file"
    assert before.digest not in {move.variant.digest for move in moves}
    assert len({move.variant.name for move in moves}) == len(moves)
    assert len(moves) <= 2 * len(layers).bit_length() + 1


def test_layers_that_buy_no_time_are_the_first_to_go_back_to_float() -> None:
    layers = [costing("busy", 0.5, 100.0), costing("idle", 0.1, -20.0), costing("useful", 0.0, 900.0)]
    first = next(mixed(int8(), layers))
    assert first.variant.name == "int8+gainful"
    assert excluded(first) == ("idle",)
    assert first.why == "INT8 only where it buys time"


def test_a_network_where_int8_buys_nothing_anywhere_is_not_left_without_int8() -> None:
    layers = [costing(name, 0.1, -5.0) for name in "abcd"]
    assert [len(excluded(move)) for move in mixed(int8(), layers)] == [1, 2]


def test_of_the_others_the_most_error_for_the_time_saved_goes_first() -> None:
    layers = [
        costing("dear", 4.0, 1000.0),  # 0.004 nats a nanosecond
        costing("dearest", 1.0, 100.0),  # 0.01
        costing("cheap", 0.001, 1000.0),
        costing("harmless", 0.0, 10.0),
    ]
    assert [excluded(move) for move in mixed(int8(), layers)] == [("dearest",), ("dear", "dearest")]


def test_where_the_profile_shows_no_times_the_error_alone_decides() -> None:
    layers = [
        costing("a", 0.1, None),
        costing("b", 0.4, None),
        costing("c", 0.2, None),
        costing("d", 0, None),
    ]
    assert [excluded(move) for move in mixed(int8(), layers)] == [("b",), ("b", "c")]


def test_a_mix_keeps_what_the_recipe_left_in_float() -> None:
    layers = [costing("a", 1.0, 10.0), costing("b", 0.1, 10.0)]
    (move,) = mixed(int8(exclude_nodes=["head"]), layers)
    assert excluded(move) == ("a", "head")


def test_one_layer_alone_is_not_mixed() -> None:
    assert list(mixed(int8(), [costing("a", 1.0, 10.0)])) == []
    assert list(mixed(int8(), [costing("a", 1.0, -10.0)])) == []
    assert list(mixed(int8(), [])) == []
