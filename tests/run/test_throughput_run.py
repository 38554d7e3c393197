"""A run whose winner has the most photos a second: a batch beside the baseline, measured and judged."""

from pathlib import Path

import pytest

from tests.builders import Once
from tests.e2e.tiny import shared_student, write_workspace
from workbench.measure.latency import Plan
from workbench.measure.readings import typical
from workbench.report import render
from workbench.results.cost import cost_tolerance
from workbench.results.folder import RunFolder, runs
from workbench.results.records import TrialResult
from workbench.results.verdict import Comparison
from workbench.run.pipeline import Options, run_workspace
from workbench.system.progress import silent
from workbench.workspace.recipe import load as load_recipes
from workbench.workspace.workspace import load

pytestmark = pytest.mark.integration

BATCHED = "eights"


@pytest.fixture(scope="module")
def comparison(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root, student = tmp_path_factory.mktemp("throughput"), shared_student(once)
    workspace = write_workspace(root, student.source, budget={"objective": "throughput"})
    recipe = root / f"{BATCHED}.yaml"
    recipe.write_text(f"{{name: {BATCHED}, runtime: {{batch: 8}}}}")
    options = Options(Plan(rounds=1, turns=2, repeats=0, budget_s=1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRISHI_CACHE", str(student.cache(root / "cache")))
        return run_workspace(load(workspace), load_recipes([recipe]), options, silent)


@pytest.fixture(scope="module")
def trials(comparison: Comparison) -> dict[str, TrialResult]:
    (folder,) = runs(Path(comparison.info.workspace).parent / "results")
    return {trial.variant: trial for trial in RunFolder(folder.path).trials()}


def test_the_batch_and_the_baseline_are_paired_over_fresh_launches(trials: dict[str, TrialResult]) -> None:
    for trial in trials.values():
        assert trial.saturated_log_ratios
        assert trial.saturated_ips is not None
        assert trial.readings is not None
        # The check's own launch is the first.
        assert len(trial.readings.load_s) > len(trial.saturated_log_ratios)
        assert trial.load_s == typical(trial.readings.load_s)
    assert set(trials["baseline"].saturated_log_ratios) == {0.0}


def test_the_winner_is_the_one_with_the_most_photos_a_second(comparison: Comparison) -> None:
    ratios = {row.variant: row.saturated_ratio for row in comparison.rows if row.saturated_ratio is not None}
    assert set(ratios) == {"baseline", BATCHED}
    assert comparison.winner is not None
    assert ratios[comparison.winner] * (1 + cost_tolerance(comparison.info)) >= max(ratios.values())
    assert "Photos a second with every processor busy" in render("table", [comparison])
