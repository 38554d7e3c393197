"""What a run's stress record certifies, and what `budget.field` makes of it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.builders import counts, run_info, trial
from workbench.measure.records import SameAnswers, TooFewToSplit
from workbench.measure.stats import PairedDrop
from workbench.photos.stress import METHOD, STRESSES
from workbench.report.verdict import sections, shortfalls
from workbench.results import reasons
from workbench.results.folder import RunFolder
from workbench.results.records import Budget, FieldBudget, RunInfo, TrialResult
from workbench.results.stress import (
    StressCell,
    StressedVariant,
    StressRecord,
    certificate,
    field_shortfalls,
    merge,
    read_stress,
    stress_lines,
    write_stress,
)
from workbench.results.verdict import compare

FIELD = Budget(field=FieldBudget(severity=3, max_drop=0.02))
TRIALS = [trial("baseline", artifact_digest="b"), trial("int8", speedup=2.0, artifact_digest="a")]


def cell(stress: str, losses: int = 0, gains: int = 0, severity: int = 3, images: int = 1000) -> StressCell:
    accuracy = counts(losses, gains, images, correct=round(0.9 * images))
    return StressCell(stress=stress, severity=severity, accuracy=accuracy, baseline_ece=0.02)


def stressed(*cells: StressCell, of: TrialResult = TRIALS[1]) -> StressedVariant:
    return StressedVariant(
        variant=of.variant, digest=of.digest, artifact_digest=of.artifact_digest, cells=cells
    )


def record(*variants: StressedVariant, **changed: Any) -> StressRecord:
    values: dict[str, Any] = {
        "method": METHOD,
        "run_id": "r",
        "measured_at": datetime(2026, 1, 2, tzinfo=UTC),
        "validation_digest": "d" * 64,
        "baseline_digest": "b",
        "held_out": True,
        "libraries": {},
        "variants": variants,
    }
    return StressRecord(**{**values, **changed})


def every(losses: int, **changed: int) -> list[StressCell]:
    return [cell(name, changed.get(name, losses)) for name in STRESSES]


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (5, 0), (12, 6), (30, 5)])
def test_the_p_value_of_a_drop_is_where_its_bound_meets_the_margin(losses: int, gains: int) -> None:
    drop = PairedDrop(losses, gains, 1000)
    p = drop.p_beyond(0.02)
    assert drop.within(0.02, 1 - 1.01 * p) or p > 0.98
    assert not drop.within(0.02, 1 - 0.99 * p)
    assert (p <= 0.05) == (drop.upper_bound() <= 0.02)


def test_holm_certifies_each_stress_or_fewer_than_the_bounds_alone_would() -> None:
    found = certificate([cell("dusk", 2, 2), cell("rotation", 11, 0), cell("messenger", 30)], 0.02)
    alone = [each.cell.accuracy.paired.p_beyond(0.02) for each in found]
    assert [each.p for each in found] == pytest.approx([3 * alone[0], 2 * alone[1], alone[2]], rel=1e-6)
    assert [each.certified for each in found] == [True, alone[1] <= 0.025, False]
    twice = certificate([each.cell for each in found], 0.02, candidates=2)
    assert twice[0].p == pytest.approx(2 * found[0].p)


def check(found: StressRecord | None, info: RunInfo | None = None) -> str:
    return shortfalls(field_shortfalls(TRIALS[1], info or run_info(budget=FIELD), TRIALS, found))


def test_without_a_rule_nothing_is_missed_and_with_one_it_must_be_measured() -> None:
    assert check(None, run_info()) == ""
    command = "`krishi-bench stress 20260102-030405 --variant int8 --severity 3`"
    assert check(None) == f"not measured under field stresses of severity 3: {command}"
    some = record(stressed(*every(0)[:-2]))
    assert check(some) == f"not measured under rain-drops, messenger of severity 3: {command}"
    other = record(stressed(*(each.model_copy(update={"severity": 2}) for each in every(0))))
    assert check(other) == check(None)


def test_every_stress_must_be_certified() -> None:
    assert check(record(stressed(*every(0)))) == ""
    missed = check(record(stressed(*every(0, dusk=25))))
    assert missed.startswith("under dusk of severity 3: drop 2.50 points (95 % bound 3.47, budget 2; p ")
    assert "over all stresses, 1,000 photos)" in missed
    leak = run_info(budget=FIELD, leak=True, uncertified="3 photos are in both")
    assert check(record(stressed(*every(0))), leak) == "3 photos are in both"


def test_photos_that_chose_the_winner_must_show_more() -> None:
    few = run_info(budget=FIELD, uncertified=TooFewToSplit(images=500, drop_upper=0.02))
    cells = [cell(name, images=400) for name in STRESSES]
    assert check(record(stressed(*cells))) == ""
    many = [*TRIALS, *(trial(f"other{n}") for n in range(40))]
    assert field_shortfalls(TRIALS[1], few, many, record(stressed(*cells)))


def test_the_baseline_and_its_equals_need_no_stress() -> None:
    info = run_info(budget=FIELD)
    same = trial("fp32", same_answers=SameAnswers(images=9, max_rel=0, bound=1e-4))
    assert field_shortfalls(TRIALS[0], info, TRIALS, None) == ()
    assert field_shortfalls(same, info, TRIALS, None) == ()


def test_what_is_of_other_photos_models_or_methods_is_not_used(tmp_path: Path) -> None:
    folder, info = RunFolder(tmp_path), run_info()
    assert read_stress(folder, info, TRIALS) is None
    good = record(stressed(*every(0)))
    write_stress(folder, good)
    assert read_stress(folder, info, TRIALS) == good
    rebuilt = [TRIALS[0], trial("int8", artifact_digest="other")]
    assert read_stress(folder, info, rebuilt) == record()
    for changed in ({"validation_digest": "e" * 64}, {"baseline_digest": "c"}, {"method": "stress-0"}):
        write_stress(folder, good.model_copy(update=changed))
        assert read_stress(folder, info, TRIALS) is None


def test_new_figures_take_the_place_of_those_of_no_more_photos() -> None:
    old = stressed(cell("messenger", 1), cell("dusk", 1, images=2000))
    new = stressed(cell("dusk", 9), cell("messenger", 3), cell("dusk", 4, severity=5))
    found = merge(old, new).cells
    assert [(c.stress, c.severity, c.accuracy.losses) for c in found] == [
        ("dusk", 3, 1),
        ("dusk", 5, 4),
        ("messenger", 3, 3),
    ]


def test_a_comparison_notes_what_the_rule_waits_for() -> None:
    info = run_info(budget=FIELD)
    unmeasured = compare(info, TRIALS)
    (reason,) = [r for r in unmeasured.verdict.reasons if isinstance(r, reasons.FieldCheck)]
    assert (reason.variant, reason.severity, reason.limit) == ("int8", 3, 0.02)
    notes = [line for section in sections(unmeasured, verbose=False) for line in section.lines]
    begin = "budget.field, at most 2 points at severity 3, int8: "
    assert [line for line in notes if line.startswith(begin + "not measured under field stresses")]
    certified = sections(compare(info, TRIALS, record(stressed(*every(0)))), verbose=False)
    assert begin + "certified" in [line for section in certified for line in section.lines]
    assert not any(r.kind == "field_check" for r in compare(run_info(), TRIALS).verdict.reasons)


def test_a_line_has_the_class_that_loses_most_and_both_calibration_errors() -> None:
    found = stress_lines(
        record(stressed(cell("dusk", 30, 5))), run_info(class_names=("rust",)), TRIALS, ["int8"]
    )
    (line,) = found
    assert (line.worst_class, line.worst_class_lost, line.worst_class_images) == ("rust", 25, 1000)
    assert (line.baseline_top1, line.drop) == pytest.approx((0.9, 0.025))
    assert (line.baseline_ece, line.certified) == (0.02, False)
