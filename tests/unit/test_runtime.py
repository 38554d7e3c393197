"""Profiles, threads and batches: what a runtime asks of this machine."""

import pytest
from pydantic import ValidationError

from workbench.backends import Runtime
from workbench.machine import usable_cores

CORES = usable_cores()


def test_shared_is_the_default_one_thread_a_session_and_a_session_a_processor() -> None:
    assert Runtime().profile == "shared"
    assert (Runtime().intra_threads, Runtime().sessions, Runtime().batch) == (1, CORES, 1)


def test_latency_gives_every_processor_to_one_session() -> None:
    runtime = Runtime(profile="latency")
    assert (runtime.intra_threads, runtime.sessions) == (CORES, 1)


@pytest.mark.parametrize("profile", ["shared", "latency"])
@pytest.mark.parametrize("threads", [1, 2, 3, CORES, 10 * CORES])
def test_threads_that_are_named_count_and_no_processor_is_promised_twice(profile: str, threads: int) -> None:
    runtime = Runtime.model_validate({"profile": profile, "threads": threads})
    assert runtime.intra_threads == threads
    assert runtime.sessions >= 1
    assert runtime.sessions == 1 or runtime.sessions * threads <= CORES < (runtime.sessions + 1) * threads


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"batch": 0}, {"batch": -1}, {"profile": "fast"}, {"batch": 1.5}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Runtime.model_validate(wrong)


@pytest.mark.parametrize("change", [{"profile": "latency"}, {"threads": 2}, {"batch": 8}])
def test_a_runtime_that_behaves_otherwise_is_another_and_survives_being_saved(
    change: dict[str, object],
) -> None:
    changed = Runtime.model_validate(change)
    assert changed != Runtime()
    assert Runtime.model_validate_json(changed.model_dump_json()) == changed
