"""Conditions of a gate, the regions of its outcomes, and how often it is wrong."""

import math
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.builders import error_of
from workbench.measure.stats import PairedDrop
from workbench.results.gate import (
    Absence,
    Drop,
    Exact,
    FailCondition,
    Finding,
    GateReport,
    Kind,
    Observation,
    Ratios,
    judge,
    parse_conditions,
)
from workbench.results.records import Budget

BUDGET = Budget(max_accuracy_drop=0.02)
ROUNDS, LAUNCH_SD = 20, 0.015


def observed(
    evidence: Any, kind: Kind = "latency", margin: float = 0.05, candidate: str = "new"
) -> Observation:
    return Observation(candidate, FailCondition(kind=kind, margin=margin), evidence, 1e6, 1e6)


def ratios(truth: float, rng: random.Random, rounds: int = ROUNDS, sd: float = LAUNCH_SD) -> Ratios:
    """Of a candidate that takes 1 + truth times as long."""
    return Ratios(tuple(math.log1p(truth) + rng.gauss(0, sd) for _ in range(rounds)))


def outcome(observation: Observation) -> str:
    return judge([observation], {})[0].outcome


def report(*findings: Finding, strict: bool = False, absent: tuple[Absence, ...] = ()) -> GateReport:
    return GateReport(
        name="leaf",
        run="results/gates/1",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        machine="Test CPU",
        reference="1.2.0 (production)",
        candidates=("new",),
        findings=findings,
        absent=absent,
        images=600,
        strict=strict,
    )


def test_conditions_are_read_as_they_are_written_and_accuracy_takes_the_budget() -> None:
    found = parse_conditions("accuracy, p95>5%, size > 2.5 %", BUDGET)
    assert [condition.text for condition in found] == ["accuracy>2%", "p95>5%", "size>2.5%"]
    assert parse_conditions("Accuracy>1%", BUDGET)[0].margin == 0.01


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("lateny>5%", "`lateny` is not measured", "did you mean `latency`?"),
        ("p50>5%", "`p50` is not measured", "the median is `latency`"),
        ("colour>5%", "`colour` is not measured", "there are accuracy, latency, p95"),
        ("p95", "`p95` has no margin", "`p95>5%`"),
        ("p95>5", "`p95>5` is not a condition", "accuracy, p95>5%, size>10%"),
        ("size<5%", "`size<5%` is not a condition", "accuracy, p95>5%, size>10%"),
        ("size>1%, size>2%", "`size` is there twice", "one margin"),
        ("throughput>100%", "can never fail", "less than 100 %"),
        ("accuracy,", "a condition is empty", "accuracy, p95>5%, size>10%"),
    ],
)
def test_a_condition_that_cannot_be_read_is_one_message_with_the_remedy(
    text: str, message: str, hint: str
) -> None:
    error = error_of(lambda: parse_conditions(text, BUDGET))
    assert error.message.startswith("--fail-on: ")
    assert message in error.message
    assert hint in (error.hint or "")


def test_an_outcome_is_the_region_that_holds_the_whole_interval() -> None:
    rng = random.Random(1)
    assert outcome(observed(ratios(0, rng))) == "SAME"
    assert outcome(observed(ratios(0.09, rng))) == "SLOWER"
    assert outcome(observed(ratios(-0.3, rng))) == "FASTER"
    assert outcome(observed(ratios(0.05, rng))) == "AMBIGUOUS"
    assert outcome(observed(ratios(0.2, rng, rounds=5))) == "AMBIGUOUS"
    assert outcome(observed(None)) == "AMBIGUOUS"


def test_sizes_have_no_interval_and_are_worse_or_better() -> None:
    sizes = {1.2: "WORSE", 1.1: "SAME", 0.95: "SAME", 0.5: "BETTER"}
    for ratio, wanted in sizes.items():
        (found,) = judge([observed(Exact(math.log(ratio)), "size", 0.1)], {})
        assert (found.outcome, found.interval, found.p) == (wanted, None, None)
        assert found.change == pytest.approx(ratio - 1)


