"""Intervals of tail percentiles: rounds are the blocks."""

import math

import numpy as np
import pytest

from workbench.measure.tails import percentile_interval, tail_log_ratios


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


def columns(times: dict[str, list[list[int]]]) -> dict[str, np.ndarray]:
    """As `samples.hot_calls` gives them. times: of each variant, the calls of each round."""
    rows = [
        (name, number, call)
        for name, rounds in times.items()
        for number, calls in enumerate(rounds)
        for call in calls
    ]
    names, numbers, calls = (np.asarray(column) for column in zip(*rows, strict=True))
    everywhere = {"session": np.full(len(rows), "final"), "heat": np.zeros(len(rows), np.int64)}
    return {"variant": names, "round": numbers, "time_ns": calls, **everywhere}


def test_tails_are_paired_by_the_round_and_counted_by_the_photo() -> None:
    plain = [list(range(1, 101)), [10 * time for time in range(1, 101)], [1] * 10]
    twice = [[2 * time for time in calls] for calls in plain]
    calls = columns({"baseline": plain, "twice": twice})
    # The third round has too few calls for a 95th percentile.
    found = tail_log_ratios(calls, "twice", "baseline", 0.95, {}, "final")
    assert found == pytest.approx((math.log(2), math.log(2)))
    found = tail_log_ratios(calls, "twice", "baseline", 0.95, {"twice": 2}, "final")
    assert found == pytest.approx((0, 0))
    assert tail_log_ratios(calls, "twice", "baseline", 0.95, {}, "race") == ()
