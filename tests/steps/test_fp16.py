"""FP16 conversion on networks with a planted fault: what is kept in FP32, what is not, what is refused.

A CPU computes FP16 graphs in FP32 between casts, so that nothing overflows there: the tests look at the types
in the file, and at logits where weights were rounded.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

onnx = pytest.importorskip("onnx", reason="steps transform ONNX files")
pytest.importorskip("onnxruntime", reason="the converter is onnxruntime's")

from tests.builders import error_of, onnx_model  # noqa: E402
from tests.steps import graphs  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.model.graph.onnx_file import describe  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.steps.fp16.casts import count_casts, half_share, notes_of, types_of, without_cast_pairs  # noqa: E402
from workbench.steps.fp16.convert import fp16  # noqa: E402
from workbench.steps.fp16.settings import Fp16  # noqa: E402
from workbench.steps.graph import FLOAT, FLOAT16  # noqa: E402
from workbench.steps.verify import check  # noqa: E402

pytestmark = pytest.mark.integration

CONTRACT = Preprocess(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
RNG = np.random.default_rng(0)
PHOTOS: NDArray[np.float32] = RNG.standard_normal((4, 3, 8, 8), np.float32)

made = onnx.helper.make_node


def weights(*shape: int, scale: float = 0.5, seed: int = 1) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def saved(
    path: Path, nodes: Sequence[Any], stored: Mapping[str, Any], opset: int = 17, logits: str = "logits"
) -> Path:
    """A network from `image` (free batch, 3, 8, 8) to `logits` (free batch, 4)."""
    model = onnx_model(nodes, stored, ("image", ["n", 3, 8, 8]), (logits, ["n", 4]), opset=opset)
    onnx.save(model, path)
    return path


def conv(name: str, source: str, weight: str) -> Any:
    return made("Conv", [source, weight], [name], name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


HEAD = [
    made("GlobalAveragePool", ["features"], ["pooled"], name="pool"),
    made("Flatten", ["pooled"], ["flat"], name="flatten"),
    made("Gemm", ["flat", "head.w", "head.b"], ["logits"], name="head"),
]
HEAD_WEIGHTS = {"head.w": weights(16, 4), "head.b": weights(4)}


def chain(path: Path, loud: float = 1.0, quiet: float = 1.0, opset: int = 17) -> Path:
    """Three convolutions. The second gives `loud` times as much, from weights `quiet` times as large; what
    follows sets it right, and cuts at zero and 1e30 on the way."""
    stored = {
        "first.w": weights(16, 3, 3, 3),
        "second.w": weights(16, 16, 3, 3, scale=0.1) * np.float32(loud * quiet),
        "third.w": weights(16, 16, 3, 3, scale=0.1),
        "none": np.float32(0),
        "huge": np.float32(1e30),
        "right": np.float32(1 / (loud * quiet)),
        **HEAD_WEIGHTS,
    }
    nodes = [
        conv("first", "image", "first.w"),
        made("Relu", ["first"], ["rectified"], name="relu"),
        conv("second", "rectified", "second.w"),
        made("Clip", ["second", "none", "huge"], ["clipped"], name="clip"),
        made("Mul", ["clipped", "right"], ["scaled"], name="scale"),
        conv("third", "scaled", "third.w"),
        made("Relu", ["third"], ["features"], name="last_relu"),
        *HEAD,
    ]
    return saved(path, nodes, stored, opset)


def step(**fields: Any) -> Fp16:
    return Fp16(use="fp16", **fields)


def convert(source: Path, target: Path, samples: NDArray[np.float32] = PHOTOS, **fields: Any) -> Path:
    """The step and its check, as `apply` does, with photos for both."""
    fp16(step(**fields), source, target, None, samples)
    check(Fp16(use="fp16"), source, target, samples)
    return target


def drift(source: Path, result: Path) -> float:
    return graphs.drift(source, result, PHOTOS)


def kept(path: Path) -> set[str]:
    found = notes_of(path)
    assert found is not None
    return set(found.kept)


def computed_in(path: Path, name: str) -> int:
    """The element type of what a node takes."""
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.name == name)
    return types_of(model)[node.input[0]]


def message_of(source: Path, target: Path, **fields: Any) -> tuple[str, str]:
    with pytest.raises(WorkbenchError) as caught:
        convert(source, target, **fields)
    assert not target.exists()
    return caught.value.message, caught.value.hint or ""


def test_recipes_from_before_mean_the_same_step_with_sensitive_nodes_kept() -> None:
    found = Fp16.model_validate({"use": "fp16", "exclude_op_types": ["Softmax"]})
    assert found.keep_sensitive
    with_old = {"use": "fp16", "exclude_op_types": ["Softmax"], "keep_io_types": True, "converter": "auto"}
    assert Fp16.model_validate(with_old) == found
    with pytest.raises(ValidationError, match="`converter: modelopt` was removed"):
        Fp16.model_validate({"use": "fp16", "converter": "modelopt"})


def test_a_network_without_sensitive_nodes_is_converted_whole(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx")
    convert(source, tmp_path / "half.onnx")
    convert(source, tmp_path / "plain.onnx", keep_sensitive=False)
    assert (tmp_path / "half.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    notes = notes_of(tmp_path / "half.onnx")
    assert notes is not None
    assert (notes.kept, notes.half_share, notes.casts) == ({}, 1.0, 2)
    assert describe(tmp_path / "half.onnx").precision == "fp16"
    assert 0 < drift(source, tmp_path / "half.onnx") < 0.005


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_a_planted_overflow_is_kept_in_fp32_and_stays_right(tmp_path: Path, opset: int) -> None:
    source = chain(tmp_path / "m.onnx", loud=1e5, opset=opset)
    result = convert(source, tmp_path / "half.onnx")
    assert kept(result) == {"second", "clip", "scale"}  # what gives the large values, and what takes them
    types = types_of(onnx.load(result))
    assert [computed_in(result, name) for name in ("first", "second", "scale", "third")] == [
        FLOAT16, FLOAT, FLOAT, FLOAT16,
    ]  # fmt: skip
    assert not [name for name, kind in types.items() if name.startswith("second") and kind == FLOAT16]
    assert drift(source, result) < 0.005
    share = half_share(onnx.load(result))
    assert share is not None
    assert 0.5 < share < 0.6  # the first and the third convolution of three


def test_planted_weights_that_vanish_are_kept_in_fp32(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx", quiet=1e-7)
    options: dict[str, Any] = {"exclude_nodes": ["clip", "scale"]}
    result = convert(source, tmp_path / "half.onnx", **options)
    assert "second" in kept(result)
    assert drift(source, result) < 0.01
    error = error_of(lambda: convert(source, tmp_path / "plain.onnx", keep_sensitive=False, **options))
    assert "fp16 explains 0.1; the first node that differs is `second` (Conv)" in error.message


def test_activations_that_vanish_are_kept_where_that_changes_the_logits(tmp_path: Path) -> None:
    stored = {"w": weights(16, 3, 3, 3), "down": np.float32(1e-4), "up": np.float32(1e7), **HEAD_WEIGHTS}
    nodes = [
        made("Mul", ["image", "down"], ["faint"], name="down"),
        made("Mul", ["faint", "down"], ["fainter"], name="further_down"),
        made("Mul", ["fainter", "up"], ["back"], name="up"),
        conv("features", "back", "w"),
        *HEAD,
    ]
    source = saved(tmp_path / "m.onnx", nodes, stored)
    assert kept(convert(source, tmp_path / "half.onnx")) == {"further_down", "up"}
    stored["up"] = np.float32(1)  # what vanishes is next to nothing beside the bias of the head
    quiet = saved(tmp_path / "quiet.onnx", nodes, stored)
    assert kept(convert(quiet, tmp_path / "half.onnx")) == set()


def decomposed_norm(path: Path, scale: float) -> Path:
    """A layer norm of single operators, over 64 values, with the gain and bias that make it one."""
    stored = {
        "w": weights(64, 3, 3, 3) * np.float32(scale), "two": np.float32(2), "eps": np.float32(1e-5),
        "gain": weights(64), "bias": weights(64), "head.w": weights(64, 4), "head.b": weights(4),
    }  # fmt: skip
    nodes = [
        conv("wide", "image", "w"),
        made("Transpose", ["wide"], ["last"], name="last", perm=[0, 2, 3, 1]),
        made("ReduceMean", ["last"], ["mean"], name="mean", axes=[-1]),
        made("Sub", ["last", "mean"], ["off"], name="off"),
        made("Pow", ["off", "two"], ["squares"], name="squares"),
        made("ReduceMean", ["squares"], ["variance"], name="variance", axes=[-1]),
        made("Add", ["variance", "eps"], ["some"], name="some"),
        made("Sqrt", ["some"], ["deviation"], name="deviation"),
        made("Div", ["off", "deviation"], ["normed"], name="divide"),
        made("Mul", ["normed", "gain"], ["scaled"], name="gain"),
        made("Add", ["scaled", "bias"], ["shifted"], name="bias"),
        made("Transpose", ["shifted"], ["features"], name="back", perm=[0, 3, 1, 2]),
        *HEAD,
    ]
    return saved(path, nodes, stored)


def test_sums_inside_of_reductions_count(tmp_path: Path) -> None:
    """No value is beyond FP16; the squares added up are."""
    source = decomposed_norm(tmp_path / "m.onnx", 10)
    found = notes_of(convert(source, tmp_path / "half.onnx"))
    assert found is not None
    assert set(found.kept) == {"variance"}
    assert found.kept["variance"].startswith("it adds up to")


def test_layer_norms_of_large_values_are_kept(tmp_path: Path) -> None:
    def normed(scale: float) -> Path:
        stored = {"w": weights(16, 3, 3, 3) * np.float32(scale), "g": weights(8), "b": weights(8)}
        nodes = [
            conv("wide", "image", "w"),
            made("LayerNormalization", ["wide", "g", "b"], ["features"], name="norm", axis=-1),
            *HEAD,
        ]
        return saved(tmp_path / f"{scale}.onnx", nodes, {**stored, **HEAD_WEIGHTS})

    assert kept(convert(normed(200), tmp_path / "half.onnx")) == {"norm"}
    assert kept(convert(normed(1), tmp_path / "half.onnx")) == set()


def test_a_weight_that_is_too_large_for_fp16_is_kept(tmp_path: Path) -> None:
    stored = {"w": weights(16, 3, 3, 3), "big": np.float32(1e6), "back": np.float32(1e-6), **HEAD_WEIGHTS}
    nodes = [
        made("Mul", ["image", "back"], ["small"], name="small"),
        made("Mul", ["small", "big"], ["same"], name="same"),
        conv("features", "same", "w"),
        *HEAD,
    ]
    result = convert(saved(tmp_path / "m.onnx", nodes, stored), tmp_path / "half.onnx")
    assert "same" in kept(result)
    assert drift(tmp_path / "m.onnx", result) < 0.005


def test_a_weight_shared_with_a_kept_node_is_not_rounded_for_it(tmp_path: Path) -> None:
    """Exporters and simplifiers keep one copy of equal constants; converters round it for everybody."""
    stored = {"w": weights(16, 3, 3, 3), "tiny": weights(1, 3, 1, 1, scale=1e-9), **HEAD_WEIGHTS}
    nodes = [
        made("Mul", ["image", "tiny"], ["faint"], name="kept_product"),
        made("Div", ["faint", "tiny"], ["back"], name="kept_quotient"),
        made("Add", ["back", "tiny"], ["as_was"], name="addition"),
        conv("features", "as_was", "w"),
        *HEAD,
    ]
    source = saved(tmp_path / "m.onnx", nodes, stored)
    result = convert(source, tmp_path / "half.onnx")
    assert kept(result) == {"kept_product", "kept_quotient"}
    assert drift(source, result) < 0.005


def test_constants_of_every_form_are_converted(tmp_path: Path) -> None:
    nodes = [
        made("Constant", [], ["double"], name="double", value_float=2.0),
        made("Constant", [], ["halves"], name="halves", value_floats=[0.5] * 8),
        made("Mul", ["image", "double"], ["twice"], name="twice"),
        made("Mul", ["twice", "halves"], ["once"], name="once"),
        conv("features", "once", "w"),
        *HEAD,
    ]
    source = saved(tmp_path / "m.onnx", nodes, {"w": weights(16, 3, 3, 3), **HEAD_WEIGHTS})
    assert drift(source, convert(source, tmp_path / "half.onnx")) < 0.005


def test_kept_neighbours_share_their_casts(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx", loud=1e5)
    result = convert(source, tmp_path / "half.onnx")
    # Two at the ends, one before the kept three and one after them.
    assert count_casts(onnx.load(result)) == 4
    everything = tmp_path / "more.onnx"
    excluded = step(exclude_nodes=["relu", "first"], exclude_op_types=["GlobalAveragePool", "Gemm"])
    fp16(excluded, source, everything, None, PHOTOS)
    # From the image to the scale without a cast; the flattening between two kept nodes is kept as well.
    assert count_casts(onnx.load(everything)) == 2
    assert computed_in(everything, "flatten") == FLOAT
    assert [node.name for node in onnx.load(everything).graph.node][:2] == ["first", "relu"]


def test_casts_that_undo_each_other_are_merged_and_outputs_keep_their_names(tmp_path: Path) -> None:
    nodes = [
        made("Cast", ["image"], ["half"], name="down", to=FLOAT16),
        made("Cast", ["half"], ["whole"], name="up", to=FLOAT),
        conv("features", "whole", "w"),
        *HEAD,
        made("Cast", ["logits"], ["logits_half"], name="down_again", to=FLOAT16),
        made("Cast", ["logits_half"], ["answer"], name="up_again", to=FLOAT),
    ]
    stored = {"w": weights(16, 3, 3, 3), **HEAD_WEIGHTS}
    source = saved(tmp_path / "m.onnx", nodes, stored, logits="answer")
    assert count_casts(onnx.load(source)) == 4
    tidy = without_cast_pairs(onnx.load(source))
    onnx.checker.check_model(tidy, full_check=True)
    assert count_casts(tidy) == 0
    assert [node.output[0] for node in tidy.graph.node] == ["features", "pooled", "flat", "answer"]


def test_exclusions_go_on_working_beside_what_is_found(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx")
    result = convert(source, tmp_path / "half.onnx", exclude_nodes=["fir*"], exclude_op_types=["Gemm"])
    assert kept(result) == set()  # they were asked for, not found
    assert [computed_in(result, name) for name in ("first", "second", "head")] == [FLOAT, FLOAT16, FLOAT]
    message, hint = message_of(source, tmp_path / "none.onnx", exclude_nodes=["frist"])
    assert message == "fp16.exclude_nodes: no node is named `frist`"
    assert "`first`" in hint


def test_a_file_that_would_mostly_compute_in_fp32_is_refused(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx")
    message, hint = message_of(source, tmp_path / "half.onnx", exclude_nodes=["second", "third"])
    assert message == "step `fp16`: 9% of the multiplications are in fp16, the others were left in fp32"
    assert "exclude fewer nodes" in hint


def test_a_network_that_fp16_would_mostly_harm_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx", loud=1e5)
    message, hint = message_of(source, tmp_path / "half.onnx", exclude_nodes=["third"])
    assert "(FP16 would harm 3 nodes: `second`, as `second` reaches" in message
    assert "bf16" in hint


def test_without_keep_sensitive_an_overflow_is_refused_with_the_way_out(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx", loud=1e5)
    message, hint = message_of(source, tmp_path / "half.onnx", keep_sensitive=False)
    assert message.startswith("step `fp16`: the activation `second` reaches ")
    assert message.endswith("; fp16 ends at 65504")
    assert "`keep_sensitive: true`" in hint


def test_a_network_that_overflows_everywhere_is_refused_with_the_reason(tmp_path: Path) -> None:
    nodes = [made("Mul", ["image", "big"], ["loud"], name="loud"), conv("features", "loud", "w"), *HEAD]
    stored = {"big": np.float32(1e7), "w": weights(16, 3, 3, 3), **HEAD_WEIGHTS}
    message, hint = message_of(saved(tmp_path / "m.onnx", nodes, stored), tmp_path / "half.onnx")
    assert message == "fp16: no weight was converted"
    assert "`loud` stays in FP32 because" in hint


def test_photos_to_calibrate_on_come_before_samples(tmp_path: Path) -> None:
    """White photos overflow, and the black samples would not have shown it."""
    np.save(tmp_path / "pixels.npy", np.full((3, 8, 8, 3), 255, np.uint8))
    white = Images(tmp_path / "pixels.npy", (0, 0, 0), CONTRACT, "digest")
    black = np.zeros((1, 3, 8, 8), np.float32)
    source = chain(tmp_path / "m.onnx", loud=1e5)
    fp16(step(), source, tmp_path / "white.onnx", white, black)
    assert "second" in kept(tmp_path / "white.onnx")
    fp16(step(), source, tmp_path / "black.onnx", None, black)
    assert "second" not in kept(tmp_path / "black.onnx")


def test_the_log_and_the_file_say_what_was_kept_and_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "workbench")
    result = convert(chain(tmp_path / "m.onnx", loud=1e5), tmp_path / "half.onnx")
    log = caplog.text
    assert "fp16: 3 sensitive nodes kept in FP32: `second` (`second` reaches" in log
    assert "% of the multiplications in FP16, 4 casts" in log
    (noted,) = onnx.load(result).metadata_props
    assert set(json.loads(noted.value)) == {"kept", "half_share", "casts"}
    assert notes_of(tmp_path / "m.onnx") is None


def test_sizes_are_computed_in_fp32(tmp_path: Path) -> None:
    """In FP16 a factor of 2.2 is 2.1992, and 300 pixels become 659 and not 660."""
    stored = {
        "w": weights(16, 3, 3, 3), "factor": np.float32(2.2), "ends": np.array([2], np.int64),
        "last": np.array([4], np.int64), "one": np.ones(2, np.float32), **HEAD_WEIGHTS,
    }  # fmt: skip
    nodes = [
        made("Shape", ["image"], ["shape"], name="shape"),
        made("Slice", ["shape", "ends", "last"], ["sides"], name="sides"),
        made("Cast", ["sides"], ["float_sides"], name="float_sides", to=FLOAT),
        made("Mul", ["float_sides", "factor"], ["larger"], name="larger"),
        made("Div", ["larger", "float_sides"], ["scale"], name="scale"),
        made("Concat", ["one", "scale"], ["scales"], name="scales", axis=0),
        made("Resize", ["image", "", "scales"], ["resized"], name="resize", mode="linear"),
        conv("features", "resized", "w"),
        *HEAD,
    ]
    source = saved(tmp_path / "m.onnx", nodes, stored)
    result = convert(source, tmp_path / "half.onnx")
    assert kept(result) == {"float_sides", "larger", "scale", "scales"}
    assert drift(source, result) < 0.005


def test_operators_that_onnx_defines_for_fp32_alone_stay_there(tmp_path: Path) -> None:
    nodes = [
        conv("first", "image", "w"),
        made("Celu", ["first"], ["celu"], name="celu"),
        made("HardSwish", ["celu"], ["features"], name="hardswish"),
        *HEAD,
    ]
    source = saved(tmp_path / "m.onnx", nodes, {"w": weights(16, 3, 3, 3), **HEAD_WEIGHTS})
    result = convert(source, tmp_path / "half.onnx")
    assert [computed_in(result, name) for name in ("celu", "hardswish")] == [FLOAT, FLOAT16]


def test_nodes_without_names_can_be_kept(tmp_path: Path) -> None:
    chain(tmp_path / "m.onnx", loud=1e5)
    model = onnx.load(tmp_path / "m.onnx")
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "m.onnx")
    result = convert(tmp_path / "m.onnx", tmp_path / "half.onnx")
    assert kept(result) == {"Conv_second", "Clip_clipped", "Mul_scaled"}


def test_files_that_list_their_weights_as_inputs_can_be_converted(tmp_path: Path) -> None:
    model = onnx.load(chain(tmp_path / "m.onnx"))
    for weight in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, FLOAT, weight.dims))
    model.ir_version = 3
    onnx.save(model, tmp_path / "m.onnx")
    result = convert(tmp_path / "m.onnx", tmp_path / "half.onnx")
    assert half_share(onnx.load(result)) == 1.0


def test_control_flow_that_the_converter_gets_wrong_is_a_clear_error(tmp_path: Path) -> None:
    branches = [
        onnx.helper.make_graph(
            [made("CumSum", ["image", axis], [f"{axis}_sum"], name=axis)],  # kept by its operator
            axis,
            [],
            [onnx.helper.make_tensor_value_info(f"{axis}_sum", FLOAT, None)],
        )
        for axis in ("two", "three")
    ]
    stored = {
        "w": weights(16, 3, 3, 3), "yes": np.array(True), "two": np.array(2), "three": np.array(3),
        **HEAD_WEIGHTS,
    }  # fmt: skip
    then, other = branches
    nodes = [
        made("If", ["yes"], ["summed"], name="if", then_branch=then, else_branch=other),
        conv("features", "summed", "w"),
        *HEAD,
    ]
    source = saved(tmp_path / "m.onnx", nodes, stored)
    message, hint = message_of(source, tmp_path / "half.onnx")
    assert "onnxruntime's converter writes a graph that does not run" in message
    assert hint == "it has `If`, which the converter gets wrong: put `simplify` before `fp16`"


def test_masks_and_tokens_of_transformers_are_no_reason_to_keep_them(tmp_path: Path) -> None:
    """A fill of -3.4e38 that no photo shows, and a weight that is expanded to the size of the batch."""
    stored = {
        "w": weights(16, 3, 3, 3), "token": weights(1, 16, 1, 8), "fill": np.float32(-3.4e38),
        "zero": np.array([0]), "rest": np.array([16, 1, 8]), "always": np.array(True), **HEAD_WEIGHTS,
    }  # fmt: skip
    nodes = [
        conv("patches", "image", "w"),
        made("Shape", ["image"], ["shape"], name="shape"),
        made("Gather", ["shape", "zero"], ["batch"], name="batch"),
        made("Concat", ["batch", "rest"], ["wanted"], name="wanted", axis=0),
        made("Expand", ["token", "wanted"], ["tokens"], name="expand"),
        made("Concat", ["tokens", "patches"], ["all"], name="all", axis=2),
        made("Where", ["always", "all", "fill"], ["masked"], name="mask"),
        made("Softmax", ["masked"], ["features"], name="softmax", axis=1),
        *HEAD,
    ]
    source = saved(tmp_path / "m.onnx", nodes, stored)
    result = convert(source, tmp_path / "half.onnx")
    assert kept(result) == set()
    assert computed_in(result, "softmax") == FLOAT16
    assert drift(source, result) < 0.005


@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 14), ("dynamo", 18)])
def test_attention_as_torch_exports_it_is_converted_whole(tmp_path: Path, exporter: Any, opset: int) -> None:
    torch = pytest.importorskip("torch", reason="the network is exported from torch")
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="the dynamo exporter needs it")
    from workbench.model.export.export import export_onnx
    from workbench.model.export.settings import Export

    class Tiny(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 16, 2, 2)
            self.norm = torch.nn.LayerNorm(16)
            self.mixed = torch.nn.Linear(16, 48)
            self.head = torch.nn.Linear(16, 4)

        def forward(self, image: Any) -> Any:
            tokens = self.patches(image).flatten(2).transpose(1, 2)
            q, k, v = self.mixed(self.norm(tokens)).unsqueeze(1).chunk(3, dim=-1)
            attended = torch.nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1)
            return self.head(torch.nn.functional.gelu(tokens + attended).mean(dim=1))

    torch.manual_seed(0)
    source = tmp_path / "m.onnx"
    export_onnx(Tiny().eval(), Export(exporter=exporter, opset=opset), source, (1, 3, 8, 8), PHOTOS)
    result = convert(source, tmp_path / "half.onnx")
    found = notes_of(result)
    assert found is not None
    assert (found.kept, found.half_share, found.casts) == ({}, 1.0, 2)
    assert drift(source, result) < 0.01
