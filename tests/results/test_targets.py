"""Which variant is the choice for a server, and which for a phone."""

from collections.abc import Sequence

import pytest

from tests.builders import counts, run_info, trial
from workbench.backends.audit import Audit, Delegation
from workbench.report.cells import grid
from workbench.report.contents import contents
from workbench.report.table import render
from workbench.results.records import RunInfo, TrialResult
from workbench.results.verdict import compare, winner_for

BOTH = run_info(targets=("server", "android"))


def on_device(
    name: str, *, outside: int = 0, pieces: int = 1, macs: int | None = None, **more: object
) -> TrialResult:
    delegation = Delegation(
        delegate="XNNPACK", partitions=pieces, nodes=50, delegated=50 - outside, macs=macs
    )
    audit = Audit(verdict=delegation.sentence(), delegation=delegation)
    return trial(name, backend="litert", audit=audit, **more)  # type: ignore[arg-type]


BASELINE = trial("baseline")
FLOAT = on_device("litert[none]", speedup=1.04, size_mb=6.0)
CUT = on_device("litert[static]", speedup=0.42, size_mb=1.8, outside=19, pieces=20)
MIXED = on_device("litert[mixed]", speedup=0.6, size_mb=1.9)
PROGRAM = trial("executorch", backend="executorch", speedup=3.0, size_mb=1.7)
TRIALS: Sequence[TrialResult] = (BASELINE, FLOAT, CUT, MIXED, PROGRAM)


def winner(info: RunInfo, target: str, trials: Sequence[TrialResult] = TRIALS) -> str | None:
    found = winner_for(info, trials, target)  # type: ignore[arg-type]
    return found and found.variant


def test_a_server_gets_the_fastest_that_it_opens() -> None:
    assert winner(BOTH, "server") == "litert[none]"
    assert winner(BOTH, "server", [BASELINE, PROGRAM]) == "baseline"


def test_a_phone_gets_what_its_delegate_runs_whole_and_then_the_smallest() -> None:
    assert winner(BOTH, "android") == "litert[mixed]"
    assert winner(BOTH, "android", [BASELINE, FLOAT, CUT]) == "litert[none]"
    assert winner(BOTH, "android", [BASELINE]) is None


def test_of_files_of_one_size_a_phone_gets_the_one_with_the_least_work() -> None:
    large = on_device("224px", macs=59_000_000, size_mb=1.762)
    small = on_device("176px", macs=37_000_000, size_mb=1.763)
    unknown = on_device("unknown", size_mb=1.762)
    assert winner(BOTH, "android", [BASELINE, large, unknown, small]) == "176px"
    larger = on_device("smaller input, larger file", macs=37_000_000, size_mb=1.8)
    assert winner(BOTH, "android", [BASELINE, large, larger]) == "224px"


def test_a_phone_gets_nothing_that_loses_too_much() -> None:
    wrong = MIXED.model_copy(update={"accuracy": counts(losses=100)})
    assert winner(BOTH, "android", [BASELINE, wrong, CUT]) == "litert[static]"


def test_what_the_race_dropped_as_slow_here_may_still_be_the_choice_for_a_phone() -> None:
    dropped = MIXED.model_copy(update={"status": "pruned"})
    assert winner(BOTH, "android", [BASELINE, dropped]) == "litert[mixed]"


def test_each_target_has_a_column_and_its_choice_is_explained() -> None:
    comparison = compare(BOTH, TRIALS)
    assert comparison.winner == "litert[none]"
    table = grid(comparison.rows, "speed", BOTH.targets, comparison.choices)
    marks = {row[1]: row[-2:] for row in table.rows}
    assert table.headings[-2:] == ("server", "android")
    assert marks["litert[none]"] == ("▶", "")
    assert marks["litert[mixed]"] == ("", "▶")
    assert marks["executorch"] == ("–", "")
    assert marks["baseline"] == ("", "–")
    shown = contents(comparison, "speed", verbose=False, audit=False)
    (section,) = [each for each in shown.sections if each.title == "For android"]
    assert section.lines[0].startswith("litert[mixed], 1.90 MB: of those within the budget")


def test_one_target_changes_nothing_of_the_table() -> None:
    comparison = compare(run_info(), TRIALS)
    assert grid(comparison.rows, "speed", ("server",)).headings == grid(comparison.rows, "speed").headings
    assert comparison.choices == {"server": "litert[none]"}


@pytest.mark.parametrize(
    ("width", "left_out"), [(100, "no room for RAM MB:"), (80, "no room for RAM MB, p95 ms, p50 ms:")]
)
def test_the_columns_of_the_targets_are_whole_in_a_narrow_terminal(width: int, left_out: str) -> None:
    shown = render([compare(BOTH, TRIALS)], width=width).splitlines()
    (heading,) = [line for line in shown if line.endswith("server android")]
    table = shown[shown.index(heading) : shown.index(next(line for line in shown if "winner" in line))]
    assert max(map(len, table)) <= width
    assert "…" not in "".join(table)
    assert table[-1] == f"{left_out} `--format csv` has all"
