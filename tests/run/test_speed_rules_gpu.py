"""What is expected of GPU variants: wide ranges, with the reason of each."""

from pathlib import Path

from workbench.model.graph.facts import NetworkFacts
from workbench.run.advice.speed_rules import Situation, opinions
from workbench.workspace import recipe

SMALL, LARGE = 300_000_000, 20_000_000_000  # multiply-accumulates of a photo


def situation(macs: int) -> Situation:
    facts = NetworkFacts(
        operators={"Conv": 50, "Relu": 49, "Gemm": 1},
        opset=18,
        precision="fp32",
        macs=macs,
        parameters=3_000_000,
        input_shape=(3, 224, 224),
        convolutions=50,
        depthwise=0,
        depthwise_share=0.0,
        matmul_share=0.001,
        squeeze_excite=0,
        hard_swish=0,
        swish=0,
        attention=0,
        dead_channels=0,
        any_size=True,
        first="conv_0",
        last="fc",
    )
    return Situation(facts, "x86_64", 4, frozenset({"avx2"}))


def expected(folder: Path, text: str, macs: int = SMALL) -> tuple[float, list[str]]:
    """The middle of the range, as a factor on the CPU's speed, and what was said."""
    path = folder / "a.yaml"
    path.write_text(f"name: a\n{text}")
    (variant,) = recipe.read(path)
    said = list(opinions(variant, situation(macs)))
    middle = 1.0
    for opinion in said:
        assert opinion.source
        assert 0 < opinion.low <= opinion.high
        middle *= (opinion.low * opinion.high) ** 0.5
    return middle, [opinion.text for opinion in said if opinion.stop]


def test_a_cuda_graph_is_expected_to_pay_for_small_networks_and_not_for_large_ones(tmp_path: Path) -> None:
    plain = "runtime: {device: cuda}"
    graph = "runtime: {device: cuda, cuda_graph: true}"
    assert expected(tmp_path, graph)[0] > expected(tmp_path, plain)[0]
    assert expected(tmp_path, graph, LARGE)[0] == expected(tmp_path, plain, LARGE)[0]


def test_half_precision_gains_more_where_the_gpu_has_work(tmp_path: Path) -> None:
    fp16, fp32 = "steps: [{use: fp16}]\nruntime: {device: cuda}", "runtime: {device: cuda}"
    gains = [expected(tmp_path, fp16, macs)[0] / expected(tmp_path, fp32, macs)[0] for macs in (SMALL, LARGE)]
    assert 1 < gains[0] < gains[1]


def test_tensorrt_is_expected_before_onnxruntime_and_that_before_eager_torch(tmp_path: Path) -> None:
    torch, ort, engine = (
        expected(tmp_path, f"runtime: {{backend: {backend}, device: cuda}}")[0]
        for backend in ("torch", "onnxruntime", "tensorrt")
    )
    assert torch < ort < engine


def test_int8_made_for_tensorrt_is_expected_before_int8_made_for_cpus(tmp_path: Path) -> None:
    runtime = "runtime: {backend: tensorrt, device: cuda}"
    step = "{use: static_int8, placement: tensorrt}"
    made_for_it = expected(tmp_path, f"steps: [{step}]\n{runtime}", LARGE)[0]
    assert (
        made_for_it
        > expected(tmp_path, f"steps: [{{use: static_int8, activation: int8}}]\n{runtime}", LARGE)[0]
    )


def test_a_smaller_photo_is_expected_to_gain_less_on_a_gpu_and_cites_no_cpu(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\npreprocess: {scale: 0.5}\nsteps: [{use: fp16}]\nruntime: {device: cuda, precision: tf32}\n"
    )
    (variant,) = recipe.read(path)
    said = list(opinions(variant, situation(SMALL)))
    assert not any("x86" in opinion.source for opinion in said)
    (smaller,) = (opinion for opinion in said if "25 % of the pixels" in opinion.text)
    assert (smaller.low, smaller.high) == (1.0, 4.0)


def test_dynamic_int8_is_not_worth_trying_on_a_gpu(tmp_path: Path) -> None:
    _, stops = expected(tmp_path, "steps: [{use: dynamic_int8}]\nruntime: {device: cuda}")
    assert stops == ["dynamic INT8 is made of operators that run on the CPU"]
