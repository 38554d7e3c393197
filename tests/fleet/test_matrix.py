"""From what devices measured to a winner for each class, and one file for all."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.builders import run_info, trial
from tests.fleet.simulated import SimulatedDevice, driver_over, fleet_of
from workbench.fleet.matrix import DeviceResults, build_matrix, matrix_of
from workbench.fleet.records import FleetRun, SavedRecipe, devices_of
from workbench.report.fleet import matrix_answer, matrix_text
from workbench.results.records import TrialResult

VARIANTS = ["int8", "fp16"]


def fleet_run(classes: dict[str, str]) -> FleetRun:
    return FleetRun(
        run_id="20260102-030405",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        name="leaf",
        validation_digest="d" * 64,
        recipes={name: SavedRecipe(recipe=name, text="") for name in VARIANTS},
        devices=devices_of(fleet_of(classes)),
    )


def results(device: str, *trials: TrialResult) -> DeviceResults:
    found = (trial("baseline", size_mb=9.0), *trials)
    return DeviceResults(device, run_info(), {each.variant: each for each in found})


def test_each_class_has_its_winner_and_one_file_is_least_bad_for_all() -> None:
    classes = {"a": "pi5", "b": "x86"}
    found = {
        "pi5": [
            results("a", trial("int8", speedup=3.0, size_mb=2.0), trial("fp16", speedup=1.6, size_mb=4.0))
        ],
        "x86": [
            results("b", trial("int8", speedup=0.8, size_mb=2.0), trial("fp16", speedup=2.0, size_mb=4.0))
        ],
    }
    matrix = build_matrix(fleet_run(classes), found)
    assert matrix.winners == {"pi5": "int8", "x86": "fp16"}
    assert matrix.one is not None and matrix.one.variant == "fp16"
    assert {name: round(regret, 3) for name, regret in matrix.one.regrets.items()} == {
        "pi5": 0.875,
        "x86": 0.0,
    }
    assert matrix.opposed == {"int8": (("pi5",), ("x86",))}


def test_a_winner_costs_its_own_class_nothing_though_another_was_ahead_by_chance() -> None:
    found = {
        "pi5": [results("a", trial("int8", speedup=2.0, size_mb=2.0), trial("fp16", speedup=2.01))],
        "x86": [results("b", trial("int8", speedup=2.0, size_mb=2.0), trial("fp16", speedup=1.5))],
    }
    matrix = build_matrix(fleet_run({"a": "pi5", "b": "x86"}), found)
    assert matrix.winners == {"pi5": "int8", "x86": "int8"}
    assert matrix.one is not None and matrix.one.variant == "int8"
    assert matrix.one.regrets == {"pi5": 0.0, "x86": 0.0}


def test_devices_of_one_class_are_averaged_and_their_spread_is_kept() -> None:
    found = {
        "pi5": [
            results("a", trial("int8", speedup=2.0), trial("fp16", speedup=1.0, losses=50)),
            results("b", trial("int8", speedup=3.0), trial("fp16", speedup=1.0)),
        ]
    }
    matrix = build_matrix(fleet_run({"a": "pi5", "b": "pi5"}), found)
    cell = matrix.cells["int8"]["pi5"]
    assert round(cell.speedup or 0, 3) == round(6**0.5, 3)
    assert (round(cell.low or 0, 3), round(cell.high or 0, 3)) == (2.0, 3.0)
    assert not matrix.cells["fp16"]["pi5"].fits  # it loses too much on one of them


def test_what_no_class_can_run_is_said_once(tmp_path: Path) -> None:
    devices = {
        "a": SimulatedDevice("a", "refuses", {}),
        "b": SimulatedDevice("b", "away", {}),
    }
    driver = driver_over(tmp_path, devices, {"a": "pi5", "b": "x86"}, ["int8"])
    status = driver.measure(["a", "b"])
    matrix = matrix_of(driver.folder)
    text = matrix_text(matrix, status)
    assert "int8 runs on none of the classes: this processor has no vnni" in text
    assert "b (x86) gone: it cannot be reached" in text
    assert f"`krishi-bench run --fleet --resume {status.run.run_id}`" in text
    answer = matrix_answer(matrix, status)
    assert answer["winners"] == {"pi5": "baseline"}
    assert answer["devices"]["b"]["state"] == "gone"
    killed = status.outcomes["b"].model_copy(update={"state": "measuring", "reason": None})
    text = matrix_text(matrix, replace(status, outcomes={**status.outcomes, "b": killed}))
    assert "b (x86) measuring: the driver was killed, or is still at it" in text


def test_the_table_marks_winners_and_says_what_one_file_costs() -> None:
    found = {
        "pi5": [results("a", trial("int8", speedup=3.0, size_mb=2.0), trial("fp16", speedup=1.6))],
        "x86": [results("b", trial("int8", speedup=0.8, size_mb=2.0), trial("fp16", speedup=2.0))],
    }
    run = fleet_run({"a": "pi5", "b": "x86"})
    from workbench.fleet.records import DeviceOutcome, FleetStatus

    since = datetime(2026, 1, 2, tzinfo=UTC)
    status = FleetStatus(run, {name: DeviceOutcome(state="done", since=since) for name in "ab"})
    lines = matrix_text(build_matrix(run, found), status).splitlines()
    assert lines[0] == "leaf, run 20260102-030405: measured on pi5 (a), x86 (b)"
    assert [line.split() for line in lines[2:7]] == [
        ["variant", "pi5", "x86"],
        ["baseline", "1.00×", "1.00×"],
        ["int8", "▶", "3.00×", "[3.00,", "3.00]", "0.80×", "[0.80,", "0.80]"],
        ["fp16", "1.60×", "[1.60,", "1.60]", "▶", "2.00×", "[2.00,", "2.00]"],
        ["one", "file", "for", "all", "88", "%", "more", "the", "best"],
    ]
    assert "  int8 is faster than the baseline on pi5 and slower on x86" in lines
