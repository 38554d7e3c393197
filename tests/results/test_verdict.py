"""From measured trials to a decision, and the reasons that are given for it."""

import math
from dataclasses import fields
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import absent_trial, counts, per_class, run_info, trial
from workbench.measure.early_stopping import LostRace
from workbench.measure.readings import Readings
from workbench.measure.records import Latency, SameAnswers, TooFewToSplit, WholePath
from workbench.results import reasons
from workbench.results.certification import certification_shortfalls
from workbench.results.records import Budget, TrialResult
from workbench.results.verdict import (
    Comparison,
    Row,
    compare,
    pareto_front,
    ranked,
    shortfalls,
    undecided,
    untimed_shortfalls,
)

SAME = SameAnswers(images=20, max_rel=1e-6, bound=1e-4)

Kind = TypeVar("Kind", bound=reasons.Reason)


def kinds(comparison: Comparison) -> list[str]:
    return [reason.kind for reason in comparison.verdict.reasons]


def only(comparison: Comparison, kind: type[Kind]) -> Kind:
    """The one reason of its kind."""
    (found,) = [reason for reason in comparison.verdict.reasons if isinstance(reason, kind)]
    return found


def timing(trial: TrialResult, **changed: Any) -> TrialResult:
    """The same trial with another latency."""
    assert trial.latency is not None
    latency: Latency = trial.latency.model_copy(update=changed)
    return trial.model_copy(update={"latency": latency})


def test_a_variant_that_its_own_rounds_ended_is_shown_without_an_interval() -> None:
    lost = LostRace(variant="slow", behind="fast", factor=1.4, rounds=6, confidence=0.999)
    slow = trial("slow", speedup=0.7, status="pruned", cause=lost)
    rows = {row.variant: row for row in compare(run_info(), [trial("baseline"), trial("fast"), slow]).rows}
    assert rows["fast"].speedup_ci is not None
    assert (rows["slow"].speedup, rows["slow"].speedup_ci) == (pytest.approx(0.7), None)


def test_the_fastest_that_fits_the_budget_wins() -> None:
    got = compare(run_info(), [trial("baseline"), trial("good", speedup=2.0), trial("better", speedup=3.0)])
    assert got.winner == "better"
    assert [row.variant for row in got.rows if row.winner] == ["better"]
    assert kinds(got) == ["winner", "none_certifies"]
    winner = only(got, reasons.Winner)
    assert (winner.variant, winner.size_bytes, winner.images, winner.drop) == ("better", 8_000_000, 1000, 0)
    assert (winner.speedup, winner.speedup_ci) == (pytest.approx(3.0), pytest.approx((3.0, 3.0)))
    assert winner.drop_upper == pytest.approx(0.0030, abs=1e-4)


def test_a_faster_one_that_loses_accuracy_is_passed_over_with_its_shortfall() -> None:
    got = compare(
        run_info(), [trial("baseline"), trial("safe", speedup=1.5), trial("wild", speedup=4.0, losses=50)]
    )
    assert got.winner == "safe"
    wild = only(got, reasons.OverBudget)
    assert (wild.variant, wild.speedup) == ("wild", pytest.approx(4.0))
    assert wild.shortfalls == (reasons.DropShortfall(drop=0.05, limit=0.01),)


def test_too_few_photos_to_tell_is_a_verdict_with_the_number_it_would_take() -> None:
    few = trial("fast", speedup=2.0, losses=2, gains=2, images=200, correct=190)
    got = compare(run_info(), [trial("baseline", images=200, correct=190), few])
    assert got.winner == "baseline"
    (missed,) = only(got, reasons.OverBudget).shortfalls
    assert isinstance(missed, reasons.PhotosShortfall)
    assert (missed.images, missed.drop, missed.limit, missed.images_needed) == (200, 0.0, 0.01, 631)
    assert missed.drop_upper == pytest.approx(0.021, abs=1e-4)


def test_a_drop_equal_to_the_budget_cannot_be_shown_by_any_number_of_photos() -> None:
    got = compare(run_info(), [trial("baseline"), trial("edge", speedup=2.0, losses=10)])
    (missed,) = only(got, reasons.OverBudget).shortfalls
    assert isinstance(missed, reasons.PhotosShortfall)
    assert (missed.drop, missed.images_needed) == (0.01, None)


