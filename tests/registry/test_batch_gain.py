"""Whether photos of several requests should share a call: measured, and never where answers change."""

import time
from typing import Any

import numpy as np
import pytest

from workbench.registry.batch_gain import GAIN, batching_of, decide

PHOTOS = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)


def plain(batch: Any) -> Any:
    return batch.reshape(len(batch), -1)[:, :5].astype(np.float32)


def costing(seconds_a_call: float, seconds_a_photo: float) -> Any:
    def infer(batch: Any) -> Any:
        time.sleep(seconds_a_call + len(batch) * seconds_a_photo)
        return plain(batch)

    return infer


def test_where_a_call_costs_as_much_as_many_photos_batches_pay() -> None:
    found = batching_of(costing(0.004, 0.0), PHOTOS, fixed=0, sessions=1)
    assert found.size >= 8
    assert found.photos_per_s[found.size] > 4 * found.photos_per_s[1]
    assert found.why.startswith(f"calls of {found.size} photos do ")


@pytest.mark.parametrize(("call_s", "photo_s", "sessions"), [(0.0, 0.01, 1), (0.001, 0.001, 4)])
def test_where_each_photo_costs_the_same_or_sessions_do_as_much_they_do_not(
    call_s: float, photo_s: float, sessions: int
) -> None:
    assert batching_of(costing(call_s, photo_s), PHOTOS, fixed=0, sessions=sessions).size == 1


def test_a_network_whose_answers_depend_on_the_neighbours_never_gets_any() -> None:
    def infer(batch: Any) -> Any:
        return plain(batch) - batch.mean()

    found = batching_of(infer, PHOTOS, fixed=0, sessions=1)
    assert (found.size, found.why) == (1, "answers depend on the other photos of a batch")


@pytest.mark.parametrize("fixed", [1, 3, 8])
def test_of_a_fixed_batch_as_many_photos_are_gathered(fixed: int) -> None:
    def infer(batch: Any) -> Any:
        assert len(batch) <= fixed
        return plain(batch)

    found = batching_of(infer, PHOTOS, fixed=fixed, sessions=1)
    assert (found.size, found.photos_per_s) == (fixed, {})


@pytest.mark.parametrize(
    ("rates", "size"),
    [
        ({1: 100.0, 16: 100.0 * GAIN - 1}, 1),
        ({1: 100.0, 2: 150.0, 4: 196.0, 8: 200.0, 16: 190.0}, 4),
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 60.0}, 1),
        ({1: 5000.0, 16: 9000.0}, 1),  # 0.1 ms a photo
    ],
)
def test_the_smallest_size_that_is_nearly_the_fastest_is_taken(rates: dict[int, float], size: int) -> None:
    assert decide(rates).size == size
