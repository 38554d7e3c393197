"""The centre of launches and its interval, on values whose distribution is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workbench.measure.launches import LEAST, centre, interval, p_value
from workbench.measure.student_t import student_t_quantile, two_sided_p

Array = NDArray[np.float64]
SESSIONS = 1500
VALUES = st.lists(st.floats(-0.5, 0.5).map(lambda value: round(value, 4)), min_size=6, max_size=24)


def test_up_to_nine_launches_are_a_plain_mean_with_students_interval() -> None:
    values = [0.03, -0.01, 0.02, 0.04, 0.0, 0.01]
    low, high = interval(values) or (0.0, 0.0)
    assert centre(values) == pytest.approx(0.015)
    # The standard deviation is 0.0187, and 2.571 the quantile of 5 degrees of freedom.
    assert (low, high) == pytest.approx((0.015 - 0.01963, 0.015 + 0.01963), abs=1e-5)


def test_of_ten_launches_the_lowest_and_the_highest_count_as_their_neighbours() -> None:
    values = [-5.0, 0.01, 0.01, 0.02, 0.02, 0.03, 0.03, 0.04, 0.04, 9.0]
    low, high = interval(values) or (0.0, 0.0)
    assert centre(values) == pytest.approx(0.025)
    # Winsorised variance 0.001450/9 over 10 values; Yuen's error is its root times sqrt(9 / (8 * 7)).
    error = math.sqrt(0.00145 / 9) * math.sqrt(9 / 56)
    assert (low, high) == pytest.approx((0.025 - 2.36462 * error, 0.025 + 2.36462 * error), abs=1e-6)


@pytest.mark.parametrize("count", range(1, LEAST))
def test_five_launches_or_fewer_give_a_centre_and_no_interval(count: int) -> None:
    values = [0.1] * count
    assert centre(values) == pytest.approx(0.1)
    assert interval(values) is None
    assert p_value(values) == 1.0


@given(VALUES, st.sampled_from([0.8, 0.95, 0.995]))
def test_the_test_rejects_zero_exactly_where_the_interval_excludes_it(
    values: list[float], confidence: float
) -> None:
    low, high = interval(values, confidence) or (0.0, 0.0)
    if min(abs(low), abs(high)) > 1e-9:
        assert (p_value(values) < 1 - confidence) == (not low <= 0 <= high)


@given(VALUES, st.floats(-1, 1), st.floats(0.1, 10))
def test_another_scale_and_another_zero_move_the_interval_along(
    values: list[float], shift: float, scale: float
) -> None:
    moved = [scale * value + shift for value in values]
    low, high = interval(values) or (0.0, 0.0)
    assert interval(moved) == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-9)


def test_launches_that_agree_to_the_last_digit_leave_no_doubt() -> None:
    assert interval([0.0] * 8) == (0.0, 0.0)
    assert p_value([0.0] * 8) == 1.0
    assert p_value([0.5] * 8) == 0.0


def normal(rng: np.random.Generator, count: int) -> Array:
    return rng.normal(0, 0.014, (SESSIONS, count))


def uniform(rng: np.random.Generator, count: int) -> Array:
    return rng.uniform(-0.03, 0.03, (SESSIONS, count))


def one_in_25_far_off(rng: np.random.Generator, count: int) -> Array:
    def effects() -> Array:
        far = rng.random((SESSIONS, count)) < 0.04
        return np.where(far, rng.normal(0, 0.08, far.shape), rng.normal(0, 0.014, far.shape))

    return effects() - effects()


# True coverages are 94 to 96.5 %; 92 % of 1,500 sessions is 3.5 standard deviations below the lowest.
@pytest.mark.parametrize("count", [6, 10, 20])
@pytest.mark.parametrize("kind", [normal, uniform, one_in_25_far_off])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    kind: Callable[[np.random.Generator, int], Array], count: int
) -> None:
    sessions = kind(np.random.default_rng(count), count).tolist()
    held = sum(low <= 0 <= high for low, high in map(interval, sessions))  # type: ignore[misc]
    assert 0.92 <= held / SESSIONS <= 0.98


def test_a_rare_slow_launch_of_one_side_does_not_break_the_interval() -> None:
    rng = np.random.default_rng(0)

    def drawn(shape: tuple[int, int]) -> list[list[float]]:
        slow = np.where(rng.random(shape) < 0.04, rng.uniform(0.05, 0.15, shape), 0.0)
        found: list[list[float]] = (slow + rng.normal(0, 0.014, shape)).tolist()
        return found

    truth = float(np.mean([centre(values) for values in drawn((200, 120))]))
    held = [low <= truth <= high for low, high in map(interval, drawn((SESSIONS, 12)))]  # type: ignore[misc]
    assert 0.92 <= sum(held) / SESSIONS <= 0.98


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.975, 5, 2.571),
        (0.975, 20, 2.086),
        (0.95, 7, 1.895),
        (0.995, 1, 63.657),
        (0.995, 10, 3.169),
        (0.9995, 2, 31.599),
        (0.9995, 9, 4.781),
        (0.975, 1000, 1.962),
    ],
)
def test_students_quantiles_are_those_of_the_tables(
    probability: float, freedom: int, quantile: float
) -> None:
    assert student_t_quantile(probability, freedom) == pytest.approx(quantile, abs=0.0006)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 19, 20, 100])
@pytest.mark.parametrize("statistic", [0.0, 0.3, 1.0, -2.5, 12.0])
def test_students_tails_are_scipys(statistic: float, freedom: int) -> None:
    from scipy.special import stdtr

    assert two_sided_p(statistic, freedom) == pytest.approx(2 * stdtr(freedom, -abs(statistic)), abs=1e-14)