def test_a_budget_of_no_drop_at_all_leaves_the_baseline() -> None:
    strict = run_info(budget=Budget(max_accuracy_drop=0.0))
    assert compare(strict, [trial("baseline"), trial("same", speedup=2.0)]).winner == "baseline"


@pytest.mark.parametrize(
    ("losses", "gains", "images", "missed"),
    [
        (0, 0, 300, []),
        (0, 0, 200, ["too_few_photos"]),
        (10, 10, 1000, []),
        (12, 6, 1000, ["too_few_photos"]),
        (11, 0, 1000, ["drop"]),
        (5, 50, 1000, []),
    ],
)
def test_a_drop_is_judged_by_what_it_may_be_at_most(
    losses: int, gains: int, images: int, missed: list[str]
) -> None:
    judged = trial("any", losses=losses, gains=gains, images=images, correct=images * 9 // 10)
    assert [shortfall.kind for shortfall in shortfalls(judged, run_info())] == missed


def test_the_baseline_never_has_too_few_photos() -> None:
    assert shortfalls(trial("baseline", images=5, correct=5), run_info()) == ()


def test_speeds_within_the_noise_floor_are_equal_and_the_smaller_file_wins() -> None:
    rivals = [
        trial("baseline"),
        trial("big", speedup=2.05, size_mb=8),
        trial("small", speedup=2.0, size_mb=2),
    ]
    assert compare(run_info(noise_floor=0.05), rivals).winner == "small"
    assert compare(run_info(noise_floor=0.01), rivals).winner == "big"


def test_what_could_not_be_told_apart_is_named_with_the_difference_it_takes() -> None:
    rivals = [trial("big", speedup=2.05, size_mb=8), trial("small", speedup=2.0, size_mb=2)]
    got = compare(run_info(noise_floor=0.05), rivals)
    assert got.verdict.close_behind == ("big",)
    behind = only(got, reasons.CloseBehind)
    assert (behind.variant, behind.tied, behind.ratio) == ("big", True, pytest.approx(2.0 / 2.05))
    assert (only(got, reasons.Winner).objective, only(got, reasons.Winner).tolerance) == ("latency", 0.05)


def test_what_is_a_little_slower_is_close_behind_and_the_baseline_only_where_it_is_tied() -> None:
    rivals = [trial("baseline"), *(trial(f"v{speed}", speedup=speed) for speed in (1.08, 1.05, 0.9))]
    got = compare(run_info(), rivals)
    assert (got.winner, got.verdict.close_behind) == ("v1.08", ("v1.05",))
    assert not only(got, reasons.CloseBehind).tied
    noisy = compare(run_info(noise_floor=0.1), rivals)
    assert (noisy.winner, noisy.verdict.close_behind) == ("baseline", ("v1.08", "v1.05"))


def test_without_a_noise_floor_only_large_differences_count() -> None:
    rivals = [trial("big", speedup=2.01, size_mb=8), trial("small", speedup=2.0, size_mb=2)]
    assert compare(run_info(noise_floor=None), rivals).winner == "small"
    rivals[0] = trial("big", speedup=2.3, size_mb=8)
    assert compare(run_info(noise_floor=None), rivals).winner == "big"


def test_between_equals_of_one_size_the_simpler_one_wins() -> None:
    rivals = [trial("three", speedup=2.0, steps=3), trial("one", speedup=2.0, steps=1)]
    assert compare(run_info(), rivals).winner == "one"


def test_a_variant_no_better_than_the_baseline_does_not_replace_it() -> None:
    got = compare(run_info(), [trial("baseline"), trial("same", speedup=1.005)])
    assert got.winner == "baseline"
    assert "baseline_wins" in kinds(got)


def test_nothing_that_fits_means_no_winner_and_every_reason_why() -> None:
    info = run_info(budget=Budget(max_size_mb=1, max_latency_ms=3, max_memory_mb=20))
    got = compare(info, [trial("baseline"), trial("fast", speedup=2.0, losses=40)])
    assert compare(info, []).winner is got.winner is None
    assert not got.certified
    assert not any(row.winner for row in got.rows)
    size = reasons.SizeShortfall(size_bytes=8_000_000, limit_bytes=1e6)
    memory = reasons.MemoryShortfall(peak_memory_bytes=40_000_000, limit_bytes=20e6)
    nothing, baseline, fast = got.verdict.reasons
    assert nothing.kind == "nothing_fits"
    assert isinstance(baseline, reasons.OverBudget) and isinstance(fast, reasons.OverBudget)
    assert baseline.shortfalls == (size, memory, reasons.LatencyShortfall(p50_ns=10e6, limit_ns=3e6))
    drop = reasons.DropShortfall(drop=0.04, limit=0.01)
    assert fast.shortfalls == (drop, size, memory, reasons.LatencyShortfall(p50_ns=5e6, limit_ns=3e6))


def test_a_finalist_that_was_pruned_before_it_was_timed_keeps_its_own_shortfalls() -> None:
    cause = reasons.OverBudget(variant="lossy", shortfalls=(reasons.DropShortfall(drop=0.09, limit=0.01),))
    pruned = trial("lossy", losses=90, latency=None, status="pruned", cause=cause)
    beaten = compare(run_info(budget=Budget(max_size_mb=1)), [trial("baseline"), pruned])
    assert beaten.winner is None
    assert [reason for reason in beaten.verdict.reasons if isinstance(reason, reasons.OverBudget)][1:] == [
        cause
    ]
    assert only(compare(run_info(), [trial("baseline"), pruned]), reasons.OverBudget) == cause


@pytest.mark.parametrize(
    ("objective", "winner"), [("latency", "fast"), ("size", "small"), ("memory", "frugal")]
)
def test_the_objective_decides_what_best_means(objective: str, winner: str) -> None:
    rivals = [
        trial("baseline"),
        trial("fast", speedup=3.0),
        trial("small", speedup=0.5, size_mb=1),
        trial("frugal", peak_memory_bytes=10_000_000),
    ]
    assert compare(run_info(budget=Budget(objective=objective)), rivals).winner == winner


def saturated(made: TrialResult, ratio: float, launches: int = 6) -> TrialResult:
    return made.model_copy(update={"saturated_log_ratios": (math.log(ratio),) * launches})


def test_by_throughput_a_batch_may_win_and_what_was_not_measured_may_not() -> None:
    batched = saturated(timing(trial("batched", speedup=1.2), batch_size=8), 1.8)
    rivals = [saturated(trial("baseline"), 1.0), saturated(trial("fast", speedup=3.0), 1.5), batched]
    unknown = trial("unknown", speedup=5.0)
    got = compare(run_info(budget=Budget(objective="throughput")), [*rivals, unknown])
    assert got.winner == "batched"
    winner = only(got, reasons.Winner)
    assert (winner.objective, winner.saturated_ratio) == ("throughput", pytest.approx(1.8))
    assert winner.saturated_ratio_ci == pytest.approx((1.8, 1.8))
    assert shortfalls(unknown, got.info) == (reasons.UnmeasuredShortfall(what="throughput"),)
    assert [row.saturated_ratio for row in got.rows] == [1.0, pytest.approx(1.5), pytest.approx(1.8), None]
    assert got.rows[0].saturated_ratio_ci is None


def test_few_launches_give_a_ratio_of_throughput_without_an_interval() -> None:
    (row,) = compare(run_info(), [saturated(trial("few"), 1.5, launches=5)]).rows
    assert (row.saturated_ratio, row.saturated_ratio_ci) == (pytest.approx(1.5), None)


def test_a_row_has_the_ranges_of_several_launches_in_its_own_units() -> None:
    read = Readings(load_s=(0.05, 0.07, 0.04), cold_start_s=(0.3,), peak_memory_bytes=(10, 30))
    made = timing(trial("any", readings=read, cold_start_s=0.3), p95_ns_ci=(5e6, 7e6))
    (row,) = compare(run_info(), [made]).rows
    assert (row.p95_ms_ci, row.p99_ms_ci) == (pytest.approx((5.0, 7.0)), None)
    assert (row.load_ms_range, row.peak_memory_bytes_range) == (pytest.approx((40.0, 70.0)), (10, 30))
    assert (row.cold_start_ms, row.cold_start_ms_range) == (pytest.approx(300.0), None)


def test_the_noise_of_times_does_not_blur_sizes_or_memory() -> None:
    info = run_info(noise_floor=0.5, budget=Budget(objective="memory"))
    rivals = [
        trial("baseline", peak_memory_bytes=50_000_000, size_mb=1),
        trial("frugal", peak_memory_bytes=40_000_000, size_mb=8),
    ]
    assert compare(info, rivals).winner == "frugal"


def test_what_failed_or_was_skipped_keeps_its_reason_and_cannot_win() -> None:
    trials = [
        trial("baseline"),
        absent_trial("broken", "failed", "the build was killed by SIGSEGV"),
        absent_trial("gpu", "skipped", "no CUDA device"),
        absent_trial("late", "pruned", "at least 3 times slower"),
    ]
    got = compare(run_info(), trials)
    assert [(row.status, row.reason) for row in got.rows] == [
        ("ok", None),
        ("failed", "the build was killed by SIGSEGV"),
        ("skipped", "no CUDA device"),
        ("pruned", "at least 3 times slower"),
    ]
    assert got.winner == "baseline"
    assert got.verdict.reasons[-3:] == (
        reasons.Failed(variant="broken", message="the build was killed by SIGSEGV"),
        reasons.Skipped(variant="gpu", message="no CUDA device"),
        reasons.Pruned(variant="late", message="at least 3 times slower"),
    )
    assert all(row.speedup is row.top1 is row.p50_ms is None for row in got.rows[1:])


def test_where_nothing_else_was_measured_the_baseline_beats_nothing() -> None:
    assert only(compare(run_info(), [trial("baseline")]), reasons.NothingElse).counts == {}
    gone = [absent_trial(f"gpu{number}", "skipped", "no CUDA device") for number in range(4)]
    got = compare(run_info(), [trial("baseline"), *gone])
    assert got.nothing_else
    assert got.winner == "baseline"
    assert only(got, reasons.NothingElse).counts == {"skipped": 4}
    assert "baseline_wins" not in kinds(got)
    broken = absent_trial("broken", "failed", "the build was killed by SIGSEGV")
    small = run_info(budget=Budget(max_size_mb=1))
    beaten = compare(small, [trial("baseline"), *gone, broken])
    assert only(beaten, reasons.NothingElse).counts == {"skipped": 4, "failed": 1}


def test_one_other_that_was_measured_is_enough_to_compare_with() -> None:
    gone = absent_trial("gpu", "skipped", "no CUDA device")
    for other in (trial("slow", speedup=0.5), absent_trial("late", "pruned", "others promised more")):
        got = compare(run_info(), [trial("baseline"), gone, other])
        assert not got.nothing_else
        assert "baseline_wins" in kinds(got)


def test_a_trial_that_was_checked_and_never_timed_cannot_win() -> None:
    got = compare(run_info(), [trial("baseline"), trial("untimed", latency=None)])
    assert got.winner == "baseline"
    assert got.rows[1].speedup is None


def test_a_row_has_raw_units_and_the_baseline_no_intervals_against_itself() -> None:
    baseline, row = compare(run_info(), [trial("baseline"), trial("a", speedup=2.0, losses=5, gains=2)]).rows
    assert (baseline.drop, baseline.drop_ci, baseline.speedup_ci) == (0.0, None, None)
    assert row.size_bytes == 8_000_000
    assert row.top1 == pytest.approx(0.967)
    assert row.drop == pytest.approx(0.003)
    assert row.drop_ci is not None
    assert row.drop_ci[0] < 0.003 < row.drop_ci[1]
    assert (row.p50_ms, row.p99_ms) == pytest.approx((5.0, 6.5))
    assert row.speedup == pytest.approx(2.0)
    assert row.throughput_ips == pytest.approx(1e9 / (5e6 * 1.05))
    assert row.load_ms == pytest.approx(50.0)


def test_the_keys_of_a_row_are_the_documented_ones() -> None:
    assert " ".join(field.name for field in fields(Row)) == (
        "variant recipe status reason backend device opset digest size_bytes top1 drop drop_ci p50_ms p90_ms "
        "p95_ms p99_ms speedup speedup_ci throughput_ips load_ms peak_memory_bytes pareto winner "
        "crop precision computes int8_share half_share fp32_share casts unfused_qdq audit validated "
        "same_answers p95_ms_ci p99_ms_ci load_ms_range cold_start_ms cold_start_ms_range "
        "peak_memory_bytes_range saturated_ips saturated_ratio saturated_ratio_ci gpu"
    )


def test_the_front_holds_what_nothing_beats_in_accuracy_speed_and_size() -> None:
    trials = [
        trial("baseline"),
        trial("fast", speedup=3.0, losses=30),
        trial("small", speedup=0.8, size_mb=2),
        trial("worse", speedup=2.5, losses=40),
        trial("bloated", size_mb=16),
    ]
    assert pareto_front(trials) == {"baseline", "fast", "small"}


def test_a_speed_up_within_the_noise_is_not_on_the_front() -> None:
    trials = [trial("baseline"), trial("noisy", speedup=1.03, losses=5)]
    assert pareto_front(trials, 0.05) == {"baseline"}
    assert pareto_front(trials, 0.01) == {"baseline", "noisy"}


def test_of_two_alike_neither_beats_the_other_and_what_failed_is_not_on_the_front() -> None:
    assert pareto_front([trial("a"), trial("b"), absent_trial("c", "failed", "no")]) == {"a", "b"}


POINT = st.tuples(st.floats(0.2, 5.0), st.integers(0, 60), st.floats(0.5, 20.0))


@given(st.lists(POINT, min_size=1, max_size=8))
def test_the_winner_fits_and_none_that_fits_is_clearly_faster(points: list[tuple[float, int, float]]) -> None:
    trials = [
        trial(f"v{number}", speedup=speedup, losses=losses, size_mb=size)
        for number, (speedup, losses, size) in enumerate(points)
    ]
    got = compare(run_info(noise_floor=0.02), trials)
    fitting = [t for t in trials if not shortfalls(t, run_info())]
    assert (got.winner is None) is (not fitting)
    for row in got.rows:
        if row.winner:
            assert row.variant in {t.variant for t in fitting}
            fastest = max(r.speedup or 0 for r in got.rows if r.variant in {t.variant for t in fitting})
            assert (row.speedup or 0) * 1.0201 >= fastest


def test_once_some_were_measured_again_only_those_can_win() -> None:
    lucky = trial("lucky", speedup=3.0)
    confirmed = [timing(trial(name, speedup=s), confirmed=True) for name, s in (("baseline", 1), ("a", 2))]
    assert [t.variant for t in ranked(run_info(), [*confirmed, lucky])] == ["a", "baseline"]
    assert compare(run_info(), [*confirmed, lucky]).winner == "a"
    assert compare(run_info(), [trial("baseline"), lucky]).winner == "lucky"


def test_where_none_of_those_measured_again_fits_the_others_are_asked() -> None:
    info = run_info(budget=Budget(max_latency_ms=6))
    baseline, slow = (timing(trial(name), confirmed=True) for name in ("baseline", "slow"))
    assert compare(info, [baseline, slow, trial("fast", speedup=2.0)]).winner == "fast"


def test_a_pruned_variant_cannot_win_and_shows_what_was_measured() -> None:
    lost = LostRace(variant="late", behind="baseline", factor=1.9, rounds=3, confidence=0.9995)
    pruned = trial("late", speedup=0.5, status="pruned", cause=lost)
    got = compare(run_info(budget=Budget(objective="size")), [trial("baseline"), pruned])
    assert got.winner == "baseline"
    assert got.rows[1].speedup == pytest.approx(0.5)
    assert (got.rows[1].status, got.rows[1].reason) == ("pruned", None)
    assert only(got, LostRace) == lost


def test_what_is_known_before_timing_leaves_out_the_latency_and_nothing_else() -> None:
    info = run_info(budget=Budget(max_size_mb=1, max_latency_ms=3, max_memory_mb=20))
    missed = trial("any", losses=40)
    known = untimed_shortfalls(missed.model_copy(update={"latency": None}), info)
    assert [shortfall.kind for shortfall in known] == ["drop", "size", "memory"]
    assert shortfalls(missed, info) == (*known, reasons.LatencyShortfall(p50_ns=10e6, limit_ns=3e6))


def test_times_of_batches_do_not_make_a_winner_because_each_photo_would_wait() -> None:
    batched = timing(trial("batched", speedup=3.0), batch_size=8)
    got = compare(run_info(), [trial("baseline"), batched])
    assert got.winner == "baseline"
    assert only(got, reasons.OverBudget).shortfalls == (reasons.BatchShortfall(batch_size=8),)
    assert got.rows[1].throughput_ips == pytest.approx(8 * 3 * 100 / 1.05)


@pytest.mark.parametrize(
    ("limit", "losses", "gains", "missed"),
    [
        (0.05, (5, 0, 0), (0, 0, 0), []),
        (0.05, (6, 0, 0), (0, 0, 0), [("rust", 0.06)]),
        (0.05, (8, 0, 0), (3, 0, 0), []),
        (0.05, (0, 0, 90), (0, 0, 0), [("class 2", 0.1)]),
        (0.05, (6, 0, 90), (0, 0, 0), [("class 2", 0.1)]),
        (0.0, (1, 0, 0), (0, 0, 0), [("rust", 0.01)]),
        (None, (100, 0, 0), (0, 0, 0), []),
    ],
)
def test_no_class_may_lose_more_of_its_photos_than_the_budget_says(
    limit: float | None, losses: tuple[int, ...], gains: tuple[int, ...], missed: list[tuple[str, float]]
) -> None:
    # Ten thousand photos make the overall drop small.
    counts = per_class((100, 1, 900, 9000), (*losses, 0), (*gains, 0))
    info = run_info(budget=Budget(max_class_drop=limit, max_accuracy_drop=0.05))
    assert shortfalls(trial("any", accuracy=counts), info) == tuple(
        reasons.ClassShortfall(class_name=name, drop=drop, limit=limit) for name, drop in missed
    )


def test_a_class_without_a_photo_cannot_be_judged_by_what_any_class_may_lose() -> None:
    counts = per_class((100, 0, 9900), (0, 0, 1), (0, 0, 0))
    info = run_info(budget=Budget(max_class_drop=0.05))
    absent = reasons.AbsentClassShortfall(class_names=(info.class_names[1],), limit=0.05)
    assert shortfalls(trial("any", accuracy=counts), info) == (absent,)
    # It is compared with the baseline, which loses nothing against itself.
    assert shortfalls(trial("baseline", accuracy=counts), info) == ()


def test_the_winner_is_certified_on_held_out_photos() -> None:
    got = compare(run_info(), [trial("baseline"), trial("good", speedup=2.0, certification=counts(3, 3))])
    assert (got.winner, got.certified) == ("good", True)
    certified = only(got, reasons.Certified)
    assert (certified.variant, certified.images, certified.drop, certified.limit) == ("good", 1000, 0, 0.01)
    assert (certified.drop_upper, certified.mcnemar_p) == (pytest.approx(0.0048, abs=1e-4), 1.0)


@pytest.mark.parametrize(("losses", "images", "missed"), [(20, 1000, "drop"), (2, 300, "too_few_photos")])
def test_a_winner_that_fails_on_held_out_photos_is_not_certified_and_no_other_takes_its_place(
    losses: int, images: int, missed: str
) -> None:
    lucky = trial("lucky", speedup=2.0, certification=counts(losses, images=images, correct=images - 9))
    second = trial("second", speedup=1.5, certification=counts())
    got = compare(run_info(), [trial("baseline", certification=counts()), lucky, second])
    assert (got.winner, got.certified) == ("lucky", False)
    failed = only(got, reasons.NotCertified)
    assert (failed.variant, failed.images) == ("lucky", images)
    assert [shortfall.kind for shortfall in failed.shortfalls] == [missed]


def test_a_class_that_loses_too_much_where_nothing_was_chosen_is_not_certified() -> None:
    info = run_info(budget=Budget(max_class_drop=0.05))
    judged = trial("any", certification=per_class((100, 9900), (7, 0), (0, 0)))
    missed = reasons.ClassShortfall(class_name="rust", drop=0.07, limit=0.05)
    assert certification_shortfalls(judged, info) == (missed,)


def test_the_baseline_needs_no_certificate_against_itself() -> None:
    few = counts(images=50, correct=48)
    got = compare(run_info(), [trial("baseline", certification=few)])
    assert (got.winner, got.certified) == ("baseline", True)
    certified = only(got, reasons.Certified)
    assert (certified.top1, certified.images, certified.drop, certified.mcnemar_p) == (0.96, 50, None, None)


def test_too_few_photos_to_hold_any_out_is_a_reason_and_no_shortfall() -> None:
    few = TooFewToSplit(images=200, drop_upper=0.027)
    info = run_info(uncertified=few)
    good = trial("good", speedup=2.0, losses=1, gains=1, images=500, correct=490)
    rivals = [trial(f"rival {number}", images=500, correct=490) for number in range(9)]
    got = compare(info, [trial("baseline", images=500, correct=490), good, *rivals])
    assert (got.winner, got.certified) == ("good", True)
    none = only(got, reasons.NoneCertifies)
    assert (none.variant, none.cause, none.leak, none.candidates) == ("good", few, False, 10)
    assert none.drop_upper == pytest.approx(0.0149, abs=1e-4)
    assert certification_shortfalls(good, info) == ()


def test_with_too_few_photos_to_split_the_bound_that_allows_for_the_choice_certifies() -> None:
    info = run_info(uncertified=TooFewToSplit(images=500, drop_upper=0.012))
    cause = reasons.NotFinalist(variant="looked at", why="", speedup=1.0, drop=0.0, images=96)
    looked_at = absent_trial("looked at", "pruned", "").model_copy(update={"cause": cause})
    alike = trial("alike", images=500, correct=490).model_copy(update={"same_answers": SAME})
    good = trial("good", speedup=2.0, images=500, correct=490)
    got = compare(info, [trial("baseline", images=500, correct=490), good, looked_at, alike])
    certified = only(got, reasons.CertifiedTogether)
    # Two bounds at 97.5 % hold at 95 % together; none lost of 500 is below 0.77 points then.
    assert (certified.candidates, certified.confidence) == (2, 0.975)
    assert (certified.images, certified.drop, certified.limit) == (500, 0.0, 0.01)
    assert certified.drop_upper == pytest.approx(0.0076, abs=1e-4)
    assert got.certified


def test_the_same_function_is_certified_by_that_whatever_the_photos() -> None:
    few = {"images": 20, "correct": 19}
    alike = trial("alike", speedup=2.0, **few).model_copy(update={"same_answers": SAME})
    for info in (
        run_info(),
        run_info(uncertified="3 photos are in both", leak=True),
        run_info(uncertified=TooFewToSplit(images=20, drop_upper=0.1)),
    ):
        got = compare(info, [trial("baseline", **few), alike, trial("else", speedup=3.0, **few)])
        assert (got.winner, got.certified) == ("alike", True)
        expected = reasons.CertifiedAsSame(variant="alike", images=20, max_rel=1e-6, bound=1e-4)
        assert only(got, reasons.CertifiedAsSame) == expected
        winner, row = only(got, reasons.Winner), got.rows[1]
        assert (winner.drop, winner.drop_upper) == (0.0, None)
        assert (row.same_answers, row.drop, row.drop_ci) == (True, 0.0, None)
        assert not got.rows[0].same_answers
        assert [s.kind for s in only(got, reasons.OverBudget).shortfalls] == ["too_few_photos"]


def test_photos_used_for_calibration_certify_nothing() -> None:
    info = run_info(uncertified="3 photos are in both", leak=True)
    got = compare(info, [trial("baseline"), trial("good", speedup=2.0)])
    assert (got.winner, got.certified) == ("good", False)
    assert only(got, reasons.NoneCertifies).leak
    assert certification_shortfalls(trial("good"), info) == (
        reasons.LeakShortfall(cause="3 photos are in both"),
    )


def test_the_winner_is_shown_with_where_the_time_of_a_photo_goes() -> None:
    path = WholePath(
        photo="12 megapixels", bytes=3_000_000, decode_ns=60e6, preprocess_ns=20e6, infer_ns=19e6, rest_ns=1e6
    )
    got = compare(run_info(), [trial("baseline", whole_path=(path,))])
    assert only(got, reasons.Winner).whole_path == (path,)


WIDE = (1.9, 2.0, 2.0, 2.1, 2.2, 2.3)


def test_a_speed_still_uncertain_when_the_time_ended_is_said_to_be_undecided() -> None:
    trials = [
        trial("baseline", rounds=WIDE),
        trial("wide", rounds=WIDE),
        trial("short", rounds=[2.0] * 5),
        trial("narrow", speedup=2.0),
        trial("late", rounds=WIDE, status="pruned"),
        trial("untimed", latency=None),
    ]
    info = run_info(timing_end={"race": "budget"})
    expected = reasons.Undecided(variants=("wide", "short"), target=0.02, ended={"race": "budget"})
    assert undecided(info, trials) == expected
    assert only(compare(info, trials), reasons.Undecided) == expected
    assert undecided(run_info(), trials) == expected.model_copy(update={"ended": None})
    assert undecided(run_info(), [trial("baseline"), trial("narrow", speedup=2.0)]) is None
