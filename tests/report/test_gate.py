"""A gate as people and machines read it."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tests.builders import error_of, run_info
from workbench.measure.stats import PairedDrop
from workbench.report import gate, junit, pytest_benchmark
from workbench.results.gate import (
    Absence,
    Drop,
    Exact,
    FailCondition,
    GateReport,
    Kind,
    Observation,
    Ratios,
    TwinReading,
    judge,
)


def condition(kind: Kind, margin: float) -> FailCondition:
    return FailCondition(kind=kind, margin=margin)


SPREAD = (-0.01, 0.0, 0.01) * 4
SLOWER, SURE = (Ratios(tuple(math.log(1.1) + each for each in SPREAD)), condition("p95", 0.05))
UNSURE = Ratios(tuple(math.log(1.05) + each for each in SPREAD))
REPORT = GateReport(
    name="leaf",
    run="results/gates/1",
    created_at=datetime(2026, 1, 2, tzinfo=UTC),
    machine="Test CPU",
    reference="1.2.0 (production)",
    candidates=("ship", "ship-gpu"),
    findings=judge(
        [
            Observation("ship", condition("accuracy", 0.01), Drop(PairedDrop(1, 2, 5000)), 0.97, 0.9702),
            Observation("ship", SURE, SLOWER, 1.2e6, 1.32e6),
            Observation("ship", condition("latency", 0.05), UNSURE, 1.0e6, 1.05e6),
            Observation("ship", condition("size", 0.1), Exact(math.log(1.25)), 8e6, 10e6),
        ],
        {},
    ),
    absent=(Absence(candidate="ship-gpu", status="skipped", reason="no NVIDIA driver is here"),),
    images=5000,
    rounds=12,
    twin=TwinReading(change=0.003, interval=(-0.01, 0.016)),
)


def test_the_table_marks_what_fails_and_says_why() -> None:
    assert gate.text(REPORT) == (
        """\
leaf: ship, ship-gpu against 1.2.0 (production), measured together here
5,000 validation photos, 12 rounds; Test CPU
A/A: the time of a second copy of the reference: 0.3 % [−1.0, 1.6]
  candidate  condition    reference  candidate's  change [interval]           outcome
  ship       accuracy>1%  97.00 %    97.02 %      +0.02 points [−0.10, 0.15]  SAME
✗ ship       p95>5%       1.200 ms   1.320 ms     +10.0 % [9.0, 11.0]         SLOWER
  ship       latency>5%   1.000 ms   1.050 ms     +5.0 % [4.2, 5.8]           AMBIGUOUS
✗ ship       size>10%     8.000 MB   10.000 MB    +25.0 %                     WORSE

ship takes 10.0 % longer at the 95th percentile [9.0, 11.0]; the margin is 5 %
ship is 25.0 % larger; the margin is 10 %
ship, latency>5%: +5.0 % [4.2, 5.8]: the interval reaches over the margin; a larger --rounds and
  --time-budget narrow it
ship-gpu was skipped: no NVIDIA driver is here
the intervals hold for all conditions and candidates together at 95 %
FAILED: ship: 2 conditions of 4
"""
    )


def test_markdown_is_a_table_with_what_fails_in_bold() -> None:
    lines = gate.markdown(REPORT).splitlines()
    assert lines[0] == "### ❌ krishi-bench gate: leaf"
    assert "| ship | size>10% | 8.000 MB | 10.000 MB | +25.0 % | **WORSE** |" in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_annotations_escape_what_github_would_read_as_its_own() -> None:
    found = gate.annotations(REPORT)
    assert [line.partition(" ")[0] for line in found] == ["::error", "::warning", "::error", "::warning"]
    assert found[2] == (
        "::error title=krishi-bench gate size>10%25%3A WORSE::ship is 25.0 %25 larger; the margin is 10 %25"
    )


def test_junit_has_a_test_case_a_condition_and_candidate() -> None:
    root = ElementTree.fromstring(junit.render(REPORT))
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == (
        "5",
        "2",
        "0",
        "2",
    )
    found = {
        (case.get("classname"), case.get("name")): [part.tag for part in case]
        for case in root.iter("testcase")
    }
    assert found == {
        ("ship", "accuracy>1%"): ["system-out"],
        ("ship", "p95>5%"): ["failure"],
        ("ship", "latency>5%"): ["skipped"],
        ("ship", "size>10%"): ["failure"],
        ("ship-gpu", "measured"): ["skipped"],
    }


def test_pytest_benchmark_compares_what_is_written_for_it_and_we_read_it_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    calls = {
        "variant": np.repeat(["baseline", "ship"], 100),
        "time_ns": np.concatenate([rng.normal(10e6, 1e5, 100), rng.normal(20e6, 1e5, 100)]).astype(np.int64),
    }
    file = tmp_path / "gate.json"
    file.write_bytes(pytest_benchmark.render(run_info(), calls, {"baseline": "1.2.0", "ship": "ship"}))
    compare = [
        sys.executable,
        "-m",
        "pytest_benchmark",
        "compare",
        str(file),
        "--sort=mean",
        "--columns=median,outliers,rounds",
    ]
    done = subprocess.run(compare, capture_output=True, text=True, cwd=tmp_path, check=True)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("1.2.0", "ship"))]
    assert [row[0] for row in rows] == ["1.2.0", "ship"]
    assert all(row[-1] == "100" for row in rows)
    shown = pytest_benchmark.table(file).splitlines()
    assert "not paired" in shown[0]
    assert [line.split()[-1] for line in shown[2:]] == ["100", "100"]
    assert float(shown[3].split()[-4]) == float(f"{np.median(calls['time_ns'][100:]) / 1e6:.3f}")


def test_a_file_that_is_none_of_pytest_benchmarks_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    for content in ("{}", "[1]", "no json", json.dumps({"benchmarks": [{"fullname": "a", "stats": {}}]})):
        file.write_text(content)
        error = error_of(lambda: pytest_benchmark.table(file))
        assert "is no JSON of pytest-benchmark" in error.message
    assert "cannot be read" in error_of(lambda: pytest_benchmark.table(tmp_path / "absent.json")).message
