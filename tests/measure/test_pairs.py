import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from workbench.measure import launches
from workbench.measure.latency import Measured, Sample, log_ratios
from workbench.measure.pairs import TimedTurns, VariantPair, differences, holm, pair_of, turns_of
from workbench.measure.records import TWIN

FACTORS = {"baseline": 1.0, "quick": 0.7, "quicker": 0.68, "batched": 2.0}


def timed(rounds: int, turns: int = 12, factors: dict[str, float] | None = None) -> list[Sample]:
    """Calls on a host whose speed changes from turn to turn, in launches that differ by a percent."""
    rng, found = random.Random(1), []
    for number in range(rounds):
        launch = {name: rng.gauss(0, 0.01) for name in factors or FACTORS}
        for turn in range(turns):
            host = rng.choice((1.0, 1.4))
            for place, (name, factor) in enumerate((factors or FACTORS).items()):
                for call in range(4):
                    ns = 1e6 * host * factor * math.exp(launch[name] + rng.gauss(0, 0.005))
                    found.append(Sample(name, number, place, turn, place, call, round(ns)))
    return found


def columns(samples: Sequence[Sample], session: str = "final") -> dict[str, np.ndarray]:
    hot = [sample for sample in samples if sample.call > 0]
    found = {
        name: np.array([getattr(s, name) for s in hot]) for name in ("variant", "round", "turn", "time_ns")
    }
    return {**found, "session": np.array([session] * len(hot))}


def pair(one: str, other: str, log_ratios: Sequence[float]) -> VariantPair:
    return VariantPair(one=one, other=other, session="final", log_ratios=tuple(log_ratios))


@pytest.mark.parametrize("copies", [{}, {TWIN: 1.0}], ids=["baseline once", "baseline twice"])
@pytest.mark.parametrize("batch", [1, 8], ids=["one at a time", "baseline in batches"])
def test_a_pair_with_the_baseline_is_what_the_table_shows(copies: dict[str, float], batch: int) -> None:
    """In the turns that timed both copies, and in those of one that ended early."""
    samples = timed(rounds=7, factors={**FACTORS, **copies})
    samples = [s for s in samples if s.variant != TWIN or (s.round, s.turn) < (5, 3)]
    batches = {"batched": 3, "baseline": batch}
    rounds = turns_of(columns(samples), batches)["final"]
    expected = log_ratios(Measured({**batches, TWIN: batch}, samples), "baseline")
    for name in ("quick", "quicker", "batched", *copies):
        got = pair_of(rounds, name, "baseline", "final").log_ratios
        assert got == pytest.approx(tuple(expected[name].values()), abs=1e-12)


def test_a_pair_without_the_baseline_comes_from_the_turns_that_timed_both() -> None:
    samples = timed(rounds=8)
    rounds = turns_of(columns(samples), {})["final"]
    direct = log_ratios(Measured({}, samples), "quick")
    assert pair_of(rounds, "quicker", "quick", "final").log_ratios == pytest.approx(
        tuple(direct["quicker"].values()), abs=1e-12
    )
    assert pair_of(rounds, "quicker", "nobody", "final").log_ratios == ()


def test_variants_of_different_heats_are_no_pair_in_that_round() -> None:
    samples = timed(rounds=2)
    table = columns(samples)
    table["heat"] = ((table["variant"] == "quick") & (table["round"] == 0)).astype(int)
    rounds = turns_of(table, {})["final"]
    assert len(pair_of(rounds, "quick", "quicker", "final").log_ratios) == 1
    assert len(pair_of(rounds, "baseline", "quicker", "final").log_ratios) == 2


def test_sessions_are_kept_apart() -> None:
    race, final = columns(timed(rounds=3), "race"), columns(timed(rounds=2), "final")
    both = {name: np.concatenate([race[name], final[name]]) for name in race}
    found = turns_of(both, {})
    assert {name: len(rounds) for name, rounds in found.items()} == {"race": 3, "final": 2}


def test_holm_holds_each_p_value_to_its_own_share_until_the_first_that_exceeds_it() -> None:
    # Worked by hand: 0.01 against 0.05 / 4; 0.02 against 0.05 / 3 ends it, and 0.03 is not looked at.
    found = holm([0.03, 0.01, 0.04, 0.02])
    assert [p for p, _ in found] == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert [1 - confidence for _, confidence in found] == pytest.approx(
        [0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3]
    )
    assert holm([]) == []


def test_an_interval_excludes_no_difference_exactly_where_the_adjusted_test_does() -> None:
    rng = random.Random(3)
    pairs = [pair(f"a{n}", f"b{n}", [rng.gauss(0.002 * n, 0.01) for _ in range(8)]) for n in range(15)]
    found = differences(pairs)
    decided = [(item.p, item.interval) for item in found if item.p is not None and item.interval is not None]
    assert len(decided) == len(pairs)
    assert all((p < 0.05) == (interval[0] > 1) for p, interval in decided)
    assert 0 < sum(p < 0.05 for p, _ in decided) < len(decided)


def test_a_difference_names_the_faster_of_the_two_first() -> None:
    ratios = (0.03, 0.031, 0.029, 0.03, 0.032, 0.028)
    (found,) = differences([pair("slow", "quick", ratios)])
    assert (found.faster, found.slower, found.rounds) == ("quick", "slow", 6)
    assert found.ratio == pytest.approx(math.exp(launches.centre(ratios)))
    assert found.interval is not None
    assert 1 < found.interval[0] < found.ratio < found.interval[1]


def test_a_pair_of_few_rounds_has_no_interval_and_one_of_none_is_left_out() -> None:
    (found,) = differences([pair("a", "b", [-0.1] * 5), pair("a", "c", [])])
    assert (found.interval, found.p, found.rounds) == (None, None, 5)


def test_a_round_without_the_variant_gives_no_ratio() -> None:
    turns = TimedTurns(("a", "b"), np.array([[0.0, math.nan], [math.nan, 1.0]]))
    assert turns.log_ratio("a", "b") is None
