"""A quick look: whom it drops, whom it keeps, and that it is taken once."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="the network is written as ONNX")
pytest.importorskip("onnxruntime", reason="looks are taken at its sessions")

from tests.e2e.plain import prepare_folder
from workbench.errors import WorkbenchError
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.records import Budget
from workbench.run import pipeline
from workbench.run.check_variant import Context
from workbench.run.prepare import prepare
from workbench.run.tune.quick_look import Looker, QuickLook, promise
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import load

POINT = Budget(max_accuracy_drop=0.01)


def seen(losses: int = 0, gains: int = 0, images: int = 1000) -> QuickLook:
    return QuickLook(
        log_ratio=-math.log(2),
        images=images,
        losses=losses,
        gains=gains,
        size_bytes=10,
        memory_bytes=100,
        seconds=1.0,
    )


counts = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(60, 500))


# Whom a look keeps


@given(counts, st.integers(1, 20), st.integers(1, 5), st.floats(0, 0.2))
def test_what_holds_on_some_photos_holds_on_more_of_the_same(
    seen_counts: tuple[int, int, int], times: int, more: int, budget: float
) -> None:
    look = seen(*seen_counts)
    limit = Budget(max_accuracy_drop=budget)
    if look.within(limit, look.images * times):
        assert look.within(limit, look.images * (times + more))


@given(counts, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_looser_budget_keeps_all_that_a_tighter_one_keeps(
    seen_counts: tuple[int, int, int], one: float, other: float
) -> None:
    look, (tight, loose) = seen(*seen_counts), sorted((one, other))
    if look.within(Budget(max_accuracy_drop=tight), look.images):
        assert look.within(Budget(max_accuracy_drop=loose), look.images)
    if look.hopeless(Budget(max_accuracy_drop=loose)):
        assert look.hopeless(Budget(max_accuracy_drop=tight))


@given(counts, st.floats(0, 0.5), st.integers(10, 5000))
def test_nothing_is_both_within_the_budget_and_hopeless(
    seen_counts: tuple[int, int, int], budget: float, photos: int
) -> None:
    look, limit = seen(*seen_counts), Budget(max_accuracy_drop=budget)
    if look.hopeless(limit):
        assert not look.within(limit, look.images)


def test_a_variant_that_loses_nothing_is_within_once_there_are_photos_enough_to_show_it() -> None:
    assert not seen().within(POINT, 50)
    assert seen().within(POINT, 1000)


def test_what_other_photos_would_probably_refuse_is_not_kept() -> None:
    assert not seen(losses=10, images=1000).within(POINT, 2000)  # it loses exactly what the budget allows
    assert not seen(losses=3, images=1000).within(POINT, 200)
    assert seen(losses=3, images=1000).within(POINT, 5000)
    assert seen(losses=2, images=200).within(Budget(max_accuracy_drop=0.05), 2000)


def test_the_luck_of_the_best_of_many_is_not_believed() -> None:
    lucky, plain = seen(losses=6, gains=14, images=500), seen(losses=0, gains=0, images=500)
    assert promise(plain.drop, POINT, 500) > promise(lucky.drop, POINT, 500)


@given(counts, st.integers(20, 5000), st.floats(0, 0.3))
def test_a_promise_is_a_probability_and_more_losses_promise_less(
    seen_counts: tuple[int, int, int], photos: int, budget: float
) -> None:
    losses, gains, images = seen_counts
    limit = Budget(max_accuracy_drop=budget)
    kept = promise(seen(losses, gains, images).drop, limit, photos)
    assert 0 <= kept <= 1
    if gains:  # a photo that was gained is now lost: as many differ, more are wrong
        assert promise(seen(losses + 1, gains - 1, images).drop, limit, photos) <= kept


def test_a_certain_loser_is_hopeless_and_an_unlucky_one_is_not() -> None:
    assert seen(losses=40, images=96).hopeless(POINT)
    assert not seen(losses=2, images=96).hopeless(POINT)  # two photos of 96 may be chance
    assert seen(losses=200, images=9600).hopeless(POINT)  # of 9600 they are not
    assert not seen(losses=20, gains=20, images=96).hopeless(POINT)


# Real looks


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    root = prepare_folder(tmp_path_factory.mktemp("look") / "plain", per_class=6, max_drop=0.5)
    patch = pytest.MonkeyPatch()
    patch.setenv("KRISHI_CACHE", str(root.parent / "cache"))
    workspace = load(root / "krishi.yaml")
    prepared = prepare(workspace, lambda _: None, calibrate=True)
    context, _ = pipeline.begin(
        prepared, RunFolder.create(workspace.results), pipeline.Options(), lambda _: None
    )
    yield context
    patch.undo()


def copy_of_the_baseline(context: Context, name: str = "copy") -> Variant:
    context.runtimes[name] = context.baseline.runtime
    return replace(context.baseline, name=name, recipe=name)


def test_a_copy_of_the_baseline_is_as_fast_and_loses_nothing(context: Context) -> None:
    with Looker(context) as looker:
        look = looker.look(copy_of_the_baseline(context), context.built[BASELINE])
    assert 0.4 < look.speedup < 2.5
    assert (look.losses, look.gains) == (0, 0)
    assert look.images == len(context.parts.selection) <= 24
    assert look.size_bytes == context.built[BASELINE].artifact.info.total_bytes
    assert look.memory_bytes > 0
    assert look.within(context.prepared.workspace.budget, look.images)


def launches(context: Context) -> dict[Path, int]:
    """Every process writes its log: how much of each there is."""
    return {path: path.stat().st_mtime_ns for path in (context.folder.path / "logs").rglob("*")}


def test_a_look_is_taken_once_whatever_becomes_of_the_budget(context: Context) -> None:
    with Looker(context) as looker:
        first = looker.look(copy_of_the_baseline(context), context.built[BASELINE])
    before = launches(context)
    smaller = replace(context.prepared.workspace, budget=Budget(max_accuracy_drop=0.5, objective="size"))
    again = replace(context, prepared=replace(context.prepared, workspace=smaller))
    with Looker(again) as looker:
        assert looker.look(copy_of_the_baseline(context, "another name"), context.built[BASELINE]) == first
        assert looker._baseline is None, "a remembered look opens no session"
    assert launches(context) == before


def test_a_look_at_something_else_is_another_look(context: Context) -> None:
    with Looker(context) as looker:
        variant, built = copy_of_the_baseline(context), context.built[BASELINE]
        looker.look(variant, built)
        two = replace(variant, runtime=variant.runtime.model_copy(update={"graph_level": "disable"}))
        paths = {looker._path(v, built) for v in (variant, two)}
        fewer = replace(context, parts=replace(context.parts, selection=context.parts.selection[:5]))
        paths.add(Looker(fewer)._path(variant, built))
    assert len(paths) == 3


def test_the_photos_of_the_baseline_belong_to_a_look(context: Context) -> None:
    """A file that leaves its size free is the same at every crop of the workspace: its time is not."""
    variant, built = copy_of_the_baseline(context, "small"), context.built[BASELINE]
    small = context.job.contract.model_copy(update={"resize": 32, "crop": 32})
    job = context.prepared.job_for(small, lambda _: None)
    at_full = replace(context, contracts={"small": small})
    at_small = replace(context, prepared=replace(context.prepared, job=job))
    assert Looker(at_full)._path(variant, built) != Looker(at_small)._path(variant, built)


def test_a_variant_that_cannot_be_opened_is_an_error_and_spoils_no_other_look(context: Context) -> None:
    built = context.built[BASELINE]
    changed = built.artifact.info.model_copy(update={"sha256": "0" * 64})
    damaged = replace(built, artifact=replace(built.artifact, info=changed))
    with Looker(context) as looker:
        with pytest.raises(WorkbenchError, match="is not the file that was recorded"):
            looker.look(copy_of_the_baseline(context), damaged)
        slower = copy_of_the_baseline(context, "unoptimised")
        runtime = slower.runtime.model_copy(update={"graph_level": "disable"})
        assert looker.look(replace(slower, runtime=runtime), built).losses == 0


def test_a_baseline_that_died_is_opened_again(context: Context) -> None:
    variant, built = copy_of_the_baseline(context), context.built[BASELINE]
    with Looker(context) as looker:
        runtimes = [
            variant.runtime.model_copy(update={"graph_level": "basic", "spinning": on})
            for on in (True, False)
        ]
        looker._opened()._child.process.kill()
        with pytest.raises(WorkbenchError):
            looker.look(replace(variant, runtime=runtimes[0]), built)
        assert looker.look(replace(variant, runtime=runtimes[1]), built).losses == 0
