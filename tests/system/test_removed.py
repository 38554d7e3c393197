"""What earlier versions wrote with fields that are gone still loads; what they no longer mean is an error."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from workbench.backends import RUNTIME, SETTINGS, OrtRuntime
from workbench.backends.audit import Audit
from workbench.errors import WorkbenchError
from workbench.registry.manifest import parse_manifest
from workbench.results.folder import RunFolder
from workbench.results.verdict import compare
from workbench.steps.int8.settings import Calibration, StaticInt8

# Never rewrite these files: they were written by the last version that had the removed fields.
SAVED = Path(__file__).parents[1] / "data" / "records-v1"


def test_a_run_with_removed_fields_still_loads() -> None:
    run = RunFolder(SAVED)
    assert (
        '"arena"' in (SAVED / "run.json").read_text() and "as_asked" in (SAVED / "trials.jsonl").read_text()
    )
    info, trials = run.info(), run.trials()
    assert compare(info, trials).winner == "fp16[cuda]"
    assert info.runtimes["baseline"] == OrtRuntime()
    assert [environment.seconds for environment in info.environments] == [1.5, 1.4]
    assert info.conditions is not None and info.conditions.gpu is not None
    assert info.conditions.gpu.power_limit_w == 700.0
    int8 = trials[1]
    assert int8.audit is not None and int8.audit.computes == "int8"
    assert int8.saturation is not None and int8.saturation.layers_at_risk == ("/stem/Conv",)


def test_a_trial_on_a_removed_runtime_stays_in_the_run_without_its_runtime() -> None:
    run = RunFolder(SAVED)
    assert "fp16[cuda,tensorrt]" in [trial.variant for trial in run.trials()]
    assert set(run.info().runtimes) == {"baseline", "int8-static[method=minmax]", "fp16[cuda]"}


def test_a_manifest_with_removed_fields_still_loads() -> None:
    path = SAVED / "manifest.json"
    manifest = parse_manifest(path.read_bytes(), path)
    assert manifest.runtime == OrtRuntime(threads=2)
    assert manifest.measured.audit is not None


# The fields that every runtime was written with, whatever its backend, at values that change nothing.
FLAT = {
    "profile": "shared", "threads": None, "batch": 1, "provider": None, "precision": None, "streams": None,
    "compile": False, "cuda_graph": False, "max_batch": None, "graph_level": "all", "spinning": None,
    "execution_mode": "sequential", "arena": True, "prepacking": True, "flush_denormals": False,
    "workspace_mb": None, "builder_level": None, "hardware_compatible": False, "version_compatible": False,
}  # fmt: skip


@pytest.mark.parametrize("backend", SETTINGS)
def test_a_runtime_with_the_fields_of_all_backends_still_loads(backend: str) -> None:
    own = {"backend": backend, "device": SETTINGS[backend].DEVICES[0], "threads": 2}
    runtime = RUNTIME.validate_python({**FLAT, **own})
    assert runtime == RUNTIME.validate_python(own)
    assert RUNTIME.validate_json(runtime.model_dump_json()) == runtime


def test_a_runtime_without_a_backend_is_onnxruntimes() -> None:
    assert RUNTIME.validate_python({"device": "cpu", "provider": None, "threads": 1}) == OrtRuntime(threads=1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"arena": true', '"arena": false', "`arena: False` was removed"),
        ('"builder_level": null', '"builder_level": 5', "`builder_level: 5` was removed"),
        ('"graph_level": "all"', '"graph_level": "layout"', "`graph_level: layout` was removed"),
        ('"provider": null', '"provider": "tensorrt"', "`provider: tensorrt` was removed"),
        ('"layers_at_risk"', '"layers_at_rest"', "measured.saturation.layers_at_rest: Extra inputs"),
    ],
)
def test_a_bundle_that_asks_for_what_was_removed_is_refused_with_its_name(
    old: str, new: str, said: str
) -> None:
    path = SAVED / "manifest.json"
    text = path.read_text()
    assert old in text
    with pytest.raises(WorkbenchError, match=said):
        parse_manifest(text.replace(old, new, 1).encode(), path)


def test_recipes_that_say_the_old_defaults_mean_the_same() -> None:
    # As `tune` wrote them: it copied a calibration with all its fields.
    calibration: dict[str, Any] = {"method": "entropy", "images": 50, "deviations": 12.0, "bins": 2048}
    old = {"use": "static_int8", "format": "qdq", "symmetric": None, "only_nodes": [], "overrides": []}
    found = StaticInt8.model_validate({**old, "calibration": calibration})
    assert found == StaticInt8(use="static_int8", calibration=Calibration(method="entropy", images=50))


@pytest.mark.parametrize(
    "asked",
    [
        {"format": "qoperator"},
        {"symmetric": True},
        {"only_nodes": ["a"]},
        {"overrides": [{"nodes": ["a"], "method": "minmax"}]},
        {"calibration": {"method": "distribution"}},
        {"calibration": {"bins": 4096}},
    ],
)
def test_recipes_that_ask_for_what_was_removed_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="was removed in this version"):
        StaticInt8.model_validate({"use": "static_int8", **asked})


def test_only_what_was_removed_is_dropped() -> None:
    assert Audit.model_validate({"verdict": "v", "as_asked": False}) == Audit(verdict="v")
    with pytest.raises(ValidationError, match="Extra inputs"):
        Audit.model_validate({"verdict": "v", "as_told": False})
