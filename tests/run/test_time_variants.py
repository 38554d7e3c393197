"""From timed sessions to trials: whose word counts, and what the noise floor is."""

import math
from collections.abc import Mapping

import pytest

from tests.builders import run_info, trial
from workbench.backends import ExecutorchRuntime, OrtRuntime
from workbench.measure.early_stopping import LostRace
from workbench.measure.latency import Measured, Plan, Sample, noise_floor
from workbench.measure.records import FINAL, RACE, TWIN
from workbench.measure.stats import Ratio
from workbench.results.history import with_latency
from workbench.results.reasons import Failed
from workbench.results.records import TrialResult
from workbench.run.time_variants import (
    RACE_ROUNDS,
    UNRACED_ROUNDS,
    _affordable,
    _final_rounds,
    _finalists,
    _may_win,
    with_rounds,
)


def session(times_ns: Mapping[str, int], rounds: int = 6, spread: float = 0.0) -> Measured:
    """Rounds of one turn each. spread: the last round's log-ratio to the baseline is off by as much."""
    measured = Measured()
    for number in range(rounds):
        for place, (name, time_ns) in enumerate(times_ns.items()):
            off = math.exp(spread * (number == rounds - 1)) if name != "baseline" else 1.0
            measured.samples += [
                Sample(name, number, place, 0, place, call, round(time_ns * off)) for call in range(3)
            ]
    return measured


TIMES = {"baseline": 4_000_000, TWIN: 4_000_000, "fast": 2_000_000, "slow": 8_000_000}


def speedups(trials: list[TrialResult]) -> dict[str, float]:
    return {
        t.variant: round(Ratio(t.latency.round_log_ratios).speedup, 2)
        for t in trials
        if t.latency is not None
    }


@pytest.fixture
def checked() -> list[TrialResult]:
    return [trial(name, latency=None) for name in ("baseline", "fast", "slow")]


def test_the_final_session_has_the_last_word_on_those_it_measured(checked: list[TrialResult]) -> None:
    again = {"baseline": 4_000_000, TWIN: 4_000_000, "fast": 2_500_000}
    got = with_latency(checked, {RACE: session(TIMES), FINAL: session(again)})
    assert speedups(got) == {"baseline": 1.0, "fast": 1.6, "slow": 0.5}
    assert [t.latency.confirmed for t in got if t.latency] == [True, True, False]


def test_a_program_for_phones_takes_no_place_from_what_a_server_opens() -> None:
    runtimes = {"program": ExecutorchRuntime(), "fast": OrtRuntime()}
    info = run_info(targets=("server", "android"), runtimes=runtimes)
    program = trial("program", backend="executorch", speedup=3.0, size_mb=2)
    other = trial("other", backend="executorch", speedup=4.0, size_mb=6)
    raced = [trial("baseline"), other, program, trial("fast", speedup=2.0), trial("next", speedup=1.5)]
    assert _finalists(info, raced) == ["baseline", "fast", "next", "program"]
    assert _finalists(info.model_copy(update={"targets": ("server",)}), raced) == ["baseline", "fast", "next"]
    phones = info.model_copy(update={"targets": ("android",)})
    assert _finalists(phones, raced) == ["baseline", "other", "program"]
    assert [_may_win(each, info) for each in (program, raced[3])] == [False, True]
    assert _may_win(program, phones)


def test_before_the_final_session_nothing_is_confirmed(checked: list[TrialResult]) -> None:
    got = with_latency(checked, {RACE: session(TIMES)})
    assert speedups(got) == {"baseline": 1.0, "fast": 2.0, "slow": 0.5}
    assert not any(t.latency and t.latency.confirmed for t in got)


def test_without_a_race_the_one_session_is_the_final(checked: list[TrialResult]) -> None:
    got = with_latency(checked, {FINAL: session(TIMES)})
    assert speedups(got) == {"baseline": 1.0, "fast": 2.0, "slow": 0.5}
    assert all(t.latency.confirmed for t in got if t.latency)


def test_the_final_makes_more_rounds_where_the_race_saw_launches_differ() -> None:
    names = ["baseline", "fast"]
    assert _final_rounds(names, session(TIMES), Plan()) == 6
    assert _final_rounds(names, session(TIMES, spread=0.06), Plan()) == 11
    assert _final_rounds(names, session(TIMES, spread=0.3), Plan()) == 20
    assert _final_rounds(names, session(TIMES, spread=0.3), Plan(rounds=4)) == 4
    # One round shows no spread, and the baseline has none.
    assert _final_rounds(names, session(TIMES, rounds=1), Plan()) == 20
    assert _final_rounds(["baseline"], session(TIMES, spread=0.3), Plan()) == 6


def test_a_final_without_a_race_makes_fewer_rounds_than_a_race_and_six_at_least() -> None:
    for rounds, made in ((20, (6, 8)), (40, (12, 16)), (10, (6, 6)), (4, (4, 4))):
        plan = Plan(rounds=rounds)
        assert tuple(with_rounds(plan, share).rounds for share in (UNRACED_ROUNDS, RACE_ROUNDS)) == made


def test_the_runner_up_is_left_out_where_six_rounds_of_all_would_not_fit() -> None:
    race = Measured(launch_s=0.5)
    three = ["baseline", "fast", "slow"]
    assert _affordable(three, race, Plan(), 12.0) == three  # 6 rounds of 4 launches
    assert _affordable(three, race, Plan(), 11.9) == ["baseline", "fast"]
    assert _affordable(three[:2], race, Plan(), 0.0) == ["baseline", "fast"]


def test_who_was_dropped_keeps_its_times_and_the_bound_that_did_it(checked: list[TrialResult]) -> None:
    race = session(TIMES)
    lost = LostRace(variant="slow", behind="baseline", factor=1.9, rounds=3, confidence=0.999)
    race.pruned["slow"] = lost
    slow = with_latency(checked, {RACE: race})[2]
    assert (slow.status, slow.cause) == ("pruned", lost)
    assert slow.latency is not None


@pytest.mark.parametrize("late", [RACE, FINAL])
def test_who_failed_in_either_session_failed(checked: list[TrialResult], late: str) -> None:
    sessions = {RACE: session(TIMES), FINAL: session(TIMES)}
    sessions[late].failed["fast"] = "killed by SIGSEGV"
    fast = with_latency(checked, sessions)[1]
    assert (fast.status, fast.reason, fast.latency) == ("failed", "killed by SIGSEGV", None)
    assert fast.cause == Failed(variant="fast", message="killed by SIGSEGV", while_timing=True)


def test_who_was_never_timed_stays_as_it_was(checked: list[TrialResult]) -> None:
    unseen = trial("unseen", latency=None)
    assert with_latency([*checked, unseen], {RACE: session(TIMES)})[3] == unseen


def test_the_noise_floor_is_the_far_end_of_what_the_second_copy_may_differ_by() -> None:
    assert noise_floor(session(TIMES)) == 0.0
    # One round of six is off: the mean and its error are a sixth each, and 2.571 is Student's quantile.
    floor = noise_floor(session(TIMES, spread=0.07))
    assert floor == pytest.approx(math.expm1(0.07 / 6 * (1 + 2.5706)), rel=1e-3)
    assert noise_floor(session(TIMES, spread=-0.07)) == pytest.approx(floor, rel=1e-3)


def test_without_an_interval_or_a_second_copy_there_is_no_noise_floor() -> None:
    assert noise_floor(session(TIMES, rounds=5)) is None
    assert noise_floor(session({"baseline": 4_000_000})) is None
