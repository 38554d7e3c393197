"""The audit: the sentence that counts amount to, and what two runtimes really do with a few files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import onnx_model
from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit, Computed, Product, audit_of, percent, shares_of

CPU = {"CPUExecutionProvider": 9}
SIDE = 16
SAMPLE: NDArray[np.float32] = np.random.default_rng(0).uniform(0, 1, (2, 3, SIDE, SIDE)).astype(np.float32)
STEM = 8 * 8 * 8 * 27  # 3x3, stride 2, 3 channels to 8
POINTWISE = 8 * 8 * 16 * 8
CLASSIFIER = 16 * 4


def audit(*products: tuple[Any, int | None], asked: Any = "fp32", **fields: Any) -> Audit:
    counts = {"providers": CPU, "casts": 0, "unfused_qdq": 0, **fields}
    return audit_of([Product(*product) for product in products], asked=asked, **counts)


def test_a_float_network_is_plain() -> None:
    found = audit(("fp32", 60), ("fp32", 40))
    assert (found.macs, found.fp32_share, found.int8_share, found.half_share) == (100, 1, 0, 0)
    assert found.computes == "fp32"
    assert found.verdict == "fp32 for all multiplications"


VERDICTS: list[tuple[list[tuple[Any, int]], dict[str, Any], str, str]] = [
    (
        [("fp32", 100)],
        {"asked": "fp16", "casts": 57},
        "fp32",
        "stored in fp16, computed in fp32 behind 57 casts: smaller, but no faster",
    ),
    ([("bf16", 100)], {"asked": "fp16", "stored": False}, "bf16", "fp16 was asked for, computed in bf16"),
    (
        [("int8", 97), ("fp32", 3)],
        {"asked": "int8", "unfused_qdq": 12},
        "int8",
        "int8 for 97 % of the multiplications (fp32 3 %); 12 quantise/dequantise nodes did not fuse",
    ),
    (
        [("int8", 30), ("fp32", 70)],
        {"asked": "int8", "casts": 1, "unfused_qdq": 1},
        "mixed",
        "stored in int8, computed in fp32 for 70 % of the multiplications, int8 for 30 % behind 1 cast; "
        "1 quantise/dequantise node did not fuse",
    ),
    (
        [("bf16", 95)],
        {"asked": "bf16", "macs": 100},
        "bf16",
        "bf16 for 95 % of the multiplications (unknown 5 %)",
    ),
]


@pytest.mark.parametrize(("products", "fields", "computes", "verdict"), VERDICTS)
def test_the_verdict_says_what_was_asked_and_what_is_computed(
    products: list[tuple[Any, int]], fields: dict[str, Any], computes: str, verdict: str
) -> None:
    found = audit(*products, **fields)
    assert (found.computes, found.verdict) == (computes, verdict)
    assert found.half_share == (dict(products).get("bf16", 0) / 100)


def test_nodes_that_fell_back_to_another_provider_are_named() -> None:
    found = audit(("fp32", 1), providers={"CPUExecutionProvider": 2, "CUDAExecutionProvider": 50})
    assert found.verdict.endswith(
        "split over CUDAExecutionProvider (50 nodes), CPUExecutionProvider (2 nodes)"
    )


@pytest.mark.parametrize(
    ("products", "macs"),
    [
        ([], None),
        ([], 100),
        ([("fp32", None)], None),
        ([("unknown", 80), ("fp32", 20)], None),
        ([("fp32", 30)], 100),
    ],
)
def test_what_a_runtime_hides_is_unknown(products: list[tuple[Any, int | None]], macs: int | None) -> None:
    found = audit(*products, asked="int8", macs=macs)
    assert found.computes == "unknown"
    assert found.verdict == "the runtime does not tell in which precision it multiplies"


def test_padded_channels_do_not_count_as_more_than_everything() -> None:
    assert shares_of([Product("fp32", 120)], macs=100) == {"fp32": 1.0}


def test_percentages_never_round_to_everything_or_nothing() -> None:
    texts = ["100 %", "over 99 %", "97 %", "under 1 %", "0 %"]
    assert [percent(share) for share in (1, 0.9999, 0.97, 0.0001, 0)] == texts


def test_an_audit_survives_being_saved() -> None:
    found = audit(("int8", 97), ("fp32", 3), asked="int8")
    assert Audit.model_validate_json(json.dumps(found.model_dump())) == found


# What follows runs in the runtimes themselves.


def network(path: Path) -> Path:
    """Convolution, pointwise convolution, pool, classifier; every one followed or fed by ReLU."""
    onnx = pytest.importorskip("onnx", reason="graphs are ONNX")
    rng = np.random.default_rng(1)
    node = onnx.helper.make_node
    stored = {
        "w0": rng.normal(size=(8, 3, 3, 3)),
        "w1": rng.normal(size=(16, 8, 1, 1)),
        "w2": rng.normal(size=(4, 16)),
    }
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "w1"], ["c"], name="pointwise"),
        node("Relu", ["c"], ["d"], name="relu2"),
        node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        node("Flatten", ["e"], ["f"], name="flat"),
        node("Gemm", ["f", "w2"], ["y"], name="classifier", transB=1),
    ]
    onnx.save(onnx_model(nodes, stored, ("x", ["n", 3, SIDE, SIDE]), ("y", ["n", 4])), path)
    return path


def int8(path: Path, **options: Any) -> Path:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime quantises")

    class Photos(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter([{"x": SAMPLE}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    kinds = quantization.QuantType
    source = network(path.with_suffix(".float.onnx"))
    quantization.quantize_static(
        source, path, Photos(), activation_type=kinds.QUInt8, weight_type=kinds.QInt8, **options
    )
    return path


def in_onnxruntime(path: Path) -> Audit:
    onnxruntime = pytest.importorskip("onnxruntime", reason="its graph is read")
    from workbench.backends.ort.audit import audit_onnx
    from workbench.model.graph.onnx_file import artifact_info

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    before = set(Path.cwd().iterdir())
    found = audit_onnx(
        Artifact(path.parent, artifact_info(path)), options, {name: {} for name in CPU}, SAMPLE
    )
    assert set(Path.cwd().iterdir()) == before  # no profile is left behind
    return found


def test_onnxruntime_multiplies_a_float_file_in_fp32(tmp_path: Path) -> None:
    found = in_onnxruntime(network(tmp_path / "m.onnx"))
    assert found.macs == STEM + POINTWISE + CLASSIFIER
    assert (found.computes, found.casts, found.unfused_qdq) == ("fp32", 0, 0)
    assert list(found.providers) == ["CPUExecutionProvider"]


def test_onnxruntime_fuses_a_quantised_file_whole(tmp_path: Path) -> None:
    found = in_onnxruntime(int8(tmp_path / "m.onnx"))
    assert (found.int8_share, found.computes, found.unfused_qdq) == (1, "int8", 0)
    assert found.macs == STEM + POINTWISE + CLASSIFIER
    assert found.verdict == "int8 for all multiplications"


def test_a_layer_left_in_float_is_counted_by_its_multiplications(tmp_path: Path) -> None:
    found = in_onnxruntime(int8(tmp_path / "m.onnx", nodes_to_exclude=["stem"]))
    assert found.fp32_share == pytest.approx(STEM / (STEM + POINTWISE + CLASSIFIER))
    assert found.computes == "mixed"


def test_pairs_that_did_not_fuse_are_counted_and_those_at_the_ends_are_not(tmp_path: Path) -> None:
    found = in_onnxruntime(int8(tmp_path / "m.onnx", nodes_to_exclude=["relu", "pointwise", "relu2"]))
    assert found.unfused_qdq == 2  # off before the convolution in float, on again after it


def test_a_layer_that_onnxruntime_quantises_unasked_is_counted_as_what_it_runs_as(tmp_path: Path) -> None:
    """Float weights between quantised data: onnxruntime quantises them when it opens the file."""
    found = in_onnxruntime(int8(tmp_path / "m.onnx", nodes_to_exclude=["pointwise"]))
    assert found.int8_share == 1


def test_a_cpu_computes_an_fp16_file_in_fp32_and_the_audit_says_so(tmp_path: Path) -> None:
    float16 = pytest.importorskip("onnxruntime.transformers.float16", reason="it converts to fp16")
    import onnx

    half = float16.convert_float_to_float16(onnx.load(network(tmp_path / "m.onnx")), keep_io_types=True)
    onnx.save(half, tmp_path / "half.onnx")
    found = in_onnxruntime(tmp_path / "half.onnx")
    if found.half_share == 1:
        pytest.skip("this CPU has fp16 kernels")
    assert found.fp32_share == 1
    assert found.macs == STEM + POINTWISE + CLASSIFIER
    assert found.verdict.startswith("stored in fp16, computed in fp32")
    assert found.verdict.endswith(": smaller, but no faster")


def in_openvino(path: Path, hint: str, asked: Computed, batch: int | None) -> Audit:
    openvino = pytest.importorskip("openvino", reason="its graph is read")
    from workbench.backends.openvino.audit import audit_compiled

    core = openvino.Core()
    model = core.read_model(path)
    if batch is not None:
        model.reshape([batch, 3, SIDE, SIDE])
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": "1"}
    return audit_compiled(core.compile_model(model, "CPU", settings), asked)


@pytest.mark.parametrize("batch", [1, 2, None])
def test_openvino_multiplies_a_float_file_as_its_hint_says(tmp_path: Path, batch: int | None) -> None:
    found = in_openvino(network(tmp_path / "m.onnx"), "f32", "fp32", batch)
    assert (found.macs, found.computes) == (STEM + POINTWISE + CLASSIFIER, "fp32")
    assert list(found.providers) == ["CPU"]


def test_openvino_multiplies_a_quantised_file_in_int8(tmp_path: Path) -> None:
    found = in_openvino(int8(tmp_path / "m.onnx"), "f32", "int8", 1)
    assert found.int8_share == 1


def test_a_hint_that_this_cpu_cannot_follow_is_told_from_one_it_can(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="its graph is read")
    can = "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    found = in_openvino(network(tmp_path / "m.onnx"), "f16", "fp16", 1)
    assert ("fp16 was asked for" in found.verdict) is not can
