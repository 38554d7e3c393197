"""The needs of recipes: libraries by version, processor features, either of two."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from workbench.errors import FieldProblem
from workbench.system import machine
from workbench.system.packages import EXTRAS
from workbench.workspace.requirements import understood, unmet

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
HERE = {"openvino": "2025.3.0", "onnxruntime": "1.23.0rc1"}
ZEN4 = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16"})


def reason(*needs: str, flags: frozenset[str] = ZEN4) -> str | None:
    return unmet([understood(need) for need in needs], flags=flags, installed=HERE.get)


def test_installed_libraries_and_features_of_the_processor_meet_needs() -> None:
    assert reason() is None
    libraries = ("openvino", "OpenVINO >= 2025.0", "onnxruntime>=1.20,<2", "onnxruntime>=1.23.0rc1")
    for need in (*libraries, "avx512_vnni", "vnni", "amx | avx512_bf16", "nncf | openvino"):
        assert reason(need) is None, need


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        ("nncf>=2.15", "it needs nncf>=2.15: nncf is not installed: pip install 'krishi-bench[openvino]'"),
        ("timm", "it needs timm: timm is not installed: pip install 'timm'"),
        ("openvino>=2026", "it needs openvino>=2026: openvino 2025.3.0 is installed"),
        ("onnxruntime>=1.23", "it needs onnxruntime>=1.23: onnxruntime 1.23.0rc1 is installed"),
        ("amx", "it needs amx: this processor has no amx"),
        (
            "asimddp | i8mm",
            "it needs asimddp or i8mm: this processor has no asimddp; this processor has no i8mm",
        ),
    ],
)
def test_a_missing_need_is_a_reason_to_skip(need: str, expected: str) -> None:
    assert reason(need) == expected


def test_a_system_of_unknown_features_does_not_count_as_lacking_them() -> None:
    expected = "it needs avx2: this system does not tell what its processor has"
    assert reason("avx2", flags=frozenset()) == expected


@pytest.mark.parametrize("need", ["", "|", "avx2 |", ">=2", "openvno", "openvino>>2"])
def test_a_need_that_says_nothing_is_refused(need: str) -> None:
    with pytest.raises(FieldProblem) as caught:
        understood(need)
    assert caught.value.hint


def test_every_feature_is_one_that_the_machine_reports() -> None:
    assert set().union(*machine.FEATURE_GROUPS.values()) <= set(machine.FEATURES)


def test_the_extra_of_a_library_is_one_that_exists_and_brings_it() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    brought_along = {"cuda-bindings"}  # by cuda-python
    for name, extra in EXTRAS.items():
        if extra is not None and name not in brought_along:
            assert name in {Requirement(line).name for line in extras[extra]}, f"{extra} brings no {name}"


def test_by_default_this_machine_and_this_environment_are_asked() -> None:
    here = set(machine.collect().features)
    for name, features in machine.FEATURE_GROUPS.items():
        assert (unmet([name]) is None) == bool(features & here), name
    assert unmet(["onnxruntime-openvino==0.0.1"]) is not None
