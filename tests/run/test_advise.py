"""The advisor's rules: networks and processors in, what is worth trying out."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import MACHINE, absent_trial, run_info, trial
from workbench.model.graph.facts import NetworkFacts
from workbench.model.graph.work import Work
from workbench.report.advice import answer, headlines
from workbench.report.advice import text as text_of
from workbench.results.records import AdviceScore
from workbench.results.verdict import compare
from workbench.run.advice.advise import Advice, Item, advise, advised, hindsight
from workbench.run.advice.cost_model import CostModel, Costs
from workbench.run.advice.speed_rules import Situation, opinions
from workbench.system.machine import Machine
from workbench.workspace import recipe
from workbench.workspace.recipe import Variant

VNNI = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")


def costs(**more: float) -> Costs:
    """As plain FP32 in microseconds, unless said otherwise."""
    plain = {"call": 8, "nodes": 1, "plain": 4, "depthwise": 40, "products": 30, "weights": 150}
    return Costs(**{**plain, "moved": 60, "between": 500, "gated": 0, "within": 1.2, **more})


INT8 = {"nodes": 2, "plain": 1.5, "depthwise": 30, "products": 15, "weights": 30, "between": 1400}
KNOWN = CostModel(
    cpu="some processor",
    features=VNNI,
    date="2026-01-01",
    versions={"onnxruntime": "1.32.0"},
    networks=("a", "b"),
    costs={
        "fp32": costs(),
        "int8": costs(**INT8),
        "fp16": costs(plain=5, depthwise=50, products=40, weights=190, moved=75, between=625),
        "dynamic_int8": costs(plain=30, depthwise=300, products=15),
        "dynamic_uint8": costs(plain=12, depthwise=120, products=15),
        "openvino_f32": costs(call=100, nodes=3),
        "openvino_bf16": costs(call=100, nodes=3, plain=1.5, products=15),
        "openvino_int8": costs(call=100, **INT8),
    },
)
AVX2 = ("avx2",)


PLAIN = Work(
    nodes=52,
    plain=300_000_000,
    depthwise=0,
    products=300_000,
    weights=3_000_000,
    moved=6_000_000,
    between=100_000,
    gated=0,
)


def network(**more: Any) -> NetworkFacts:
    """Plain convolutions, unless said otherwise."""
    values: dict[str, Any] = {
        "operators": {"Conv": 50, "Relu": 49, "Gemm": 1},
        "opset": 18,
        "precision": "fp32",
        "macs": 300_000_000,
        "parameters": 3_000_000,
        "input_shape": (3, 224, 224),
        "convolutions": 50,
        "depthwise": 0,
        "depthwise_share": 0.0,
        "matmul_share": 0.001,
        "squeeze_excite": 0,
        "hard_swish": 0,
        "swish": 0,
        "attention": 0,
        "dead_channels": 0,
        "any_size": True,
        "first": "conv_0",
        "last": "fc",
        "work": PLAIN,
    }
    return NetworkFacts(**{**values, **more})


GATED = network(
    squeeze_excite=9,
    hard_swish=19,
    depthwise=11,
    depthwise_share=0.1,
    work=PLAIN.model_copy(
        update={"nodes": 120, "plain": 45_000_000, "depthwise": 5_000_000, "between": 1_500_000}
    ),
)
TRANSFORMER = network(
    convolutions=1,
    attention=12,
    matmul_share=0.99,
    any_size=False,
    work=PLAIN.model_copy(update={"plain": 3_000_000, "products": 297_000_000, "between": 4_000_000}),
)


def machine(features: Sequence[str] = VNNI, architecture: str = "x86_64", cores: int = 4) -> Machine:
    return MACHINE.model_copy(
        update={"features": tuple(features), "architecture": architecture, "cores": cores}
    )


@pytest.fixture
def variants(tmp_path: Path) -> Callable[[str], list[Variant]]:
    def read(text: str) -> list[Variant]:
        path = tmp_path / "a.yaml"
        path.write_text(f"name: a\n{text}")
        return recipe.read(path)

    return read


@pytest.fixture
def item(variants: Callable[[str], list[Variant]]) -> Callable[..., Item]:
    """The advice on the one variant of a recipe."""

    def judge(text: str, facts: NetworkFacts, on: Machine | None = None, **more: Any) -> Item:
        (only,) = advise(facts, on or machine(), {}, variants(text), known=KNOWN, **more).items
        return only

    return judge


SIGNED = "steps: [{use: static_int8, activation: int8}]\n"
STATIC = "steps: [{use: static_int8}]\n"
DYNAMIC = "steps: [{use: dynamic_int8, op_types: [Conv, MatMul, Gemm]}]\n"
SMALLER = "preprocess: {scale: 0.71}\n"
OPENVINO = "runtime: {backend: openvino, precision: bf16}\n"
NO_VNNI = machine(AVX2)
ARM = machine(("asimd", "asimddp"), "aarch64")
OLD_ARM = machine(("asimd",), "aarch64")


@pytest.mark.parametrize(
    ("text", "facts", "on", "expected", "worth", "because"),
    [
        (STATIC, network(), machine(), "faster", True, "INT8 multiplies faster"),
        (STATIC, network(), ARM, "faster", True, "INT8 multiplies faster"),
        (STATIC, network(), OLD_ARM, "unknown", True, "without dot-product instructions"),
        (STATIC, network(), NO_VNNI, "unknown", False, "in 16 bits, which saturate"),
        (STATIC, GATED, machine(), "slower", False, "hard-swish"),
        (STATIC, TRANSFORMER, machine(), "unknown", True, "outlier channels"),
        (SIGNED, GATED, machine(), "slower", False, "int8 activations"),
        (DYNAMIC, network(), machine(), "slower", False, "ConvInteger"),
        (DYNAMIC, TRANSFORMER, machine(), "faster", True, "speeds up products"),
        ("steps: [{use: dynamic_int8}]\n", network(), machine(), "same", False, "matrix products"),
        ("steps: [{use: fp16}]\n", network(), machine(), "slower", False, "behind casts"),
        (SMALLER, network(), machine(), "faster", True, "random crops"),
        (SMALLER, GATED, NO_VNNI, "faster", True, "of the pixels"),
        (SMALLER, TRANSFORMER, machine(), "unknown", False, "one size only"),
        ("preprocess: {crop: 160}\n", network(), machine(), "faster", True, "of the pixels"),
        ("preprocess: {scale: 1.5}\n", network(), machine(), "slower", False, "of the pixels"),
        (OPENVINO, network(), machine(), "faster", True, "BF16 in hardware"),
        (OPENVINO, network(), NO_VNNI, "slower", False, "no BF16 instructions"),
        ("runtime: {backend: torch}\n", network(), machine(), "slower", False, "operator by operator"),
        ("export: {opset: 20}\n", network(), machine(), "same", False, "opsets"),
        ("steps: [{use: simplify}]\n", network(), machine(), "same", False, "the same multiplications"),
        ("runtime: {batch: 8}\n", network(), machine(), "same", False, "by throughput alone"),
        ("runtime: {threads: 2}\n", network(), machine(), "faster", True, "2 threads"),
        ("runtime: {threads: 8}\n", network(), machine(), "unknown", False, "4 processors"),
        (STATIC + SMALLER, GATED, machine(), "faster", True, "hard-swish"),
    ],
)  # fmt: skip
def test_a_rule_says_what_to_expect_and_why(
    item: Callable[..., Item],
    text: str,
    facts: NetworkFacts,
    on: Machine,
    expected: str,
    worth: bool,
    because: str,
) -> None:
    judged = item(text, facts, on)
    assert (judged.expected, judged.worth) == (expected, worth), judged
    assert any(because in reason.text for reason in judged.reasons), judged.reasons
    assert all(reason.source for reason in judged.reasons)


def test_seven_bit_and_unsigned_weights_are_safe_without_vnni(item: Callable[..., Item]) -> None:
    for fields in ("reduce_range: true", "weight: uint8"):
        judged = item(f"steps: [{{use: static_int8, {fields}}}]\n", network(), NO_VNNI)
        assert not any("saturate" in reason.text for reason in judged.reasons)


def test_nothing_is_predicted_of_a_version_of_a_runtime_that_was_not_measured(
    variants: Callable[[str], list[Variant]],
) -> None:
    found = variants('matrix:\n  runtime.version: ["1.28.0", "1.31.1", "1.32.0"]\n')
    given = advise(network(), machine(), {}, found, known=KNOWN)
    assert [(each.worth, each.expected, each.low) for each in given.items[:2]] == [
        (True, "unknown", None)
    ] * 2
    assert "how fast onnxruntime 1.28.0 is was not measured" in given.items[0].reasons[0].text
    assert given.items[2].expected == "same", "the costs are of that version"
    names = [each.variant for each in given.items]
    score = looked_back(given, {names[0]: 0.7, names[1]: 1.3, names[2]: 1.0})
    assert (score.right, score.timed, score.wrong) == (1, 1, ())
    many = variants('runtime: {version: "1.28.0", threads: 64}\n')
    assert not advise(network(), machine(), {}, many, known=KNOWN).items[0].worth


def test_a_dead_channel_and_one_scale_for_depthwise_layers_are_warned_of(item: Callable[..., Item]) -> None:
    dead = item(STATIC, network(dead_channels=3))
    assert any("3 dead channels" in reason.text for reason in dead.reasons)
    shared = item("steps: [{use: static_int8, per_channel: false}]\n", network(depthwise=17))
    assert any("depthwise filters differ" in reason.text for reason in shared.reasons)


def test_where_size_is_what_counts_a_smaller_file_is_worth_it_however_slow(item: Callable[..., Item]) -> None:
    assert item(DYNAMIC, network(), objective="size").worth
    assert not item(SMALLER, network(), objective="size").worth


@pytest.fixture
def advice(variants: Callable[[str], list[Variant]]) -> Advice:
    text = "matrix:\n  steps: [[], [{use: static_int8}], [{use: fp16}], [{use: nncf_int8}]]\n"
    found = variants(text)
    absent = {found[3].name: "`nncf` is not installed"}
    return advise(GATED, machine(), absent, found, known=KNOWN)


def test_what_cannot_run_here_is_not_worth_trying_and_says_why(advice: Advice) -> None:
    assert not advice.items[3].worth
    assert advice.items[3].reasons[0].text == "it cannot run here: `nncf` is not installed"
    assert advice.items[3].absent == "`nncf` is not installed"


def test_what_cannot_run_here_has_a_heading_of_its_own_and_each_reason_is_given_once(
    variants: Callable[[str], list[Variant]],
) -> None:
    found = variants(
        "matrix:\n  runtime: [{device: cuda}, {device: cuda, cuda_graph: true}, {device: cpu}]\n"
    )
    found.append(replace(found[0], name="b", recipe="b"))
    absent = {
        variant.name: "no NVIDIA driver is here" for variant in found if variant.runtime.device == "cuda"
    }
    given = advise(network(), machine(), absent, found, known=KNOWN)
    poor, _, away = text_of(given).partition("\nnot worth trying:\n")[2].partition("\ncannot run here:\n")
    assert poor.startswith("  a[cpu]: expected ")
    assert away.startswith("  a [cuda] [cuda,cuda_graph=true], b\n    - no NVIDIA driver is here [")
    assert text_of(given).count("no NVIDIA driver is here") == 1
    assert headlines(given)[1:] == [
        "worth trying: nothing that is here",
        "not worth trying: 1 of 4; cannot run here: 3 of 4 (`krishi-bench advise` says why)",
    ]
    assert advised(given, found) == []


def test_where_everything_can_run_nothing_is_said_of_what_cannot(
    variants: Callable[[str], list[Variant]],
) -> None:
    given = advise(network(), machine(), {}, variants(""), known=KNOWN)
    assert "cannot run here" not in text_of(given) + "".join(headlines(given))


def test_only_what_is_worth_trying_is_kept(variants: Callable[[str], list[Variant]]) -> None:
    found = variants("matrix: {preprocess.scale: [0.5, 0.75, 1.5]}\n")
    kept = advised(advise(network(), machine(), {}, found, known=KNOWN), found)
    assert [variant.name for variant in kept] == ["a[scale=0.5]", "a[scale=0.75]"]


def test_the_advice_reads_in_100_columns_and_gives_every_source(advice: Advice) -> None:
    text = text_of(advice)
    assert max(map(len, text.splitlines())) <= 100
    assert "worth trying: nothing" in text and "not worth trying:" in text
    for each in advice.items:
        assert all(reason.source.split(";")[0][:40] in text for reason in each.reasons)


def test_the_facts_are_plain_data(advice: Advice) -> None:
    facts = json.loads(json.dumps(answer(advice)))
    assert facts["network"]["hard_swish"] == 19
    assert facts["items"][1]["expected"] == "slower"


def test_the_first_lines_of_a_run_name_what_is_worth_trying(variants: Callable[[str], list[Variant]]) -> None:
    found = variants("matrix: {preprocess.scale: [0.75, 0.5, 1.5]}\n")
    lines = headlines(advise(network(), machine(), {}, found, known=KNOWN))
    assert lines[1] == "worth trying: a[scale=0.5], a[scale=0.75]"
    assert "1 of 3" in lines[2]


def looked_back(advice: Advice, speedups: dict[str, float]) -> AdviceScore:
    trials = [trial("baseline"), *(trial(name, speedup=speed) for name, speed in speedups.items())]
    return hindsight(advice, compare(run_info(), trials))


def test_hindsight_says_where_the_advice_was_wrong(advice: Advice) -> None:
    names = [each.variant for each in advice.items]
    score = looked_back(advice, {names[0]: 1.4, names[1]: 1.4, names[2]: 0.8})
    assert [(wrong.variant, wrong.kind, round(wrong.speedup, 2)) for wrong in score.wrong] == [
        (names[0], "not_the_same", 1.4),
        (names[1], "faster_than_advised", 1.4),
    ]
    assert "hard-swish" in score.wrong[1].because and score.wrong[1].speedup_ci is not None
    assert (score.right, score.timed, score.not_worth, score.not_here) == (1, 3, 0, 1)


def test_hindsight_says_where_a_promise_was_not_kept(variants: Callable[[str], list[Variant]]) -> None:
    found = variants("matrix: {preprocess.scale: [0.7, 0.5]}\n")
    given = advise(network(), machine(), {}, found, known=KNOWN)
    score = looked_back(given, {found[0].name: 0.9, found[1].name: 1.5})
    assert [wrong.kind for wrong in score.wrong] == ["slower_than_advised", "less_than_advised"]
    assert (score.right, score.timed) == (0, 2)


def test_what_was_left_out_is_counted_where_nothing_was_timed(advice: Advice) -> None:
    score = hindsight(advice, compare(run_info(), [trial("baseline")]))
    assert score == AdviceScore(right=0, timed=0, not_worth=3, not_here=1)


def test_hindsight_of_a_run_without_times_says_nothing(advice: Advice) -> None:
    trials = [absent_trial(each.variant, "failed", "broken") for each in advice.items]
    assert hindsight(advice, compare(run_info(), trials)) == AdviceScore(right=0, timed=0)


# GPUs

ON_CUDA = "runtime: {device: cuda}\n"
LARGE = network(macs=20_000_000_000)


@pytest.fixture
def factor(variants: Callable[[str], list[Variant]]) -> Callable[..., float]:
    """The middle of the range that the rules give the one variant of a recipe."""

    def middle(text: str, facts: NetworkFacts | None = None) -> float:
        (only,) = variants(text)
        found = list(opinions(only, Situation(facts or network(), "x86_64", 4, frozenset(AVX2))))
        assert all(opinion.source and 0 < opinion.low <= opinion.high for opinion in found)
        return math.prod((opinion.low * opinion.high) ** 0.5 for opinion in found)

    return middle


def test_a_cuda_graph_is_expected_to_pay_for_small_networks_only(factor: Callable[..., float]) -> None:
    graph = "runtime: {device: cuda, cuda_graph: true}"
    assert factor(graph) > factor(ON_CUDA)
    assert factor(graph, LARGE) == factor(ON_CUDA, LARGE)


def test_half_precision_gains_more_where_the_gpu_has_work(factor: Callable[..., float]) -> None:
    fp16 = f"steps: [{{use: fp16}}]\n{ON_CUDA}"
    assert 1 < factor(fp16) / factor(ON_CUDA) < factor(fp16, LARGE) / factor(ON_CUDA, LARGE)


def test_tensorrt_is_expected_before_onnxruntime_and_that_before_eager_torch(
    factor: Callable[..., float],
) -> None:
    backends = ("torch", "onnxruntime", "tensorrt")
    torch, ort, engine = (factor(f"runtime: {{backend: {name}, device: cuda}}") for name in backends)
    assert torch < ort < engine


def test_int8_made_for_tensorrt_is_expected_before_int8_made_for_cpus(factor: Callable[..., float]) -> None:
    runtime = "runtime: {backend: tensorrt, device: cuda}"
    for_it = f"steps: [{{use: static_int8, placement: tensorrt}}]\n{runtime}"
    assert factor(for_it, LARGE) > factor(f"{SIGNED}{runtime}", LARGE)


def test_a_smaller_photo_is_expected_to_gain_less_on_a_gpu_and_cites_no_cpu(
    variants: Callable[[str], list[Variant]],
) -> None:
    runtime = "runtime: {device: cuda, precision: tf32}"
    (only,) = variants(f"preprocess: {{scale: 0.5}}\nsteps: [{{use: fp16}}]\n{runtime}\n")
    found = list(opinions(only, Situation(network(), "x86_64", 4, frozenset(AVX2))))
    assert not any("x86" in opinion.source for opinion in found)
    (smaller,) = (opinion for opinion in found if "25 % of the pixels" in opinion.text)
    assert (smaller.low, smaller.high) == (1.0, 4.0)


def test_dynamic_int8_is_not_worth_trying_on_a_gpu(item: Callable[..., Item]) -> None:
    judged = item(f"steps: [{{use: dynamic_int8}}]\n{ON_CUDA}", network())
    assert not judged.worth
    assert judged.reasons[0].text == "dynamic INT8 is made of operators that run on the CPU"
