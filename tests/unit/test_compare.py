"""From measured trials to a decision, and the reasons that are given for it."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.compare import Row, accuracy_verdict, compare, compare_runs, pareto_front
from workbench.errors import WorkbenchError
from workbench.machine import Machine
from workbench.results import Budget, RunFolder, RunInfo, TrialResult

MakeTrial = Callable[..., TrialResult]
MakeInfo = Callable[..., RunInfo]


def test_the_fastest_that_fits_the_budget_wins(trial: MakeTrial, run_info: MakeInfo) -> None:
    got = compare(run_info(), [trial("baseline"), trial("good", speedup=2.0), trial("better", speedup=3.0)])
    assert got.winner == "better"
    assert [row.variant for row in got.rows if row.winner] == ["better"]
    assert got.reasons == (
        "winner: better, 3.00 times the speed of the baseline (3.00 to 3.00); "
        "loses 0.00 points of top-1, at most 0.27 at 95 %; 8.00 MB",
    )


def test_a_faster_one_that_loses_accuracy_is_passed_over_and_told_why(
    trial: MakeTrial, run_info: MakeInfo
) -> None:
    got = compare(
        run_info(), [trial("baseline"), trial("safe", speedup=1.5), trial("wild", speedup=4.0, losses=50)]
    )
    assert got.winner == "safe"
    assert got.reasons[-1] == "wild (4.00 times) lost: it loses 5.00 points of top-1 (budget 1)"


def test_too_few_photos_to_tell_is_a_verdict_with_the_number_it_would_take(
    trial: MakeTrial, run_info: MakeInfo
) -> None:
    few = trial("fast", speedup=2.0, losses=2, gains=2, images=200, correct=190)
    got = compare(run_info(), [trial("baseline", images=200, correct=190), few])
    assert got.winner == "baseline"
    assert accuracy_verdict(few, Budget()) == "too few images"
    assert got.reasons[-1] == (
        "fast (2.00 times) lost: 200 photos cannot show that it loses at most 1 points "
        "(it may lose 2.10); about 631 could"
    )


def test_a_drop_equal_to_the_budget_cannot_be_shown_by_any_number_of_photos(
    trial: MakeTrial, run_info: MakeInfo
) -> None:
    got = compare(run_info(), [trial("baseline"), trial("edge", speedup=2.0, losses=10)])
    assert got.reasons[-1].endswith("no number could, with what it loses on these")


def test_a_budget_of_no_drop_at_all_leaves_the_baseline(trial: MakeTrial, run_info: MakeInfo) -> None:
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
    trial: MakeTrial, losses: int, gains: int, images: int, verdict: str
) -> None:
    judged = trial("any", losses=losses, gains=gains, images=images, correct=images * 9 // 10)
    assert accuracy_verdict(judged, Budget()) == verdict


def test_the_baseline_never_has_too_few_photos(trial: MakeTrial) -> None:
    assert accuracy_verdict(trial("baseline", images=5, correct=5), Budget()) == "within"


def test_speeds_within_the_noise_floor_are_equal_and_the_smaller_file_wins(
    trial: MakeTrial, run_info: MakeInfo
) -> None:
    rivals = [
        trial("baseline"),
        trial("big", speedup=2.05, size_mb=8),
        trial("small", speedup=2.0, size_mb=2),
    ]
    assert compare(run_info(noise_floor=0.05), rivals).winner == "small"
    assert compare(run_info(noise_floor=0.01), rivals).winner == "big"


def test_what_could_not_be_told_apart_is_named_with_the_difference_it_takes(
    trial: MakeTrial, run_info: MakeInfo
) -> None:
    rivals = [trial("big", speedup=2.05, size_mb=8), trial("small", speedup=2.0, size_mb=2)]
    assert compare(run_info(noise_floor=0.05), rivals).reasons[1] == (
        "big cannot be told apart from it in latency (differences under 5.0 %); "
        "the smaller and simpler one wins"
    )


def test_without_a_noise_floor_one_percent_is_the_smallest_difference(
    trial: MakeTrial, run_info: MakeInfo
) -> None:
    rivals = [trial("big", speedup=2.01, size_mb=8), trial("small", speedup=2.0, size_mb=2)]
    assert compare(run_info(noise_floor=None), rivals).winner == "small"
    rivals[0] = trial("big", speedup=2.03, size_mb=8)
    assert compare(run_info(noise_floor=None), rivals).winner == "big"


def test_between_equals_of_one_size_the_simpler_one_wins(trial: MakeTrial, run_info: MakeInfo) -> None:
    rivals = [trial("three", speedup=2.0, steps=3), trial("one", speedup=2.0, steps=1)]
    assert compare(run_info(), rivals).winner == "one"


def test_a_variant_no_better_than_the_baseline_does_not_replace_it(
    trial: MakeTrial, run_info: MakeInfo
) -> None:
    got = compare(run_info(), [trial("baseline"), trial("same", speedup=1.005)])
    assert got.winner == "baseline"
    assert "nothing that fits the budget beats the plain FP32 export: ship that" in got.reasons


def test_nothing_that_fits_means_no_winner_and_every_reason_why(trial: MakeTrial, run_info: MakeInfo) -> None:
    info = run_info(budget=Budget(max_size_mb=1, max_latency_ms=3, max_memory_mb=20))
    got = compare(info, [trial("baseline"), trial("fast", speedup=2.0, losses=40)])
    assert got.winner is None
    assert not any(row.winner for row in got.rows)
    assert got.reasons == (
        "no winner: nothing fits the budget",
        "baseline: its size is 8.00 MB (budget 1); its p50 latency is 10.00 ms (budget 3); "
        "its memory is 40.00 MB (budget 20)",
        "fast: it loses 4.00 points of top-1 (budget 1); its size is 8.00 MB (budget 1); "
        "its p50 latency is 5.00 ms (budget 3); its memory is 40.00 MB (budget 20)",
    )


@pytest.mark.parametrize(
    ("objective", "winner"), [("latency", "fast"), ("size", "small"), ("memory", "frugal")]
)
def test_the_objective_decides_what_best_means(
    trial: MakeTrial, run_info: MakeInfo, objective: str, winner: str
) -> None:
    rivals = [
        trial("baseline"),
        trial("fast", speedup=3.0),
        trial("small", speedup=0.5, size_mb=1),
        trial("frugal", peak_memory_bytes=10_000_000),
    ]
    assert compare(run_info(budget=Budget(objective=objective)), rivals).winner == winner


def test_the_noise_of_times_does_not_blur_sizes_or_memory(trial: MakeTrial, run_info: MakeInfo) -> None:
    info = run_info(noise_floor=0.5, budget=Budget(objective="memory"))
    rivals = [
        trial("baseline", peak_memory_bytes=50_000_000, size_mb=1),
        trial("frugal", peak_memory_bytes=40_000_000, size_mb=8),
    ]
    assert compare(info, rivals).winner == "frugal"


def test_what_failed_or_was_skipped_keeps_its_reason_and_cannot_win(
    trial: MakeTrial, absent_trial: MakeTrial, run_info: MakeInfo
) -> None:
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


def test_a_trial_that_was_checked_and_never_timed_cannot_win(trial: MakeTrial, run_info: MakeInfo) -> None:
    got = compare(run_info(), [trial("baseline"), trial("untimed", latency=None)])
    assert got.winner == "baseline"
    assert got.rows[1].speedup is None


def test_a_run_without_trials_has_no_winner(run_info: MakeInfo) -> None:
    assert compare(run_info(), []).winner is None


def test_a_row_has_raw_units(trial: MakeTrial, run_info: MakeInfo) -> None:
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


def test_the_baseline_has_no_intervals_against_itself(trial: MakeTrial, run_info: MakeInfo) -> None:
    row = compare(run_info(), [trial("baseline")]).rows[0]
    assert (row.drop, row.drop_ci, row.speedup_ci) == (0.0, None, None)


def test_the_keys_of_a_row_are_the_documented_ones() -> None:
    assert " ".join(field.name for field in fields(Row)) == (
        "variant recipe status reason backend device opset digest size_bytes top1 drop drop_ci p50_ms p90_ms "
        "p95_ms p99_ms speedup speedup_ci throughput_ips load_ms peak_memory_bytes pareto winner"
    )


def test_the_front_holds_what_nothing_beats_in_accuracy_speed_and_size(trial: MakeTrial) -> None:
    trials = [
        trial("baseline"),
        trial("fast", speedup=3.0, losses=30),
        trial("small", speedup=0.8, size_mb=2),
        trial("worse", speedup=2.5, losses=40),
        trial("bloated", size_mb=16),
    ]
    assert pareto_front(trials) == {"baseline", "fast", "small"}


def test_a_speed_up_within_the_noise_puts_nobody_on_the_front(trial: MakeTrial) -> None:
    trials = [trial("baseline"), trial("noisy", speedup=1.03, losses=5)]
    assert pareto_front(trials, 0.05) == {"baseline"}
    assert pareto_front(trials, 0.01) == {"baseline", "noisy"}


def test_of_two_alike_neither_beats_the_other(trial: MakeTrial) -> None:
    assert pareto_front([trial("a"), trial("b")]) == {"a", "b"}


def test_what_failed_is_not_on_the_front(trial: MakeTrial, absent_trial: MakeTrial) -> None:
    assert pareto_front([trial("a"), absent_trial("b", "failed", "no")]) == {"a"}


POINT = st.tuples(st.floats(0.2, 5.0), st.integers(0, 60), st.floats(0.5, 20.0))


@given(st.lists(POINT, min_size=1, max_size=8))
def test_whoever_wins_fits_and_nobody_who_fits_is_clearly_faster(
    trial: MakeTrial, run_info: MakeInfo, points: list[tuple[float, int, float]]
) -> None:
    trials = [
        trial(f"v{number}", speedup=speedup, losses=losses, size_mb=size)
        for number, (speedup, losses, size) in enumerate(points)
    ]
    got = compare(run_info(noise_floor=0.02), trials)
    fitting = [t for t in trials if accuracy_verdict(t, Budget()) == "within"]
    assert (got.winner is None) is (not fitting)
    for row in got.rows:
        if row.winner:
            assert row.variant in {t.variant for t in fitting}
            fastest = max(r.speedup or 0 for r in got.rows if r.variant in {t.variant for t in fitting})
            assert (row.speedup or 0) * 1.0201 >= fastest


def saved_run(results: Path, info: RunInfo, trials: list[TrialResult]) -> str:
    folder = RunFolder.create(results)
    folder.save_info(info.model_copy(update={"run_id": folder.run_id}))
    for one in trials:
        folder.append(one)
    return folder.run_id


def test_the_latest_run_is_compared_unless_others_are_named(
    tmp_path: Path, trial: MakeTrial, run_info: MakeInfo
) -> None:
    first = saved_run(tmp_path, run_info(), [trial("baseline")])
    second = saved_run(tmp_path, run_info(), [trial("baseline"), trial("a", speedup=2.0)])
    assert [c.info.run_id for c in compare_runs(tmp_path, [], mix_machines=False)] == [second]
    both = compare_runs(tmp_path, [first, second], mix_machines=False)
    assert [(c.info.run_id, c.winner) for c in both] == [(first, "baseline"), (second, "a")]


def test_runs_of_different_machines_are_not_shown_together_unless_asked(
    tmp_path: Path, trial: MakeTrial, run_info: MakeInfo
) -> None:
    info = run_info()
    other: Machine = info.machine.model_copy(update={"cpu": "Another CPU"})
    runs = [
        saved_run(tmp_path, info, [trial("baseline")]),
        saved_run(tmp_path, run_info(machine=other), [trial("baseline")]),
    ]
    with pytest.raises(WorkbenchError) as caught:
        compare_runs(tmp_path, runs, mix_machines=False)
    assert caught.value.message == "these runs were measured on 2 different machines"
    assert "--mix-machines" in (caught.value.hint or "")
    assert len(compare_runs(tmp_path, runs, mix_machines=True)) == 2


def test_a_new_python_or_kernel_is_not_a_new_machine(
    tmp_path: Path, trial: MakeTrial, run_info: MakeInfo
) -> None:
    info = run_info()
    upgraded = info.machine.model_copy(update={"python": "3.14.0", "system": "Linux 7"})
    runs = [
        saved_run(tmp_path, info, [trial("baseline")]),
        saved_run(tmp_path, run_info(machine=upgraded), [trial("baseline")]),
    ]
    assert len(compare_runs(tmp_path, runs, mix_machines=False)) == 2
