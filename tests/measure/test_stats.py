"""The statistics behind the numbers, against published values, brute force and simulation."""

import math
import random
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.measure import launches
from workbench.measure.stats import (
    PairedDrop,
    Ratio,
    hodges_lehmann,
    percentile,
    proportion_upper_bound,
    samples_for_percentile,
    wilson,
)

FLOATS = st.floats(-1e6, 1e6)


@st.composite
def drops(draw: st.DrawFn) -> PairedDrop:
    total = draw(st.integers(1, 5000))
    losses = draw(st.integers(0, total))
    return PairedDrop(losses, draw(st.integers(0, total - losses)), total)


@pytest.mark.parametrize(
    ("losses", "gains", "total", "points"),
    [
        (0, 0, 300, 0.99),  # the exact bound; the score's is 0.89
        (3, 3, 1000, 0.48),
        (10, 10, 1000, 0.78),
        (25, 25, 2000, 0.60),
        (50, 50, 5000, 0.33),
        (12, 6, 1000, 1.38),
    ],
)
def test_the_upper_bound_of_a_drop_has_the_published_values(
    losses: int, gains: int, total: int, points: float
) -> None:
    assert 100 * PairedDrop(losses, gains, total).upper_bound() == pytest.approx(points, abs=0.005)


def test_a_large_p_value_is_no_evidence_of_a_small_drop() -> None:
    drop = PairedDrop(12, 6, 1000)
    assert drop.mcnemar_p() == pytest.approx(0.24, abs=0.005)
    assert drop.upper_bound() > 0.0135


@pytest.mark.parametrize(
    ("losses", "gains", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (6, 0, 0.03125), (8, 2, 0.109375)],
)
def test_mcnemar_is_the_exact_two_sided_binomial(losses: int, gains: int, p: float) -> None:
    assert PairedDrop(losses, gains, 100).mcnemar_p() == p


def test_mcnemar_survives_thousands_of_discordant_photos() -> None:
    assert PairedDrop(3000, 2000, 100_000).mcnemar_p() < 1e-40


def test_no_loss_certifies_one_point_in_299_photos_and_nothing_in_a_handful() -> None:
    assert PairedDrop(0, 0, 299).upper_bound() <= 0.01
    assert PairedDrop(0, 0, 10).upper_bound() > 0.2


@given(drops(), st.floats(0.0005, 0.9))
def test_what_is_within_a_margin_is_what_the_bound_says(drop: PairedDrop, margin: float) -> None:
    if abs(drop.upper_bound() - margin) > 1e-6:
        assert drop.within(margin) == (drop.upper_bound() <= margin)


@pytest.mark.parametrize(("count", "total", "upper"), [(0, 299, 0.0100), (3, 50, 0.1478), (50, 50, 1.0)])
def test_the_upper_bound_of_a_proportion_is_the_exact_one(count: int, total: int, upper: float) -> None:
    assert proportion_upper_bound(count, total) == pytest.approx(upper, abs=5e-5)
    if count < total:
        below = sum(math.comb(total, i) * upper**i * (1 - upper) ** (total - i) for i in range(count + 1))
        assert below == pytest.approx(0.05, abs=2e-3)


def test_near_duplicates_count_as_the_photos_that_they_come_from() -> None:
    pairs, apart = PairedDrop(6, 4, 400, independent=200), PairedDrop(3, 2, 200)
    assert (pairs.drop, pairs.upper_bound()) == (apart.drop, pytest.approx(apart.upper_bound()))
    assert pairs.interval() == pytest.approx(apart.interval())
    assert PairedDrop(6, 4, 400, independent=400).upper_bound() == PairedDrop(6, 4, 400).upper_bound()
    # Half a loss lies between none and one.
    half = PairedDrop(1, 0, 200, independent=100).upper_bound()
    assert PairedDrop(0, 0, 100).upper_bound() < half < PairedDrop(1, 0, 100).upper_bound()


@given(drops())
def test_swapping_losses_and_gains_mirrors_the_interval(drop: PairedDrop) -> None:
    low, high = drop.interval()
    mirrored = PairedDrop(drop.gains, drop.losses, drop.total).interval()
    assert mirrored == pytest.approx((-high, -low), abs=1e-8)


@given(drops())
def test_the_interval_encloses_the_drop_and_stays_within_one(drop: PairedDrop) -> None:
    low, high = drop.interval()
    assert -1 <= low <= drop.drop <= high <= 1


def score(drop: PairedDrop, delta: float) -> float:
    """Tango's statistic with the likelihood maximised by search instead of by formula."""
    b, c, n = drop.losses, drop.gains, drop.total

    def log_likelihood(gain: float) -> float:
        return b * math.log(gain + delta) + c * math.log(gain) + (n - b - c) * math.log(1 - 2 * gain - delta)

    low, high = 1e-12, (1 - delta) / 2 - 1e-12
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (left, high) if log_likelihood(left) < log_likelihood(right) else (low, right)
    gain = (low + high) / 2
    return (b - c - n * delta) / math.sqrt(n * (2 * gain + delta - delta**2))


@pytest.mark.parametrize(
    ("losses", "gains", "total"), [(12, 6, 1000), (3, 3, 200), (40, 5, 500), (5, 7, 300)]
)
def test_the_bound_is_where_the_score_reaches_the_normal_quantile(
    losses: int, gains: int, total: int
) -> None:
    drop = PairedDrop(losses, gains, total)
    assert score(drop, drop.upper_bound()) == pytest.approx(-1.6449, abs=1e-3)