def test_an_accuracy_is_worse_where_the_whole_interval_of_the_paired_drop_is() -> None:
    def of(losses: int, gains: int, total: int = 1000) -> Finding:
        return judge([observed(Drop(PairedDrop(losses, gains, total)), "accuracy", 0.01)], {})[0]

    assert of(60, 2).outcome == "WORSE"
    assert of(2, 60).outcome == "BETTER"
    assert of(2, 3).outcome == "SAME"
    assert of(12, 4).outcome == "AMBIGUOUS"  # 0.8 points lost, perhaps more than 1
    found = of(60, 2)
    assert found.change == pytest.approx(-0.058)
    assert found.interval is not None
    assert found.interval[0] < -0.058 < found.interval[1] < -0.01


def test_fewer_photos_a_second_are_worse() -> None:
    (found,) = judge([observed(ratios(0.3, random.Random(1)), "throughput", 0.1)], {})
    assert found.outcome == "SLOWER"
    assert found.change == pytest.approx(1 / 1.3 - 1, abs=0.02)
    assert found.interval is not None
    assert found.interval[0] < found.change < found.interval[1] < -0.1


def test_where_copies_of_the_reference_differ_as_much_no_time_is_called_slower() -> None:
    rng = random.Random(1)
    seen = [observed(ratios(0.3, rng)), observed(ratios(0.3, rng), "load", 0.05)]
    slower, load = judge(seen, {"latency": ratios(0.2, rng)})
    assert (slower.outcome, load.outcome) == ("AMBIGUOUS", "SLOWER")
    assert "two copies of the reference" in (slower.reason or "")


def test_a_gate_of_many_conditions_at_their_margins_fails_in_no_more_than_one_of_forty() -> None:
    rng, gates, failed = random.Random(3), 400, 0
    for _ in range(gates):
        seen = [observed(ratios(0.05, rng), candidate=str(number)) for number in range(6)]
        failed += any(finding.regression for finding in judge(seen, {}))
    # 1 of 40 is 10; 19 would be seen by chance in less than one of a hundred such tests.
    assert failed < 19


def test_a_gate_sees_nine_per_cent_and_is_not_fooled_by_the_same_file() -> None:
    rng = random.Random(4)
    found = [
        [f.outcome for f in judge([observed(ratios(truth, rng)) for truth in (0.0, 0.09)], {})]
        for _ in range(100)
    ]
    assert sum(slower == "SLOWER" for _, slower in found) >= 93
    assert all(same in ("SAME", "AMBIGUOUS") for same, _ in found)


def test_the_exit_code_is_of_regressions_and_strictly_of_what_may_be_one() -> None:
    rng = random.Random(1)
    seen = [observed(ratios(truth, rng)) for truth in (0.0, 0.05, 0.2, -0.05)]
    same, unsure, slower, perhaps_faster = judge(seen, {})
    assert [f.outcome for f in (same, unsure, slower, perhaps_faster)] == [
        "SAME",
        "AMBIGUOUS",
        "SLOWER",
        "AMBIGUOUS",
    ]
    assert report(same, unsure).exit_code == 0
    assert report(same, unsure, strict=True).exit_code == 1
    assert report(same, perhaps_faster, strict=True).exit_code == 0  # it cannot be slower
    assert report(same, slower).exit_code == 1
    skipped, failed = (Absence(candidate="other", status=s, reason="") for s in ("skipped", "failed"))
    assert report(same, absent=(skipped,)).exit_code == 0
    assert report(same, absent=(failed,)).exit_code == 2
    assert report(slower, absent=(failed,)).exit_code == 1
    assert report(absent=(skipped,)).exit_code == 2


def test_a_report_survives_its_file() -> None:
    made = report(*judge([observed(ratios(0.2, random.Random(1)))], {}))
    assert GateReport.model_validate_json(made.model_dump_json()) == made
