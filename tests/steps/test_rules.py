"""Steps that a backend or an opset cannot have are refused when the recipe is read, GPU or not."""

from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.workspace import recipe

TENSORRT = "runtime: {backend: tensorrt, device: cuda}"


def read(folder: Path, steps: str, *lines: str) -> list[recipe.Variant]:
    path = folder / "r.yaml"
    path.write_text("\n".join(["name: r", *lines, f"steps: [{steps}]"]))
    return recipe.read(path)


@pytest.mark.parametrize(
    ("step", "what", "hint"),
    [
        ("{use: dynamic_int8}", "step `dynamic_int8` writes operators on integers", "onnxruntime"),
        ("{use: optimize}", "step `optimize` writes onnxruntime's own operators", "leave it out"),
        ("{use: static_int8}", "step `static_int8` writes uint8 activations", "placement: tensorrt"),
    ],
)
def test_what_tensorrt_does_not_take_is_said_without_a_gpu(
    tmp_path: Path, step: str, what: str, hint: str
) -> None:
    with pytest.raises(WorkbenchError) as caught:
        read(tmp_path, f"{{use: simplify}}, {step}", TENSORRT)
    assert "steps[1]" in caught.value.message
    assert f"{what}, which `tensorrt` does not take" in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "step", ["{use: static_int8, placement: tensorrt}", "{use: static_int8, activation: int8}"]
)
def test_signed_pairs_are_for_tensorrt(tmp_path: Path, step: str) -> None:
    assert len(read(tmp_path, step, TENSORRT)) == 1


def test_an_opset_that_is_too_old_for_a_step_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    step = "{use: static_int8, placement: tensorrt, rest: fp16}"
    with pytest.raises(WorkbenchError) as caught:
        read(tmp_path, step, "export: {opset: 18}")
    assert "`rest: fp16` needs opset 19" in caught.value.message
    assert caught.value.hint == "set `export.opset: 19`"
    assert read(tmp_path, step, "export: {opset: 19}")
    # The opset is left open: the model may come as an ONNX file of a newer one.
    assert read(tmp_path, step)
