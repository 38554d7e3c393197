"""What photos can certify, held against simulation and the rule that certifies."""

import numpy as np
import pytest

from workbench.measure.power import SURE, power, probability
from workbench.measure.stats import PairedDrop
from workbench.report.power import sentence


def test_one_hundred_photos_certify_little() -> None:
    assert sentence(power(100, 0.01)) == (
        "100 photos, too few to hold half of them out, certify a drop of 2.95 points at best, 4.66 where 1 % "
        "of the answers change, 5.00 where 2 % do (80 % sure); a budget of 1 point takes 600, 2,100 and 3,600"
    )


def test_four_hundred_that_choose_among_six_certify_less_than_for_one_alone() -> None:
    alone, among = power(400, 0.01), power(400, 0.01, 6)
    assert alone.cases[0].drop < among.cases[0].drop
    assert sentence(among).startswith(
        "400 photos, too few to hold half of them out, certify the best of 6 variants at a drop of 1.4"
    )


def test_twelve_hundred_hold_half_of_them_out() -> None:
    found = power(1200, 0.01, 6)
    assert found.halves
    assert sentence(found).startswith(
        "1,200 photos, half of them held out, certify a drop of 0.50 points at best, 1.4"
    )
    assert found.cases[0].needed == 600


def test_what_loses_nothing_is_certified_as_soon_as_a_half_allows_it() -> None:
    needed = power(1200, 0.02).cases[0].needed
    assert needed is not None
    half = needed // 2
    assert PairedDrop(0, 0, half).within(0.02)
    assert not PairedDrop(0, 0, half - 2).within(0.02)


def test_no_number_of_photos_certifies_a_budget_of_nothing() -> None:
    found = power(50, 0.0)
    assert [case.needed for case in found.cases] == [None] * 3
    assert sentence(found).endswith("no number of photos certifies a budget of 0 points")


def test_a_single_photo_certifies_nothing() -> None:
    assert power(1, 0.01).cases[0].drop == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("photos", "limit", "changed"), [(600, 0.01, 0.01), (300, 0.02, 0.02), (2000, 0.01, 0.02)]
)
def test_the_probability_is_that_of_simulated_runs(photos: int, limit: float, changed: float) -> None:
    rng = np.random.default_rng(3)
    drawn = rng.multinomial(photos, [changed / 2, changed / 2, 1 - changed], size=3000)[:, :2]
    pairs, times = np.unique(drawn, axis=0, return_counts=True)
    passed = [PairedDrop(int(b), int(c), photos).within(limit) for b, c in pairs]
    seen = float(times[passed].sum() / times.sum())
    assert probability(photos, limit, changed) == pytest.approx(seen, abs=0.03)


def test_the_smallest_drop_is_where_the_probability_reaches_what_is_called_sure() -> None:
    drop = power(1200, 0.01).cases[1].drop
    assert probability(600, drop, 0.01) ** 2 >= SURE > probability(600, 0.97 * drop, 0.01) ** 2
