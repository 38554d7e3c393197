"""From measured trials to a decision, and the reasons that are given for it."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import absent_trial, counts, per_class, run_info, trial
from workbench.measure.records import Latency, WholePath
from workbench.results.records import Budget, TrialResult
from workbench.results.verdict import (
    Row,
    certification_shortfalls,
    compare,
    pareto_front,
    ranked,
    shortfalls,
    undecided,
    untimed_shortfalls,
)
from workbench.run.tune.tune import Tuned

UNCERTIFIED = "not certified: this run kept no photos apart"


def timing(trial: TrialResult, **changed: Any) -> TrialResult:
    """The same trial with another latency."""
    assert trial.latency is not None
    latency: Latency = trial.latency.model_copy(update=changed)
    return trial.model_copy(update={"latency": latency})


def test_the_fastest_that_fits_the_budget_wins() -> None:
    got = compare(run_info(), [trial("baseline"), trial("good", speedup=2.0), trial("better", speedup=3.0)])
    assert got.winner == "better"
    assert [row.variant for row in got.rows if row.winner] == ["better"]
    assert got.reasons == (
        "winner: better, 3.00 times the speed of the baseline (3.00 to 3.00); "
        "loses 0.00 points of top-1, at most 0.27 at 95 %; 8.00 MB",
        UNCERTIFIED,
    )


def test_a_faster_one_that_loses_accuracy_is_passed_over_and_told_why() -> None:
    got = compare(
        run_info(), [trial("baseline"), trial("safe", speedup=1.5), trial("wild", speedup=4.0, losses=50)]
    )
    assert got.winner == "safe"
    assert "wild (4.00 times) lost: it loses 5.00 points of top-1 (budget 1)" in got.reasons


def test_too_few_photos_to_tell_is_a_verdict_with_the_number_it_would_take() -> None:
    few = trial("fast", speedup=2.0, losses=2, gains=2, images=200, correct=190)
    got = compare(run_info(), [trial("baseline", images=200, correct=190), few])
    assert got.winner == "baseline"
    assert (
        "fast (2.00 times) lost: 200 photos cannot show that it loses at most 1 points "
        "(it may lose 2.10); about 631 in this part could"
    ) in got.reasons


def test_a_drop_equal_to_the_budget_cannot_be_shown_by_any_number_of_photos() -> None:
    got = compare(run_info(), [trial("baseline"), trial("edge", speedup=2.0, losses=10)])
    assert any(reason.endswith("no number could, with what it loses on these") for reason in got.reasons)


def test_a_budget_of_no_drop_at_all_leaves_the_baseline() -> None:
    strict = run_info(budget=Budget(max_accuracy_drop=0.0))
    assert compare(strict, [trial("baseline"), trial("same", speedup=2.0)]).winner == "baseline"


@pytest.mark.parametrize(
    ("losses", "gains", "images", "verdict"),
    [
        (0, 0, 300, "within"),
        (0, 0, 200, "too few images"),
        (10, 10, 1000, "within"),
        (12, 6, 1000, "too few images"),
        (11, 0, 1000, "beyond"),
        (5, 50, 1000, "within"),
    ],
)
def test_a_drop_is_judged_by_what_it_may_be_at_most(
    losses: int, gains: int, images: int, verdict: str
) -> None:
    judged = trial("any", losses=losses, gains=gains, images=images, correct=images * 9 // 10)
    found = shortfalls(judged, Budget())
    assert len(found) == (verdict != "within")
    if found:
        assert ("photos cannot show" in found[0]) is (verdict == "too few images")


def test_the_baseline_never_has_too_few_photos() -> None:
    assert shortfalls(trial("baseline", images=5, correct=5), Budget()) == []


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
    assert compare(run_info(noise_floor=0.05), rivals).reasons[1] == (
        "big cannot be told apart from it in latency (differences under 5.0 %); "
        "the smaller and simpler one wins"
    )


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
    assert "nothing that fits the budget beats the plain FP32 export: ship that" in got.reasons


def test_nothing_that_fits_means_no_winner_and_every_reason_why() -> None:
    info = run_info(budget=Budget(max_size_mb=1, max_latency_ms=3, max_memory_mb=20))
    got = compare(info, [trial("baseline"), trial("fast", speedup=2.0, losses=40)])
    assert got.winner is None
    assert not any(row.winner for row in got.rows)
    assert got.reasons == (
        "no winner: nothing fits the budget",
        "baseline: its size is 8.00 MB (budget 1); its memory is 40.00 MB (budget 20); "
        "its p50 latency is 10.00 ms (budget 3)",
        "fast: it loses 4.00 points of top-1 (budget 1); its size is 8.00 MB (budget 1); "
        "its memory is 40.00 MB (budget 20); its p50 latency is 5.00 ms (budget 3)",
    )


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
    assert all(row.speedup is row.top1 is row.p50_ms is None for row in got.rows[1:])


def test_where_nothing_else_was_measured_the_baseline_beats_nobody() -> None:
    gone = [absent_trial(f"gpu{number}", "skipped", "no CUDA device") for number in range(4)]
    got = compare(run_info(), [trial("baseline"), *gone])
    assert got.nothing_else
    assert got.winner == "baseline"
    assert got.reasons == (
        "nothing else was measured (4 skipped): this says nothing about them",
        UNCERTIFIED,
    )
    broken = absent_trial("broken", "failed", "the build was killed by SIGSEGV")
    small = run_info(budget=Budget(max_size_mb=1))
    assert compare(small, [trial("baseline"), *gone, broken]).reasons[-1] == (
        "nothing else was measured (4 skipped, 1 failed): this says nothing about them"
    )


def test_a_search_that_could_measure_nothing_else_does_not_say_that_nothing_beat_the_baseline() -> None:
    gone = absent_trial("gpu", "skipped", "no CUDA device")
    alone = compare(run_info(), [trial("baseline"), gone])
    assert Tuned(alone, None, ("searched",)).sentence() == (
        "searched\nnothing besides the plain FP32 export could be measured: no recipe was written"
    )
    against = compare(run_info(), [trial("baseline"), gone, trial("slow", speedup=0.5)])
    assert "nothing that keeps the budget beat" in Tuned(against, None, ()).sentence()


def test_one_other_that_was_measured_is_enough_to_compare_with() -> None:
    gone = absent_trial("gpu", "skipped", "no CUDA device")
    for other in (trial("slow", speedup=0.5), absent_trial("late", "pruned", "others promised more")):
        got = compare(run_info(), [trial("baseline"), gone, other])
        assert not got.nothing_else
        assert "nothing that fits the budget beats the plain FP32 export: ship that" in got.reasons


def test_a_baseline_that_was_measured_alone_is_said_to_be_alone() -> None:
    got = compare(run_info(), [trial("baseline")])
    assert got.nothing_else
    assert got.reasons == ("nothing else was measured", UNCERTIFIED)


def test_a_trial_that_was_checked_and_never_timed_cannot_win() -> None:
    got = compare(run_info(), [trial("baseline"), trial("untimed", latency=None)])
    assert got.winner == "baseline"
    assert got.rows[1].speedup is None


def test_a_run_without_trials_has_no_winner() -> None:
    assert compare(run_info(), []).winner is None


def test_a_row_has_raw_units() -> None:
    row = compare(run_info(), [trial("a", speedup=2.0, losses=5, gains=2)]).rows[0]
    assert row.size_bytes == 8_000_000
    assert row.top1 == pytest.approx(0.967)
    assert row.drop == pytest.approx(0.003)
    assert row.drop_ci is not None
    assert row.drop_ci[0] < 0.003 < row.drop_ci[1]
    assert (row.p50_ms, row.p99_ms) == pytest.approx((5.0, 6.5))
    assert row.speedup == pytest.approx(2.0)
    assert row.throughput_ips == pytest.approx(1e9 / (5e6 * 1.05))
    assert row.load_ms == pytest.approx(50.0)


def test_the_baseline_has_no_intervals_against_itself() -> None:
    row = compare(run_info(), [trial("baseline")]).rows[0]
    assert (row.drop, row.drop_ci, row.speedup_ci) == (0.0, None, None)


def test_the_keys_of_a_row_are_the_documented_ones() -> None:
    assert " ".join(field.name for field in fields(Row)) == (
        "variant recipe status reason backend device opset digest size_bytes top1 drop drop_ci p50_ms p90_ms "
        "p95_ms p99_ms speedup speedup_ci throughput_ips load_ms peak_memory_bytes pareto winner "
        "crop precision computes int8_share half_share fp32_share casts unfused_qdq audit validated gpu"
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


def test_a_speed_up_within_the_noise_puts_nobody_on_the_front() -> None:
    trials = [trial("baseline"), trial("noisy", speedup=1.03, losses=5)]
    assert pareto_front(trials, 0.05) == {"baseline"}
    assert pareto_front(trials, 0.01) == {"baseline", "noisy"}


def test_of_two_alike_neither_beats_the_other() -> None:
    assert pareto_front([trial("a"), trial("b")]) == {"a", "b"}


def test_what_failed_is_not_on_the_front() -> None:
    assert pareto_front([trial("a"), absent_trial("b", "failed", "no")]) == {"a"}


POINT = st.tuples(st.floats(0.2, 5.0), st.integers(0, 60), st.floats(0.5, 20.0))


@given(st.lists(POINT, min_size=1, max_size=8))
def test_whoever_wins_fits_and_nobody_who_fits_is_clearly_faster(
    points: list[tuple[float, int, float]],
) -> None:
    trials = [
        trial(f"v{number}", speedup=speedup, losses=losses, size_mb=size)
        for number, (speedup, losses, size) in enumerate(points)
    ]
    got = compare(run_info(noise_floor=0.02), trials)
    fitting = [t for t in trials if not shortfalls(t, Budget())]
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
    pruned = trial("late", speedup=0.5, status="pruned", reason="at least 1.9 times slower than baseline")
    got = compare(run_info(budget=Budget(objective="size")), [trial("baseline"), pruned])
    assert got.winner == "baseline"
    assert got.rows[1].speedup == pytest.approx(0.5)
    assert got.rows[1].status == "pruned"


def test_what_is_known_before_timing_leaves_out_the_latency_and_nothing_else() -> None:
    budget = Budget(max_size_mb=1, max_latency_ms=3, max_memory_mb=20)
    missed = trial("any", losses=40)
    known = [
        "it loses 4.00 points of top-1 (budget 1)",
        "its size is 8.00 MB (budget 1)",
        "its memory is 40.00 MB (budget 20)",
    ]
    assert untimed_shortfalls(missed.model_copy(update={"latency": None}), budget) == known
    assert shortfalls(missed, budget) == [*known, "its p50 latency is 10.00 ms (budget 3)"]


def test_times_of_batches_do_not_make_a_winner_because_the_server_answers_photo_by_photo() -> None:
    batched = timing(trial("batched", speedup=3.0), batch_size=8)
    got = compare(run_info(), [trial("baseline"), batched])
    assert got.winner == "baseline"
    assert (
        "batched (3.00 times) lost: it was timed in batches of 8; the server answers photo by photo"
        in got.reasons
    )
    assert got.rows[1].throughput_ips == pytest.approx(8 * 3 * 100 / 1.05)


@pytest.mark.parametrize(
    ("limit", "losses", "gains", "missed"),
    [
        (0.05, (5, 0, 0), (0, 0, 0), []),
        (0.05, (6, 0, 0), (0, 0, 0), ["class 0 loses 6.0 % of its photos (budget 5)"]),
        (0.05, (8, 0, 0), (3, 0, 0), []),
        (0.05, (0, 0, 90), (0, 0, 0), ["class 2 loses 10.0 % of its photos (budget 5)"]),
        (0.05, (6, 0, 90), (0, 0, 0), ["class 2 loses 10.0 % of its photos (budget 5)"]),
        (0.0, (1, 0, 0), (0, 0, 0), ["class 0 loses 1.0 % of its photos (budget 0)"]),
        (None, (100, 0, 0), (0, 0, 0), []),
    ],
)
def test_no_class_may_lose_more_of_its_photos_than_the_budget_says(
    limit: float | None,
    losses: tuple[int, ...],
    gains: tuple[int, ...],
    missed: list[str],
) -> None:
    # The second class has no photos at all, and ten thousand make the overall drop small.
    counts = per_class((100, 0, 900, 9000), (*losses, 0), (*gains, 0))
    budget = Budget(max_class_drop=limit, max_accuracy_drop=0.05)
    assert shortfalls(trial("any", accuracy=counts), budget) == missed


def test_the_winner_is_certified_on_photos_that_chose_nothing() -> None:
    got = compare(run_info(), [trial("baseline"), trial("good", speedup=2.0, certification=counts(3, 3))])
    assert (got.winner, got.certified) == ("good", True)
    assert got.reasons[1] == (
        "certified on the 1000 photos that chose nothing: it loses 0.00 points of top-1, "
        "at most 0.48 at 95 % (budget 1; McNemar p 1.00)"
    )


@pytest.mark.parametrize(
    ("losses", "images", "why"),
    [
        (20, 1000, "it loses 2.00 points of top-1 (budget 1)"),
        (
            2,
            300,
            "300 photos cannot show that it loses at most 1 points (it may lose 1.99); "
            "about 2,418 in this part could",
        ),
    ],
)
def test_a_winner_that_fails_on_photos_that_chose_nothing_is_not_certified_and_no_other_takes_its_place(
    losses: int, images: int, why: str
) -> None:
    lucky = trial("lucky", speedup=2.0, certification=counts(losses, images=images, correct=images - 9))
    second = trial("second", speedup=1.5, certification=counts())
    got = compare(run_info(), [trial("baseline", certification=counts()), lucky, second])
    assert (got.winner, got.certified) == ("lucky", False)
    assert got.reasons[1] == f"NOT certified on the {images} photos that chose nothing: {why}"


def test_a_class_that_loses_too_much_where_nothing_was_chosen_is_not_certified() -> None:
    info = run_info(budget=Budget(max_class_drop=0.05))
    judged = trial("any", certification=per_class((100, 9900), (7, 0), (0, 0)))
    assert certification_shortfalls(judged, info) == ["rust loses 7.0 % of its photos (budget 5)"]


def test_the_baseline_needs_no_certificate_against_itself() -> None:
    few = counts(images=50, correct=48)
    got = compare(run_info(), [trial("baseline", certification=few)])
    assert (got.winner, got.certified) == ("baseline", True)
    assert "certified: it is the reference; top-1 96.00 % on 50 photos" in got.reasons


def test_too_few_photos_to_keep_any_apart_is_said_and_no_shortfall() -> None:
    info = run_info(uncertified="200 photos are too few")
    got = compare(info, [trial("baseline"), trial("good", speedup=2.0)])
    assert got.certified
    assert got.reasons[1] == "not certified: 200 photos are too few"
    assert certification_shortfalls(trial("good"), info) == []


def test_photos_used_for_calibration_certify_nothing() -> None:
    info = run_info(uncertified="3 photos are in both", leak=True)
    got = compare(info, [trial("baseline"), trial("good", speedup=2.0)])
    assert (got.winner, got.certified) == ("good", False)
    assert got.reasons[1] == "not certified: 3 photos are in both"
    assert certification_shortfalls(trial("good"), info) == ["3 photos are in both"]


def test_nothing_is_certified_where_nothing_won() -> None:
    info = run_info(budget=Budget(max_size_mb=1))
    assert not compare(info, [trial("baseline")]).certified


def test_the_winner_is_shown_with_where_the_time_of_a_photo_goes() -> None:
    path = WholePath(
        photo="12 megapixels", bytes=3_000_000, decode_ns=60e6, preprocess_ns=20e6, infer_ns=19e6, rest_ns=1e6
    )
    got = compare(run_info(), [trial("baseline", whole_path=(path,))])
    assert got.reasons[-1] == (
        "a photo (12 megapixels) from its bytes to its class: 100.0 ms "
        "(decode 60 %, preprocess 20 %, inference 19 %, rest 1 %)"
    )


WIDE = (1.9, 2.0, 2.0, 2.1, 2.2, 2.3)


def test_a_speed_still_uncertain_when_the_time_ended_is_said_to_be_undecided() -> None:
    trials = [
        trial("baseline", rounds=WIDE),
        trial("wide", rounds=WIDE),
        trial("short", rounds=[2.0] * 5),
        trial("narrow", speedup=2.0),
        trial("late", rounds=WIDE, status="pruned", reason="slower"),
        trial("untimed", latency=None),
    ]
    info = run_info(timing_ended="race: the time budget ended")
    assert undecided(info, trials) == (
        "undecided within 2 %: wide, short (race: the time budget ended); "
        "a larger --time-budget narrows the intervals"
    )
    assert compare(info, trials).reasons[-1] == undecided(info, trials)
    assert "(the run was cut short)" in (undecided(run_info(), trials) or "")


def test_nothing_is_undecided_where_every_interval_is_narrow() -> None:
    trials = [trial("baseline"), trial("a", speedup=2.0)]
    assert undecided(run_info(), trials) is None
    assert undecided(run_info(), [*trials, trial("wide", rounds=WIDE)], target=0.2) is None
