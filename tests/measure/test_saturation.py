"""16-bit saturation: emulated, against sums worked out one by one and against a CPU that really has it."""

import shutil
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="graphs are ONNX")
onnxruntime = pytest.importorskip("onnxruntime", reason="it quantises, and runs what is not emulated")

from tests.builders import onnx_model  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.measure.records import Saturation  # noqa: E402
from workbench.measure.saturation.emulator import saturation_of  # noqa: E402
from workbench.measure.saturation.int16 import clipped  # noqa: E402

pytestmark = pytest.mark.integration

SIDE = 6
VNNI, ARM, AVX2 = "x86 with VNNI", "ARM with dot product", "x86 with AVX2 without VNNI"
BRIGHT: NDArray[np.float32] = np.random.default_rng(0).uniform(3, 5, (3, 4, SIDE, SIDE)).astype(np.float32)
DARK: NDArray[np.float32] = BRIGHT / np.float32(10)  # half of the largest byte at most, below


def layer(
    path: Path,
    *,
    group: int = 1,
    data: str = "uint8",
    weight: str = "int8",
    largest: int = 127,
    scale: float = 0.02,
) -> Path:
    """One quantised 3x3 convolution of 4 channels to 4, padded, with weights near `largest`, and its pool."""
    rng = np.random.default_rng(1)
    values = rng.integers(largest * 3 // 4, largest + 1, (4, 4 // group, 3, 3))
    values[::2] *= 1 if weight == "uint8" else -1
    zero = 10 if data == "uint8" else -118
    stored = {
        "xs": np.float32(scale), "xz": np.array(zero, data), "w": values.astype(weight),
        "ws": np.float32(0.01), "wz": np.array(0, weight), "b": np.arange(4, dtype=np.int32) * 100,
        "ys": np.float32(2 if group == 1 else 0.5), "yz": np.array(zero + 118, data),
    }  # fmt: skip
    node = onnx.helper.make_node
    conv = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearConv", conv, ["o"], name="conv", pads=[1, 1, 1, 1], group=group),
        node("DequantizeLinear", ["o", "ys", "yz"], ["f"]),
        node("GlobalAveragePool", ["f"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    return saved(path, nodes, stored, (4, SIDE, SIDE))


def saved(path: Path, nodes: list[Any], stored: dict[str, Any], shape: tuple[int, int, int]) -> Path:
    onnx.save(onnx_model(nodes, stored, ("x", ["n", *shape]), ("y", ["n", 4])), path)
    return path


def risk(path: Path, photos: NDArray[np.float32] = BRIGHT) -> Saturation:
    found = saturation_of(path, photos)
    assert found is not None
    return found


def one_by_one(path: Path, photo: NDArray[np.float32], *, clip: bool) -> tuple[NDArray[np.float32], int]:
    """The logits of `layer`, and how many pair sums saturated, with plain loops over Python's integers."""
    model = onnx.load(path)
    stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    zero, weight = int(stored["xz"]), stored["w"].astype(int)
    bytes_ = np.clip(np.rint(photo / stored["xs"]) + zero, 0, 255).astype(int)
    padded = np.pad(bytes_, ((0, 0), (1, 1), (1, 1)), constant_values=zero)
    outputs, saturated = np.zeros((4, SIDE, SIDE), np.float32), 0
    for out, row, column in product(range(4), range(SIDE), range(SIDE)):
        depth = [(i, j, c) for i in range(3) for j in range(3) for c in range(4)]
        terms = [int(padded[c, row + i, column + j]) * int(weight[out, c, i, j]) for i, j, c in depth]
        pairs = [first + second for first, second in zip(terms[::2], terms[1::2], strict=True)]
        kept = [min(max(pair, -32768), 32767) for pair in pairs]
        saturated += sum(pair != keep for pair, keep in zip(pairs, kept, strict=True))
        total = sum(kept if clip else pairs) - zero * int(weight[out].sum()) + int(stored["b"][out])
        scale = stored["xs"] * stored["ws"] / stored["ys"]
        quantised = np.clip(np.rint(np.float32(total) * scale) + int(stored["yz"]), 0, 255)
        outputs[out, row, column] = (quantised - int(stored["yz"])) * stored["ys"]
    return outputs.mean(axis=(1, 2)), saturated


def test_large_weights_and_bright_photos_saturate_as_in_sums_worked_out_one_by_one(tmp_path: Path) -> None:
    path = layer(tmp_path / "conv.onnx")
    found = risk(path)
    exact = np.stack([one_by_one(path, photo, clip=False)[0] for photo in BRIGHT])
    short, counts = zip(*(one_by_one(path, photo, clip=True) for photo in BRIGHT), strict=True)
    assert found.layers_at_risk == ("conv",)
    assert sum(counts) > 0
    assert found.logit_error == pytest.approx(np.abs(np.stack(short) - exact).max() / np.abs(exact).max())
    assert found.logit_error > 0.1
    assert found.photos == len(BRIGHT)
    assert found.validated == (VNNI, ARM)


def test_what_is_lost_is_what_clipping_each_pair_loses() -> None:
    rng = np.random.default_rng(2)
    data = rng.integers(0, 256, (40, 13), np.uint8)
    weight = rng.integers(-128, 128, (13, 7)).astype(np.int8)
    terms = data[:, :, None].astype(np.int64) * weight[None].astype(np.int64)
    pairs = terms[:, 0:12:2] + terms[:, 1:12:2]
    kept = np.clip(pairs, -(2**15), 2**15 - 1)
    lost, count = clipped(data, weight)
    np.testing.assert_array_equal(lost, (pairs - kept).sum(axis=1))
    assert count == np.count_nonzero(pairs != kept) > 0


@pytest.mark.parametrize(("largest", "photos"), [(127, DARK), (64, 10 * BRIGHT)])
def test_dark_photos_and_seven_bit_weights_never_saturate(
    tmp_path: Path, largest: int, photos: NDArray[np.float32]
) -> None:
    found = risk(layer(tmp_path / "conv.onnx", largest=largest), photos)
    assert (found.layers_at_risk, found.logit_error, found.top1_changed) == ((), 0, 0)
    assert found.validated == (VNNI, ARM, AVX2)


@pytest.mark.parametrize(
    "kind",
    [{"weight": "uint8"}, {"data": "int8"}, {"group": 4}],
    ids=["unsigned weights", "signed data", "depthwise"],
)
def test_kernels_that_do_not_add_in_16_bits_are_not_at_risk(tmp_path: Path, kind: dict[str, Any]) -> None:
    assert saturation_of(layer(tmp_path / "conv.onnx", **kind), BRIGHT) is None


def test_a_grouped_convolution_is_at_risk(tmp_path: Path) -> None:
    assert risk(layer(tmp_path / "conv.onnx", group=2)).layers_at_risk == ("conv",)


def test_a_float_network_is_not_at_risk(tmp_path: Path) -> None:
    assert saturation_of(products(tmp_path / "float.onnx"), BRIGHT) is None


def products(path: Path) -> Path:
    """MatMul, ReLU and Gemm, in float, with weights that are all large beside the largest."""
    rng = np.random.default_rng(3)
    depth = 4 * SIDE * SIDE
    signs = np.sign(rng.normal(size=(1, 16)))
    stored = {
        "w0": (signs * rng.uniform(1.5, 2, (depth, 16))).astype(np.float32),
        "w1": rng.normal(size=(4, 16)).astype(np.float32),
    }
    node = onnx.helper.make_node
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("MatMul", ["f", "w0"], ["a"], name="first"),
        node("Relu", ["a"], ["r"]),
        node("Gemm", ["r", "w1"], ["y"], name="last", transB=1),
    ]
    return saved(path, nodes, stored, (4, SIDE, SIDE))


def quantised(source: Path, target: Path, data: str, *, reduce_range: bool = False) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter([{"x": BRIGHT}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    kinds = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    quantize_static(
        source, target, Photos(), activation_type=kinds[data], weight_type=kinds["int8"],
        reduce_range=reduce_range,
    )  # fmt: skip
    return target


def test_quantise_dequantise_pairs_are_emulated_as_the_integer_layers_they_become(tmp_path: Path) -> None:
    path = quantised(products(tmp_path / "float.onnx"), tmp_path / "int8.onnx", "uint8")
    found = risk(path)
    assert "first_quant" in found.layers_at_risk or "first" in found.layers_at_risk
    assert found.logit_error > 0.01


def test_signed_data_in_pairs_is_at_risk_because_onnxruntime_makes_it_unsigned_on_x86(tmp_path: Path) -> None:
    assert risk(quantised(products(tmp_path / "f.onnx"), tmp_path / "q.onnx", "int8")).layers_at_risk


def test_the_quantisers_reduced_range_is_safe(tmp_path: Path) -> None:
    path = quantised(products(tmp_path / "f.onnx"), tmp_path / "q.onnx", "uint8", reduce_range=True)
    assert risk(path).layers_at_risk == ()


def test_a_matrix_product_quantised_as_it_runs_is_at_risk(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = products(tmp_path / "f.onnx"), tmp_path / "dynamic.onnx"
    quantize_dynamic(source, target, weight_type=QuantType.QInt8)
    assert risk(target).layers_at_risk


def test_no_photo_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="no photo"):
        saturation_of(layer(tmp_path / "conv.onnx"), BRIGHT[:0])


def test_a_file_that_is_no_network_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    with pytest.raises(WorkbenchError, match=r"torn\.onnx"):
        saturation_of(tmp_path / "torn.onnx", BRIGHT)


RUN = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
photos = np.load(sys.argv[1])
for path in sys.argv[3:]:
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = [session.run(None, {"x": photo[None]})[0] for photo in photos]
    np.save(path + sys.argv[2], np.concatenate(rows))
"""


@pytest.mark.slow
def test_the_emulation_is_what_onnxruntime_computes_without_vnni(tmp_path: Path) -> None:
    """Valgrind runs a program on an x86 that it makes up, which has AVX2 and nothing newer."""
    from workbench.measure.saturation.network import SplitNetwork

    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: it stands for a CPU without VNNI")
    paths = [
        layer(tmp_path / "conv.onnx"),
        layer(tmp_path / "grouped.onnx", group=2),
        quantised(products(tmp_path / "f.onnx"), tmp_path / "unsigned.onnx", "uint8"),
        quantised(products(tmp_path / "f.onnx"), tmp_path / "signed.onnx", "int8"),
    ]
    np.save(tmp_path / "photos.npy", BRIGHT)
    command = [sys.executable, "-c", RUN, str(tmp_path / "photos.npy"), ".npy", *map(str, paths)]
    done = subprocess.run(
        ["valgrind", "--tool=none", "-q", *command], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        pytest.skip(f"valgrind cannot run onnxruntime here: {done.stderr[-200:]}")
    for path in paths:
        plan = SplitNetwork(path)
        emulated = np.concatenate([plan.run(photo[None], Counter()) for photo in BRIGHT])
        exact = np.concatenate([plan.run(photo[None]) for photo in BRIGHT])
        really = np.load(f"{path}.npy")
        np.testing.assert_allclose(emulated, really, rtol=1e-5, err_msg=path.name)
        assert np.abs(exact - really).max() > 0.01 * np.abs(exact).max()
