"""Intervals of tail percentiles: rounds are the blocks."""

import math

import numpy as np
import pytest

from workbench.measure.tails import percentile_interval


def session(rng: np.random.Generator, *, rounds: int, launch_sd: float) -> list[list[float]]:
    """Rounds of 300 calls, whose launches differ by as much."""
    return [np.exp(rng.normal(0, launch_sd) + rng.normal(0, 0.03, 300)).tolist() for _ in range(rounds)]


@pytest.mark.parametrize("launch_sd", [0.0, 0.014])
@pytest.mark.parametrize("rounds", [6, 12])
@pytest.mark.parametrize("fraction", [0.95, 0.99])
def test_the_interval_holds_the_percentile_of_all_launches(
    fraction: float, rounds: int, launch_sd: float
) -> None:
    rng = np.random.default_rng(7)
    calls = rng.normal(0, math.hypot(launch_sd, 0.03), 10**6)
    truth = float(np.exp(np.quantile(calls, fraction)))
    sessions = (session(rng, rounds=rounds, launch_sd=launch_sd) for _ in range(200))
    found = [each for s in sessions if (each := percentile_interval(s, fraction)) is not None]
    assert len(found) >= 160
    assert np.mean([low <= truth <= high for low, high in found]) >= 0.92


def test_launches_that_differ_widen_it_and_fewer_than_six_give_none() -> None:
    rng = np.random.default_rng(1)
    alike, apart = (percentile_interval(session(rng, rounds=8, launch_sd=sd), 0.95) for sd in (0.0, 0.05))
    assert alike is not None
    assert apart is not None
    assert apart[1] - apart[0] > 2 * (alike[1] - alike[0])
    assert percentile_interval(session(rng, rounds=5, launch_sd=0.0), 0.95) is None


def test_where_all_calls_above_are_of_one_launch_the_interval_reaches_them() -> None:
    rounds = [[100.0] * 300 for _ in range(11)] + [[200.0] * 300]
    assert percentile_interval(rounds, 0.9) == (100.0, 200.0)


def test_few_calls_do_not_bound_a_percentile() -> None:
    assert percentile_interval([[float(call) for call in range(20)]] * 6, 0.99) is None


def test_equal_calls_have_an_interval_without_width() -> None:
    assert percentile_interval([[5.0] * 300] * 6, 0.95) == (5.0, 5.0)
