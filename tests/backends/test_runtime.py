"""Profiles, threads, batches and the options of each backend: what a runtime asks of this machine."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from workbench.backends import RUNTIME, SETTINGS, OrtRuntime
from workbench.backends.base import Hint, RuntimeSettings
from workbench.system.machine import usable_cores

CORES = usable_cores()


def test_shared_is_the_default_one_thread_a_session_and_a_session_a_processor() -> None:
    assert OrtRuntime().profile == "shared"
    assert (OrtRuntime().intra_threads, OrtRuntime().sessions, OrtRuntime().batch) == (1, CORES, 1)


def test_latency_gives_every_processor_to_one_session() -> None:
    runtime = OrtRuntime(profile="latency")
    assert (runtime.intra_threads, runtime.sessions) == (CORES, 1)


@pytest.mark.parametrize("profile", ["shared", "latency"])
@pytest.mark.parametrize("threads", [1, 2, 3, CORES, 10 * CORES])
def test_threads_that_are_named_count_and_no_processor_is_promised_twice(profile: str, threads: int) -> None:
    runtime = RUNTIME.validate_python({"profile": profile, "threads": threads})
    assert runtime.intra_threads == threads
    assert runtime.sessions >= 1
    assert runtime.sessions == 1 or runtime.sessions * threads <= CORES < (runtime.sessions + 1) * threads


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"batch": 0}, {"batch": -1}, {"profile": "fast"}, {"batch": 1.5}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RUNTIME.validate_python(wrong)


@pytest.mark.parametrize("change", [{"profile": "latency"}, {"threads": 2}, {"batch": 8}])
def test_a_runtime_that_behaves_otherwise_is_another_and_survives_being_saved(
    change: dict[str, object],
) -> None:
    changed = RUNTIME.validate_python(change)
    assert changed != OrtRuntime()
    assert RUNTIME.validate_json(changed.model_dump_json()) == changed


# A value of each option that not every backend has, other than its default.
OPTIONS: dict[str, Any] = {
    "provider": "cpu",
    "graph_level": "basic",
    "spinning": True,
    "streams": 2,
    "compile": True,
    "cuda_graph": True,
    "max_batch": 16,
    "full_delegation": "required",
}


def placed(backend: str, option: str) -> dict[str, Any]:
    """A runtime of this backend with the option set, on the device that both run on."""
    fields = {"backend": backend, option: OPTIONS[option]}
    if backend == "tensorrt" or (option == "cuda_graph" and "cuda" in SETTINGS[backend].DEVICES):
        fields["device"] = "cuda"
    return fields


def test_every_option_of_a_backend_is_known_here() -> None:
    known = {name for settings in SETTINGS.values() for name in settings.model_fields}
    assert set(OPTIONS) == known - set(RuntimeSettings.model_fields)


@pytest.mark.parametrize("backend", sorted(SETTINGS))
@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_is_taken_by_the_backends_that_have_it_and_refused_by_the_others(
    backend: Any, option: str
) -> None:
    fields = placed(backend, option)
    if option in SETTINGS[backend].model_fields:
        runtime = RUNTIME.validate_python(fields)
        assert getattr(runtime, option) == OPTIONS[option]
        assert runtime != RUNTIME.validate_python({name: fields[name] for name in fields if name != option})
        return
    with pytest.raises(ValidationError, match=f"`{option}` belongs to .*; backend `{backend}` has none"):
        RUNTIME.validate_python(fields)


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "cuda", "provider": "openvino"},
        {"device": "cuda", "provider": "cpu"},
        {"provider": "cuda"},
        {"graph_level": "most"},
        {"cuda_graph": True},
        {"backend": "torch", "cuda_graph": True},
        {"backend": "tensorrt"},
        {"backend": "tensorrt", "device": "cuda", "max_batch": 8, "batch": 16},
        {"backend": "openvino", "device": "cuda"},
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RUNTIME.validate_python(wrong)


@pytest.mark.parametrize("backend", sorted(SETTINGS))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", get_args(Hint))
def test_a_precision_is_taken_where_the_backend_has_it_and_the_answer_lists_those_it_has(
    backend: Any, device: str, precision: str
) -> None:
    plain = {"backend": backend, "device": device}
    has = SETTINGS[backend].PRECISIONS.get(device, ())
    if precision in has:
        assert RUNTIME.validate_python({**plain, "precision": precision}).precision == precision
        return
    with pytest.raises(ValidationError) as caught:
        RUNTIME.validate_python({**plain, "precision": precision})
    if backend in ("onnxruntime", "tensorrt") and has:
        assert f"it takes {' or '.join(sorted(has))}; fp16 is a step of the recipe" in str(caught.value)


def test_an_option_that_several_backends_have_is_said_to_belong_to_all_of_them() -> None:
    with pytest.raises(
        ValidationError, match="`cuda_graph` belongs to onnxruntime, tensorrt, torch; backend"
    ):
        RUNTIME.validate_python({"backend": "openvino", "cuda_graph": True})


@pytest.mark.parametrize("word", ["fp16", "float16", "half"])
@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_fp16_is_answered_with_the_step_and_not_with_a_precision_that_is_refused_next(
    backend: str, word: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        RUNTIME.validate_python({"backend": backend, "device": "cuda", "precision": word})
    assert (
        f"precision `{word}` does not exist for {backend}: fp16 is a step of the recipe, "
        "`steps: [{use: fp16}]`" in str(caught.value)
    )
    with pytest.raises(ValidationError, match="Input should be 'f32', 'tf32', 'bf16' or 'f16'"):
        RUNTIME.validate_python({"backend": "torch", "device": "cuda", "precision": word})


def test_the_gpu_provider_of_onnxruntime_runs_on_cuda() -> None:
    runtime = OrtRuntime(device="cuda", provider="cuda", cuda_graph=True, precision="tf32")
    assert RUNTIME.validate_json(runtime.model_dump_json()) == runtime


def test_the_openvino_provider_runs_on_the_cpu() -> None:
    assert OrtRuntime(provider="openvino").device == "cpu"
