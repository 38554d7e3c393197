"""A search on a bench that is not this machine: what it asks of it, and what is kept where it goes away."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.builders import run_info, trial
from tests.run.test_advise import network
from tests.run.test_tune import CONTRACT, PHOTOS, variant
from workbench.backends import OrtRuntime
from workbench.errors import WorkbenchError
from workbench.measure.latency import Plan
from workbench.measure.split import Parts
from workbench.results.folder import RunFolder
from workbench.results.records import Budget, RunInfo, TrialResult
from workbench.run.advice.advise import Advice, Item
from workbench.run.build_variant import Built
from workbench.run.check_variant import Context
from workbench.run.tune.bench import BenchLost
from workbench.run.tune.quick_look import QuickLook
from workbench.run.tune.tune import tune_on
from workbench.system.spans import Spans
from workbench.workspace import recipe as recipes
from workbench.workspace.recipe import Variant


class ScriptedBench:
    """Variants have the speeds of a table, by the beginning of their names; others are as the baseline.

    looks: after so many it is lost.
    """

    def __init__(self, context: Context, speeds: dict[str, float], looks: float = math.inf) -> None:
        self.context, self.speeds, self.left = context, speeds, looks
        self.asked: list[str] = []

    def _speed(self, name: str) -> float:
        return next((speed for start, speed in self.speeds.items() if name.startswith(start)), 1.0)

    def advice(self, variants: Sequence[Variant]) -> Advice:
        items = tuple(Item(v.name, v.recipe, True, "faster", 1.0, 2.0, ()) for v in variants)
        return Advice(network(), "a processor", 1, (), "latency", items)

    def not_here(self, variant: Variant) -> str | None:
        return "no such runtime" if variant.name == "absent" else None

    def build(self, variant: Variant, timeout_s: float) -> Built:  # noqa: ARG002
        if variant.name == "broken":
            raise WorkbenchError("it cannot be built")
        return cast(Built, None)

    def look(self, variant: Variant, built: Built) -> QuickLook:  # noqa: ARG002
        if self.left <= 0:
            raise BenchLost("the connection to it was lost")
        self.left -= 1
        self.asked.append(variant.name)
        speed = self._speed(variant.name)
        return QuickLook(
            log_ratio=-math.log(speed), images=PHOTOS, losses=0, gains=0, size_bytes=10**6, memory_bytes=1,
            seconds=0.1,
        )  # fmt: skip

    def layers(self, *_: Any) -> list[Any]:
        return []

    def check(self, variant: Variant, stage: Any) -> TrialResult:  # noqa: ARG002
        found = trial(variant.name, latency=None, digest=variant.digest)
        self.context.folder.append(found)
        return found

    def time(self, info: RunInfo, passed: Sequence[TrialResult], plan: Plan) -> None:  # noqa: ARG002
        self.context.folder.save_info(info)
        for each in passed:
            timed = trial(each.variant, speedup=self._speed(each.variant), digest=each.digest)
            self.context.folder.append(timed)


def context_in(folder: RunFolder) -> Context:
    """A context that has photos and a folder, and nothing to measure with."""
    context = SimpleNamespace(
        parts=Parts(tuple(range(PHOTOS)), tuple(range(PHOTOS))),
        prepared=SimpleNamespace(workspace=SimpleNamespace(budget=Budget())),
        job=SimpleNamespace(contract=CONTRACT),
        baseline=variant("baseline"),
        build_timeout_s=60.0,
        contracts={},
        runtimes={},
        built={},
        folder=folder,
        info=run_info(runtimes={"baseline": OrtRuntime()}),
        spans=Spans(),
        report=lambda _: None,
    )
    return cast(Context, context)


START = [variant("int8"), variant("absent"), variant("broken")]


def searched(tmp_path: Path, speeds: dict[str, float], **more: Any) -> tuple[RunFolder, ScriptedBench, Any]:
    folder = RunFolder.create(tmp_path / "results")
    bench = ScriptedBench(context_in(folder), speeds, **more)
    folder.append(baseline := trial("baseline", latency=None))
    recipe, plan = tmp_path / "recipes" / "tuned-pi5.yaml", Plan(budget_s=100.0)

    def search() -> Any:
        return tune_on(bench, bench.context, baseline, START, recipe, time.monotonic(), plan)

    return folder, bench, search


def test_the_fastest_of_the_bench_wins_and_is_written_down(tmp_path: Path) -> None:
    folder, bench, search = searched(tmp_path, {"int8": 2.0, "plain@": 0.9})
    tuned = search()
    assert tuned.comparison.winner is not None and tuned.comparison.winner.startswith("int8")
    assert tuned.recipe == tmp_path / "recipes" / "tuned-pi5.yaml"
    (found,) = recipes.load([tuned.recipe])
    assert found.name == "tuned-pi5" and "plain@192px" in bench.asked
    ended = {each.variant: (each.status, each.reason) for each in folder.trials() if each.status != "ok"}
    assert ended["absent"] == ("skipped", "no such runtime")
    assert ended["broken"] == ("failed", "it cannot be built")
    assert folder.info().search is not None


def test_what_was_found_before_the_bench_went_away_is_kept_and_no_recipe_is_written(tmp_path: Path) -> None:
    folder, bench, search = searched(tmp_path, {"int8": 2.0}, looks=3)
    with pytest.raises(BenchLost):
        search()
    summary = folder.info().search
    assert summary is not None and (summary.looked, summary.finalists) == (3, 0)
    assert [t.variant for t in folder.trials() if t.status == "pruned"] == bench.asked
    assert not (tmp_path / "recipes").exists()


def test_searches_that_share_their_names_call_two_variants_by_two(tmp_path: Path) -> None:
    names: dict[str, str] = {}
    asked = []
    for start in (variant("int8"), replace(variant("other"), name="int8")):
        folder = RunFolder.create(tmp_path / "results")
        bench = ScriptedBench(context_in(folder), {})
        folder.append(baseline := trial("baseline", latency=None))
        recipe, plan = tmp_path / "tuned.yaml", Plan(budget_s=100.0)
        tune_on(bench, bench.context, baseline, [start], recipe, time.monotonic(), plan, names)
        asked.append([name for name in bench.asked if "@" not in name])
    assert asked == [["int8"], ["int8~2"]]
