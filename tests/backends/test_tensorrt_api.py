"""The names that are used of TensorRT and of `cuda-bindings` exist: in the records, and in the real ones."""

import ast
from pathlib import Path

import pytest

from tests.nvidia.surface import CLASSES, load, members, public

BACKENDS = Path(__file__).parents[2] / "workbench" / "backends"
SOURCES = sorted((BACKENDS / "tensorrt").glob("*.py"))
RECORDS = ("tensorrt-10.13", "tensorrt-11.4")
REMOVED = {
    "BuilderFlag": {"FP16", "INT8", "BF16", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"},
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH"},
    "IBuilderConfig": {"int8_calibrator", "set_calibration_profile", "set_quantization_flag"},
    "Builder": {"platform_has_fast_fp16", "platform_has_fast_int8", "platform_has_tf32"},
    "ICudaEngine": {"create_execution_context_without_device_memory", "device_memory_size"},
    "ITensor": {"dynamic_range", "set_dynamic_range"},
}


def words(paths: list[Path]) -> set[str]:
    """Every attribute and every string in the code, docstrings and comments aside."""
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_the_records_are_of_both_sides_of_the_break() -> None:
    old, new = map(load, RECORDS)
    for owner, names in REMOVED.items():
        before = set(old.enums[owner]) if owner in old.enums else old.classes[owner]
        after = set(new.enums[owner]) if owner in new.enums else new.classes[owner]
        assert names <= before
        assert not names & after
    assert old.enums["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 1
    assert new.enums["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"] == 0


def test_nothing_is_used_that_tensorrt_11_removed() -> None:
    used = words(SOURCES)
    assert not used & set().union(*REMOVED.values())
    assert not used & {"REFIT", "REFIT_IDENTICAL", "REFIT_INDIVIDUAL", "STRIP_PLAN"}


@pytest.mark.parametrize("record", RECORDS)
def test_what_is_asked_of_the_module_is_recorded(record: str) -> None:
    surface = load(record)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "trt"
            ):
                assert node.attr in surface.module | {"__version__"}, f"{path.name}: trt.{node.attr}"


def test_the_installed_tensorrt_has_the_names_that_are_used() -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed here", exc_type=ImportError)
    record = load(RECORDS[0] if trt.__version__.startswith("10.") else RECORDS[1])
    used = words(SOURCES)
    for owner in CLASSES:
        assert record.classes[owner] & used <= set(public(getattr(trt, owner))), owner
    for owner, recorded in record.enums.items():
        assert recorded.keys() & used <= members(trt, owner).keys(), owner


def test_the_real_cuda_has_the_names_that_are_used() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed here")
    used = {
        name
        for name in words([BACKENDS / "gpu" / "cuda.py"])
        if name.startswith("cuda") and name.isidentifier()
    }
    kinds = (real.cudaError_t, real.cudaMemcpyKind, real.cudaStreamCaptureMode)
    known = set(public(real)) | {member.name for kind in kinds for member in kind}
    assert used - known == set()


def test_the_real_cuda_says_what_is_wrong_where_there_is_no_gpu() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed here")
    from workbench.backends.gpu import cuda
    from workbench.errors import WorkbenchError
    from workbench.system.nvidia_check import missing_link

    if missing_link("GPU") is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(WorkbenchError, match="CUDA, while creating a stream"), cuda.stream():
        pass
