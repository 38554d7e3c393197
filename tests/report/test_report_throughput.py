"""The table of photos a second at saturation, and the sentence on a winner by it."""

import math
from dataclasses import replace

from tests.builders import run_info, trial
from workbench.backends import OrtRuntime
from workbench.report import render, throughput
from workbench.results.records import Budget
from workbench.results.verdict import compare

LOGS = tuple(math.log(1.8) + off for off in (-0.02, -0.01, 0.0, 0.0, 0.01, 0.02))
RIVALS = [
    trial("baseline", saturated_ips=100.0, saturated_log_ratios=(0.0,) * 6),
    trial("batched", speedup=1.5, saturated_ips=181.0, saturated_log_ratios=LOGS),
    trial("alone"),
]
RUNTIMES = {
    "baseline": OrtRuntime(threads=1),
    "batched": OrtRuntime(threads=1, batch=8),
    "alone": OrtRuntime(),
}


def test_the_table_has_those_that_were_measured_and_their_ratio_with_its_interval() -> None:
    info = run_info(runtimes=RUNTIMES, budget=Budget(objective="throughput"))
    comparison = compare(info, RIVALS)
    (grid,) = throughput.grids(info, comparison.rows)
    assert [row[1] for row in grid.rows] == ["baseline", "batched"]
    assert [row[2] for row in grid.rows] == ["1", "8"]
    assert grid.rows[1][4:] == ("181", "1.80 [1.77, 1.83]")
    text = render("table", [comparison])
    assert grid.title in text
    assert "batched: 1.80 times the baseline's photos a second [1.77, 1.83], 1.50 times the" in text


def test_a_ratio_of_too_few_launches_is_shown_only_where_it_decides() -> None:
    few = [*RIVALS[:1], trial("batched", speedup=1.5, saturated_ips=181.0, saturated_log_ratios=LOGS[:2])]
    shown = {}
    for objective in ("latency", "throughput"):
        info = run_info(runtimes=RUNTIMES, budget=Budget.model_validate({"objective": objective}))
        (grid,) = throughput.grids(info, compare(info, few).rows)
        shown[objective] = ([row[5] for row in grid.rows], grid.note)
    assert shown["latency"] == (["1.00", "–"], "a ratio takes 6 launches of each; there was time for fewer")
    assert shown["throughput"] == (["1.00", "1.77"], "")


def test_a_baseline_alone_has_no_table() -> None:
    info = run_info(runtimes=RUNTIMES)
    rows = compare(info, RIVALS).rows
    assert throughput.grids(info, [rows[0], replace(rows[2])]) == []
