"""How long a round is: for an interval that launches decide, and for percentiles of enough calls."""

import pytest

from workbench.measure.bursts import FEWEST_TURNS, plan_turns

LIMITS = {"least": 10, "most": 120, "longest_s": 0.3}


@pytest.mark.parametrize(
    ("call_ms", "calls", "turns"),
    [
        (0.01, 20, 120),  # 0.2 ms a burst: the most turns
        (0.5, 4, 28),  # 2 ms a burst: 110 calls take 0.06 s
        (1.5, 2, 55),  # 3 ms: 110 calls take 0.17 s
        (4.0, 1, 75),  # 0.3 s, and no longer
        (10.0, 1, 30),  # 0.3 s, and no longer
        (40.0, 1, 10),  # the fewest turns
    ],
)
def test_a_round_is_long_enough_for_its_calls_and_no_longer(call_ms: float, calls: int, turns: int) -> None:
    assert plan_turns({"a": call_ms * 1e6}, left_s=99.0, **LIMITS) == ({"a": calls}, turns)


def test_where_percentiles_may_take_less_time_slow_calls_get_fewer_turns() -> None:
    allowed = LIMITS | {"longest_s": 0.2}
    assert plan_turns({"a": 10e6}, left_s=99.0, **allowed) == ({"a": 1}, 20)
    assert plan_turns({"a": 0.5e6}, left_s=99.0, **allowed) == ({"a": 4}, 28)


def test_the_middle_variant_decides_for_all() -> None:
    times_ns = {"fast": 0.5e6, "middle": 4e6, "slow": 40e6}
    assert plan_turns(times_ns, left_s=99.0, **LIMITS) == ({"fast": 4, "middle": 1, "slow": 1}, 28)


@pytest.mark.parametrize(
    ("left_s", "calls", "turns"),
    [(0.03, 4, 12), (0.01, 4, FEWEST_TURNS), (0.005, 2, FEWEST_TURNS), (-1.0, 1, FEWEST_TURNS)],
)
def test_where_time_is_short_turns_get_fewer_and_then_bursts_shorter(
    left_s: float, calls: int, turns: int
) -> None:
    # A burst takes 2.5 ms with its cold call.
    assert plan_turns({"a": 0.5e6}, left_s=left_s, **LIMITS) == ({"a": calls}, turns)


def test_without_a_session_there_is_nothing_to_plan() -> None:
    assert plan_turns({}, left_s=1.0, **LIMITS) == ({}, 0)
