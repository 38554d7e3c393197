"""What an engine is built for, and what is said where TensorRT cannot run."""

from pathlib import Path
from typing import Any

import pytest

from workbench.backends import Runtime, TensorrtRuntime
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.backends.tensorrt import backend
from workbench.backends.tensorrt.build import Sizes, plan_of
from workbench.errors import WorkbenchError


def info(batch: int = 0) -> ArtifactInfo:
    shape = (batch, 3, 8, 8)
    return ArtifactInfo(
        format="onnx", file="m.onnx", sha256="0" * 64, size_bytes=1, input_shape=shape, classes=5
    )


def asked(**fields: Any) -> Runtime:
    return TensorrtRuntime(device="cuda", **fields)


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({}, ((1, 1, 1), (2, 64, 64))),
        ({"max_batch": 1}, ((1, 1, 1),)),
        ({"max_batch": 16, "batch": 8}, ((1, 1, 1), (2, 8, 16))),
        ({"batch": 128}, ((1, 1, 1), (2, 128, 128))),
    ],
)
def test_profiles_are_one_photo_and_more(
    fields: dict[str, int], sizes: tuple[tuple[int, int, int], ...]
) -> None:
    plan = plan_of(info(), asked(**fields))
    assert plan.sizes == tuple(Sizes(*each) for each in sizes)
    assert [plan.profile(count) for count in range(1, plan.most + 1)] == [0, *[1] * (plan.most - 1)]


def test_a_fixed_batch_has_one_profile_of_its_size() -> None:
    plan = plan_of(info(4), asked())
    assert (plan.free, plan.sizes, plan.most) == (False, (Sizes(4, 4, 4),), 4)


def test_what_decides_an_engine_decides_where_it_is_kept() -> None:
    plans = [plan_of(info(), asked(**fields)) for fields in ({}, {"max_batch": 8}, {"precision": "tf32"})]
    assert len({plan.parts() for plan in [*plans, plan_of(info(4), asked())]}) == 4
    assert plan_of(info(), asked(cuda_graph=True)).parts() == plans[0].parts()


@pytest.mark.parametrize(("precision", "here"), [("tf32", "0"), ("f32", "1"), (None, "1")])
def test_a_variable_that_contradicts_the_precision_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str | None, here: str
) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed here", exc_type=ImportError)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", here)
    with pytest.raises(WorkbenchError, match=r"TF32 is switched o(n|ff) for this whole process"):
        backend.prepare(Artifact(tmp_path, info()), asked(precision=precision))
