"""From raw samples to a latency, and the warm-up before them: on times written down by hand."""

import math
from collections.abc import Callable, Iterable

import pytest

from workbench.measure.latency import Measured, Sample, log_ratios, summarize
from workbench.measure.records import Latency
from workbench.measure.warm_up import MIN_CALLS, WarmUp, warm_up


def samples_of(times_ns: list[int], variant: str = "a", number: int = 0) -> list[Sample]:
    """One round; each time is the hot call of a turn, and its cold call took ten times as long."""
    return [
        Sample(variant, number, 0, turn, 0, call, time_ns * (1 if call else 10))
        for turn, time_ns in enumerate(times_ns)
        for call in (0, 1)
    ]


def of(samples: list[Sample], variant: str = "a") -> Latency:
    latency = summarize(Measured(samples=samples), variant, "a", confirmed=False)
    assert latency is not None
    return latency


def test_a_summary_is_of_the_hot_calls_in_nanoseconds() -> None:
    latency = of(samples_of([30, 10, 20, 60]))
    assert (latency.batch_size, latency.samples, latency.confirmed) == (1, 4, False)
    assert (latency.mean_ns, latency.p50_ns, latency.cold_p50_ns) == (30.0, 25.0, 250.0)
    assert latency.round_log_ratios == (0.0,)


def test_a_variant_that_was_never_timed_in_a_round_that_counts_has_no_latency() -> None:
    measured = Measured(samples=[*samples_of([10]), *samples_of([10], "b", number=1)], unused={1})
    assert summarize(measured, "b", "a", confirmed=False) is None
    assert summarize(measured, "none", "a", confirmed=False) is None


def rounds_of(times_ns: list[int], rounds: int) -> list[Sample]:
    return [sample for number in range(rounds) for sample in samples_of(times_ns, number=number)]


@pytest.mark.parametrize(
    ("samples", "rounds", "known"),
    [
        (28, 1, (False, False, False)),
        (29, 1, (True, False, False)),
        (400, 5, (True, False, False)),
        (30, 6, (True, True, False)),
        (400, 6, (True, True, True)),
    ],
)
def test_a_percentile_that_the_rounds_do_not_bound_is_none(
    samples: int, rounds: int, known: tuple[bool, bool, bool]
) -> None:
    latency = of(rounds_of(list(range(1, samples + 1)), rounds))
    assert tuple(p is not None for p in (latency.p90_ns, latency.p95_ns, latency.p99_ns)) == known
    assert tuple(p is not None for p in (latency.p95_ns_ci, latency.p99_ns_ci)) == known[1:]


def test_a_percentile_stands_in_an_interval_over_rounds() -> None:
    latency = of(rounds_of(list(range(1, 1001)), 6))
    assert (latency.p95_ns, latency.p99_ns) == (950.0, 990.0)
    assert latency.p95_ns_ci is not None
    assert 940 < latency.p95_ns_ci[0] < 950 < latency.p95_ns_ci[1] < 960


def test_a_turn_that_only_one_of_the_two_took_part_in_does_not_count() -> None:
    measured = Measured(samples=[*samples_of([100, 900]), *samples_of([50], "b")])
    assert log_ratios(measured, "a")["b"] == {0: pytest.approx(-math.log(2))}


def test_a_burst_counts_as_the_median_of_its_hot_calls() -> None:
    burst = [Sample("b", 0, 0, 0, 0, call, time) for call, time in enumerate((9999, 200, 210, 8000))]
    measured = Measured(samples=[*samples_of([100]), *burst])
    assert log_ratios(measured, "a")["b"] == {0: pytest.approx(math.log(2.1))}


def test_turns_are_paired_before_they_are_summarised() -> None:
    # The machine is three times slower in the second turn: the ratio of medians of both would be 4/3.
    measured = Measured(samples=[*samples_of([100, 300, 300]), *samples_of([200, 600, 600], "b")])
    assert log_ratios(measured, "a")["b"] == {0: pytest.approx(math.log(2))}


def test_every_round_that_counts_has_a_ratio_and_no_other() -> None:
    samples = [
        sample
        for number, times in enumerate([(100, 200), (100, 300), (100, 400)])
        for name, time_ns in zip("ab", times, strict=True)
        for sample in samples_of([time_ns], name, number)
    ]
    assert list(log_ratios(Measured(samples=samples, unused={1}), "a")["b"]) == [0, 2]


def test_batches_of_both_sides_are_taken_into_account() -> None:
    samples = [*samples_of([100]), *samples_of([100], "b")]
    assert log_ratios(Measured({"b": 4}, samples), "a")["b"] == {0: pytest.approx(-math.log(4))}
    assert log_ratios(Measured({"a": 4, "b": 4}, samples), "a")["b"] == {0: pytest.approx(0.0)}
    latency = summarize(Measured({"b": 4}, samples), "b", "a", confirmed=True)
    assert latency is not None
    assert (latency.batch_size, latency.p50_ns, latency.confirmed) == (4, 100, True)


def scripted(times: Iterable[int]) -> tuple[Callable[[], int], Callable[[], float]]:
    """A call that takes the next of `times`, in ms, and the clock that it moves, in s."""
    left, now = iter(times), 0.0

    def timed() -> int:
        nonlocal now
        taken_ms = next(left)
        now += taken_ms / 1e3
        return taken_ms * 1_000_000

    return timed, lambda: now


@pytest.mark.parametrize(
    ("times_ms", "warm"),
    [
        ([5] * 50, WarmUp(MIN_CALLS, settled=True, typical_ns=5e6)),
        ([30, 10, 6, 4, *[1] * 60], WarmUp(MIN_CALLS, settled=True, typical_ns=1e6)),
        # Medians of ten: five slow calls or more in the earlier ten still show.
        ([10] * 15 + [1] * 100, WarmUp(31, settled=True, typical_ns=1e6)),
        ([4000], WarmUp(1, settled=False, typical_ns=4e9)),
    ],
)
def test_warm_up_ends_when_ten_calls_take_as_long_as_the_ten_before(
    times_ms: list[int], warm: WarmUp
) -> None:
    assert warm_up(*scripted(times_ms)) == warm


def test_warm_up_that_never_settles_ends_after_a_second() -> None:
    warm = warm_up(*scripted(range(10, 1000, 2)))
    assert not warm.settled
    assert sum(range(10, 10 + 2 * warm.calls, 2)) == pytest.approx(1000, abs=100)
