"""The side-by-side table: what counts as within the budget, as the best of the others, and as faster."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROUNDS = (-0.01, 0.0, 0.01, -0.02, 0.02, 0.0, 0.01, -0.01)  # noise, in logarithms


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_table", BENCHMARKS / "peers_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logs(center: float) -> tuple[float, ...]:
    return tuple(center + noise for noise in ROUNDS)


def row(table: ModuleType, name: str, maker: str, log_ratio: float, losses: int) -> Any:
    return table.Row(
        name=name, maker=maker, runs_on="onnxruntime, 128 px", top1=0.9, losses=losses, gains=0,
        certifying=500, p50_ns=2e6, size_bytes=1_000_000, round_log_ratios=logs(log_ratio),
    )  # fmt: skip


def model(table: ModuleType, rows: list[Any], duel: float) -> Any:
    return table.Model(
        name="net", source="0", photos=1000, certifying=500, uncertified=None, calibrating=300, max_drop=0.01,
        date="2026-01-01", cpu="a CPU", cores=2, libraries={"onnxruntime": "1"}, peer_libraries={},
        rows=tuple(rows), against=table.fastest_within(rows, 0.01).name, duel_log_ratios=logs(duel),
    )  # fmt: skip


@pytest.fixture
def rows(table: ModuleType) -> list[Any]:
    return [
        row(table, "FP32", "baseline", 0.0, 0),
        row(table, "fast but wrong", "peer", -1.0, 30),
        row(table, "good", "peer", -0.5, 0),
        table.Row(name="broken", maker="peer", reason="exit code 1: a | b"),
        row(table, "tune", "ours", -0.7, 0),
    ]


def test_an_artifact_of_others_counts_only_where_its_drop_is_certified(
    table: ModuleType, rows: list[Any]
) -> None:
    assert table.fastest_within(rows, 0.01).name == "good"
    assert not rows[1].meets(0.01)
    # 0 of 100 photos lost is no certificate of a drop under one point.
    assert not rows[2].model_copy(update={"certifying": 100}).meets(0.01)


def test_where_nothing_of_others_fits_the_plain_file_is_the_one_to_beat(
    table: ModuleType, rows: list[Any]
) -> None:
    assert table.fastest_within([rows[0], rows[1], rows[3], rows[4]], 0.01).name == "FP32"


@pytest.mark.parametrize(("log_ratio", "outcome"), [(-0.2, "faster"), (0.0, "even"), (0.2, "slower")])
def test_faster_and_slower_take_an_interval_without_one(
    table: ModuleType, rows: list[Any], log_ratio: float, outcome: str
) -> None:
    assert model(table, rows, log_ratio).outcome == outcome


def test_ours_that_breaks_the_budget_wins_nothing(table: ModuleType, rows: list[Any]) -> None:
    broken = [*rows[:-1], rows[-1].model_copy(update={"losses": 30})]
    assert model(table, broken, -0.2).outcome == "none"


def test_the_page_has_a_line_for_everybody_and_a_verdict(table: ModuleType, rows: list[Any]) -> None:
    results = table.Results(command="peers.py").with_model(model(table, rows, -0.2))
    page = table.markdown(results)
    assert "| broken |  |  | | | | | no: exit code 1: a / b |" in page
    assert "**Ours is faster** than the best that meets the budget, `good`: 1.22 times" in page
    assert "Faster: 1 of 1." in page
    assert table.Results.model_validate_json(results.model_dump_json()) == results


def test_a_model_measured_again_replaces_what_was_known(table: ModuleType, rows: list[Any]) -> None:
    results = table.Results(command="peers.py").with_model(model(table, rows, 0.2))
    again = results.with_model(model(table, rows, -0.2))
    assert [each.outcome for each in again.models] == ["faster"]
