"""A server holds its runtime to the version that a bundle was published with."""

import logging
from typing import Any

import pytest

from serve.engine.runtime_version import check_version
from tests.builders import draft, error_of, trial
from workbench.backends import NullRuntime, OrtRuntime
from workbench.registry.manifest import Manifest
from workbench.system.packages import versions

HERE = versions("onnxruntime").get("onnxruntime", "none")


def manifest(**given: Any) -> Manifest:
    made = draft(**given)
    files = [
        {"path": "golden.npz", "size_bytes": 1, "sha256": "0" * 64},
        {"path": "model.bin", "size_bytes": made.artifact.size_bytes, "sha256": made.artifact.sha256},
    ]
    return Manifest.model_validate({**dict(made), "files": files})


@pytest.mark.skipif(HERE == "none", reason="onnxruntime is not installed")
def test_another_version_than_the_pinned_one_is_refused_with_the_remedy_unless_told_otherwise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pinned = manifest(runtime=OrtRuntime(version="1.0.0"))
    error = error_of(lambda: check_version(pinned, anyway=False))
    assert error.message == (
        f"leaf 1.0.0 was measured and published with onnxruntime 1.0.0, and {HERE} is installed here"
    )
    assert error.hint == (
        "`pip install onnxruntime==1.0.0`, or KRISHI_ANY_RUNTIME=1 to serve it with the installed one"
    )
    with caplog.at_level(logging.WARNING):
        check_version(pinned, anyway=True)
    assert "its speed and accuracy may be others" in caplog.text


def test_the_same_version_and_a_runtime_of_no_version_pass_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_version(
        manifest(runtime=OrtRuntime(version=HERE) if HERE != "none" else OrtRuntime()), anyway=False
    )
    check_version(manifest(runtime=NullRuntime()), anyway=False)
    check_version(manifest(runtime=OrtRuntime(), measured=trial("fp32", runtime_version=HERE)), anyway=False)
    assert caplog.text == ""


@pytest.mark.skipif(HERE == "none", reason="onnxruntime is not installed")
def test_where_no_version_is_pinned_another_one_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_version(
            manifest(runtime=OrtRuntime(), measured=trial("fp32", runtime_version="1.0.0")), anyway=False
        )
    assert f"onnxruntime 1.0.0, and {HERE} is installed here" in caplog.text
