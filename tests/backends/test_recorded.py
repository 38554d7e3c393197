"""Runtimes as results and bundles of before have them, every backend's fields in each."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from workbench.backends import RUNTIME, SETTINGS, OrtRuntime, TorchRuntime
from workbench.backends.recorded import REMOVED, WRITTEN, RecordedRuntime, RecordedRuntimes

READ: TypeAdapter[Any] = TypeAdapter(RecordedRuntime)
READ_ALL: TypeAdapter[dict[str, Any]] = TypeAdapter(RecordedRuntimes)
COMMON = {"device": "cpu", "profile": "shared", "threads": None, "batch": 1}


def written(backend: str, **fields: Any) -> dict[str, Any]:
    """A runtime as schema version 1 wrote it."""
    device = SETTINGS[backend].DEVICES[0]
    return {**COMMON, **WRITTEN, **REMOVED, "backend": backend, "device": device, **fields}


@pytest.mark.parametrize("backend", sorted(SETTINGS))
def test_fields_of_other_backends_are_left_out_where_they_ask_for_nothing(backend: str) -> None:
    found = READ.validate_python(written(backend, threads=2))
    device = SETTINGS[backend].DEVICES[0]
    assert found == RUNTIME.validate_python({"backend": backend, "device": device, "threads": 2})
    assert READ.validate_json(found.model_dump_json()) == found


def test_before_there_was_a_choice_the_backend_is_onnxruntime() -> None:
    assert READ.validate_python({"device": "cpu", "provider": None, "threads": 1}) == OrtRuntime(threads=1)


def test_a_field_of_another_backend_that_asks_for_something_is_refused() -> None:
    with pytest.raises(ValidationError, match="`streams` belongs to openvino; backend `torch` has none"):
        READ.validate_python(written("torch", streams=2))
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        READ.validate_python(written("torch", steams=None))


@pytest.mark.parametrize(
    ("field", "value"),
    [("arena", False), ("builder_level", 5), ("provider", "tensorrt"), ("graph_level", "layout")],
)
def test_a_setting_that_is_gone_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=f"`{field}: {value}` was removed in this version"):
        READ.validate_python(written("onnxruntime", **{field: value}))


def test_a_run_keeps_the_runtimes_that_there_still_are() -> None:
    runtimes = {
        "baseline": written("onnxruntime"),
        "fp16[cuda,tensorrt]": written("onnxruntime", device="cuda", provider="tensorrt"),
        "torch": written("torch", compile=True),
    }
    assert READ_ALL.validate_python(runtimes) == {
        "baseline": OrtRuntime(),
        "torch": TorchRuntime(compile=True),
    }


def test_a_recipe_is_told_whose_a_field_is_whatever_its_value() -> None:
    with pytest.raises(ValidationError, match="`streams` belongs to openvino"):
        RUNTIME.validate_python({"streams": None})
