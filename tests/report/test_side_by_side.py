"""Runs of several machines, the pairs of one, and where its time went, as they read."""

import json

import pytest

from tests.builders import MACHINE, run_info, trial
from workbench.measure.pairs import Difference
from workbench.report import pairs, render, timings
from workbench.results.verdict import Comparison, compare

BOARD = MACHINE.model_copy(update={"cpu": "A small board", "cores": 2})
PAIRS = [
    Difference("quicker", "quick", "final", 12, 1.031, (1.012, 1.05), 0.0004),
    Difference("quick", "baseline", "race", 4, 2.0, None, None),
]


@pytest.fixture(scope="module")
def two_machines() -> list[Comparison]:
    here = compare(run_info(), [trial("baseline"), trial("quick", speedup=2.0)])
    there = compare(
        run_info(run_id="20270101-000000", machine=BOARD),
        [trial("baseline", rounds=[1.0] * 6), trial("slow", speedup=0.5)],
    )
    return [here, there]


def test_runs_of_two_machines_begin_with_what_differs_and_stand_side_by_side(
    two_machines: list[Comparison],
) -> None:
    lines = [" ".join(line.split()) for line in render("table", two_machines).splitlines()]
    assert lines[:12] == [
        "what differs 1: 20260102-030405 2: 20270101-000000",
        "machine.cpu Test CPU @ 2.00GHz A small board",
        "machine.cores 4 2",
        "",
        "variant 1: ms speed-up 2: ms speed-up",
        "baseline 10.00 1.00 ▶ 10.00 1.00",
        "quick ▶ 5.00 2.00 [2.00, 2.00] – –",
        "slow – – 20.00 0.50 [0.50, 0.50]",
        "each speed-up is over the baseline of its own run; times of different machines do not compare",
        "",
        "leaves, run 20260102-030405: 1,000 validation photos",
        "Test CPU @ 2.00GHz, 4 cores; noise floor of speed-ups 2.0 %",
    ]


def test_markdown_begins_with_what_differs_too(two_machines: list[Comparison]) -> None:
    text = render("markdown", two_machines)
    assert 0 < text.index("machine.cpu") < text.index("own run") < text.index("validation photos")


def test_runs_of_one_machine_follow_each_other_without_that(two_machines: list[Comparison]) -> None:
    assert "what differs" not in render("table", two_machines[:1] * 2)


def test_the_json_of_several_runs_names_what_differs(two_machines: list[Comparison]) -> None:
    assert json.loads(render("json", two_machines))["differences"] == [
        {"what": "machine.cpu", "values": ["Test CPU @ 2.00GHz", "A small board"]},
        {"what": "machine.cores", "values": ["4", "2"]},
    ]


def test_a_table_of_three_machines_fits_a_terminal(two_machines: list[Comparison]) -> None:
    text = render("table", [*two_machines, two_machines[1]])
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


def test_pairs_read_like_this() -> None:
    assert pairs.text(PAIRS).splitlines() == [
        "faster   slower    by [95 %]         p       rounds  session",
        "quicker  quick     3.1 % [1.2, 5.0]  <0.001  12      final",
        "quick    baseline  100 %             –       4       race",
        "p and intervals hold for all pairs together (Holm); p below 0.05: the two differ",
    ]
    assert pairs.as_csv(PAIRS).splitlines() == [
        "faster,slower,session,rounds,ratio,ratio_low,ratio_high,p",
        "quicker,quick,final,12,1.031,1.012,1.05,0.0004",
        "quick,baseline,race,4,2.0,,,",
    ]
    assert json.loads(pairs.as_json(PAIRS))["pairs"][0]["interval"] == [1.012, 1.05]


def test_the_winner_and_the_next_best_are_compared_in_a_line_of_their_own() -> None:
    found = compare(run_info(), [trial("baseline"), trial("a", speedup=0.8)])
    assert "baseline: 8.00 MB\n  25 % [25, 25] faster than a\n" in render("table", [found])
    close = compare(run_info(), [trial("baseline"), trial("a", rounds=[0.96, 1.0, 0.97, 1.02, 0.98, 0.99])])
    assert "faster than a, which may be chance" in render("table", [close])


def test_the_stages_are_told_in_order_with_their_shares() -> None:
    found = {"extras": 2.0, "final": 5.0, "race": 0.01, "reading": 2.99}
    assert timings.lines(found) == [
        "reading the checkpoint and the photos: 3.0 s (30 %)",
        "timing the finalists: 5.0 s (50 %)",
        "throughput, whole path, and saving what was timed: 2.0 s (20 %)",
        "in all: 10.0 s",
    ]