@given(drops(), st.floats(0.6, 0.94))
def test_more_confidence_gives_a_higher_bound(drop: PairedDrop, confidence: float) -> None:
    assert drop.upper_bound(confidence) <= drop.upper_bound(0.95)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(500, 5000))
def test_one_more_loss_never_lowers_the_bound(losses: int, gains: int, total: int) -> None:
    assert (
        PairedDrop(losses, gains, total).upper_bound() <= PairedDrop(losses + 1, gains, total).upper_bound()
    )


@given(st.integers(0, 50), st.integers(2, 10))
def test_the_same_shares_on_more_photos_give_a_tighter_bound(losses: int, times: int) -> None:
    few, many = PairedDrop(losses, losses, 300), PairedDrop(times * losses, times * losses, times * 300)
    assert many.upper_bound() < few.upper_bound()


@pytest.mark.parametrize(("total", "losing", "gaining"), [(500, 0.02, 0.01), (1000, 0.025, 0.015)])
def test_a_true_drop_at_the_margin_passes_about_one_time_in_twenty(
    total: int, losing: float, gaining: float
) -> None:
    import numpy as np

    rng = np.random.default_rng(7)
    drawn = rng.multinomial(total, [losing, gaining, 1 - losing - gaining], size=20_000)
    seen = Counter((int(b), int(c)) for b, c, _ in drawn)
    passed = sum(n for (b, c), n in seen.items() if PairedDrop(b, c, total).upper_bound() <= losing - gaining)
    assert 0.04 <= passed / len(drawn) <= 0.06


def test_thirty_eight_of_thirty_eight_is_not_certainty() -> None:
    low, high = wilson(38, 38)
    assert low == pytest.approx(0.908, abs=0.0005)
    assert high == 1.0


@pytest.mark.parametrize("total", [1, 3, 10, 38, 1482])
def test_the_ends_of_wilsons_interval_are_exact_where_nothing_or_everything_is_right(total: int) -> None:
    assert wilson(0, total)[0] == 0.0
    assert wilson(total, total)[1] == 1.0


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_encloses_the_proportion_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


@pytest.mark.parametrize(("fraction", "samples"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_a_percentile_takes_as_many_samples_as_mlperfs(fraction: float, samples: int) -> None:
    assert samples_for_percentile(fraction) == samples
    assert percentile(range(samples - 1), fraction) is None
    assert percentile(range(samples), fraction) is not None


def test_a_percentile_is_one_of_the_samples_by_nearest_rank() -> None:
    values = list(range(1, 1001))
    random.Random(3).shuffle(values)
    assert (percentile(values, 0.95), percentile(values, 0.99)) == (950.0, 990.0)


@given(st.lists(FLOATS, min_size=1, max_size=30))
def test_hodges_lehmann_is_the_median_of_all_pairwise_means(values: list[float]) -> None:
    pairs = [(a + b) / 2 for i, a in enumerate(values) for b in values[i:]]
    assert hodges_lehmann(values) == pytest.approx(statistics.median(pairs))


def test_one_wild_value_moves_hodges_lehmann_little() -> None:
    assert hodges_lehmann([1.0] * 9 + [1000.0]) == 1.0


@given(st.data(), st.sampled_from([0.005, 0.01, 0.02]))
def test_the_photos_said_to_be_needed_suffice_and_are_hardly_too_many(
    data: st.DataObject, margin: float
) -> None:
    # So few photos that even without a loss the margin could not be shown.
    total = data.draw(st.integers(int(0.5 / margin), int(2.6 / margin)), label="total")
    gains = data.draw(st.integers(0, 10), label="gains")
    losses = gains + data.draw(st.integers(0, int(total * margin / 2)), label="net loss")
    drop = PairedDrop(losses, gains, total)
    assert drop.upper_bound() > margin
    needed = drop.images_needed(margin)
    more, fewer = needed / total, 0.9 * needed / total
    # Counts are whole, so they are rounded the way that makes each claim the weaker one.
    enough = PairedDrop(math.floor(losses * more), math.ceil(gains * more), needed)
    too_few = PairedDrop(math.ceil(losses * fewer), math.floor(gains * fewer), int(0.9 * needed))
    assert enough.upper_bound() <= margin < too_few.upper_bound()


def test_a_drop_at_the_margin_needs_more_photos_than_there_are() -> None:
    with pytest.raises(ValueError, match="no number of photos"):
        PairedDrop(10, 0, 1000).images_needed(0.01)


def test_a_speed_up_is_the_centre_of_the_rounds_with_their_interval() -> None:
    rounds = (2.0, 2.1, 1.9, 2.2, 2.05, 2.05)
    ratio = Ratio(tuple(math.log(1 / s) for s in rounds))
    assert ratio.speedup == pytest.approx(math.prod(rounds) ** (1 / 6))
    assert ratio.interval is not None
    assert 1.9 < ratio.interval[0] < 2.0 < 2.1 < ratio.interval[1] < 2.2
    low, high = launches.interval([math.log(s) for s in rounds]) or (0.0, 0.0)
    assert ratio.interval == pytest.approx((math.exp(low), math.exp(high)))
    assert ratio.log_interval == pytest.approx((-high, -low))
    assert Ratio((0.0,) * 5).interval is None


@given(drops(), st.floats(0, 0.2), st.sampled_from([0.9, 0.95, 0.99]))
def test_an_interval_lies_beyond_a_margin_exactly_where_p_says_so(
    drop: PairedDrop, margin: float, confidence: float
) -> None:
    low, high = drop.interval(confidence)
    p = drop.p_within(margin)
    if abs(p - (1 - confidence)) > 1e-6:  # the bounds are found to 1e-9
        assert (low > margin or high < -margin) == (p < 1 - confidence)
