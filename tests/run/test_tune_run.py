"""A search as its user meets it: what it tries, what it writes, and what it says when nothing wins."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx", reason="the network is written as ONNX")
pytest.importorskip("onnxruntime", reason="the search runs its sessions")

from tests.builders import checked  # noqa: E402
from tests.e2e.plain import SIDE, fitted, network, prepare_folder, write_workspace  # noqa: E402
from tests.e2e.tiny import Bench  # noqa: E402
from workbench.cli import main  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.measure.latency import Plan  # noqa: E402
from workbench.measure.records import BASELINE  # noqa: E402
from workbench.report import tune as words  # noqa: E402
from workbench.results.folder import find_run  # noqa: E402
from workbench.results.reasons import NotFinalist  # noqa: E402
from workbench.results.records import TrialResult  # noqa: E402
from workbench.results.verdict import compare  # noqa: E402
from workbench.run.pipeline import Options  # noqa: E402
from workbench.run.tune.tune import HEADER, Tuned, recipe_path, tune  # noqa: E402
from workbench.workspace import recipe as recipes  # noqa: E402
from workbench.workspace.recipe import Variant  # noqa: E402
from workbench.workspace.workspace import load  # noqa: E402

pytestmark = pytest.mark.integration

INT8 = "{name: int8, steps: [{use: static_int8, calibration: {images: 400}}]}"
MORE = {
    "absent": "{name: absent, needs: [onnxruntime-openvino], steps: [{use: simplify}]}",
    "threads": "{name: threads, runtime: {threads: 2}}",
}
WRONG = "{name: wrong, steps: [{use: dynamic_int8, op_types: [NoSuchOperator]}]}"
SLOW = "{name: slow, steps: [{use: dynamic_int8, op_types: [Conv]}]}"


def options(budget_s: float) -> Options:
    """A race of one short round: what wins here wins by a factor."""
    return Options(plan=Plan(budget_s=budget_s, rounds=1, turns=2, repeats=0))


def written(folder: Path, *texts: str) -> list[Variant]:
    folder.mkdir(exist_ok=True)
    for text in texts:
        name = re.findall(r"name: (\w+)", text)[0]
        (folder / f"{name}.yaml").write_text(text)
    return recipes.load([folder])


def searched(bench: Bench, variants: list[Variant], budget_s: float) -> Tuned:
    workspace = load(bench.root / "krishi.yaml")
    return tune(workspace, variants, recipe_path(workspace, None), options(budget_s), lambda _: None)


def trials(bench: Bench, tuned: Tuned) -> dict[str, TrialResult]:
    folder = find_run(bench.root / "results", tuned.comparison.info.run_id)
    return {trial.variant: trial for trial in folder.trials()}


def times_written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = prepare_folder(tmp_path_factory.mktemp("tune") / "plain", max_drop=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRISHI_CACHE", str(root.parent / "cache"))
        yield Bench(root, root.parent / "cache")


@pytest.fixture(scope="module")
def tuned(bench: Bench) -> Tuned:
    return searched(bench, written(bench.root / "start", INT8, *MORE.values()), 20)


# A search that finds something


def test_a_smaller_input_wins_where_the_network_does_not_need_more(tuned: Tuned, bench: Bench) -> None:
    winner = next(row for row in tuned.comparison.rows if row.winner)
    assert winner.crop is not None and winner.crop < SIDE
    assert winner.speedup is not None and winner.speedup > 1.3
    assert tuned.comparison.certified
    assert tuned.recipe == bench.root / "recipes" / "tuned-plain.yaml"


def test_the_run_reads_like_any_other(tuned: Tuned, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    folder = find_run(bench.root / "results", tuned.comparison.info.run_id)
    again = compare(folder.info(), folder.trials())
    assert again == tuned.comparison
    assert main(["compare", "--workspace", str(bench.root), folder.run_id]) == 0
    assert f"▶ {again.winner}" in capsys.readouterr().out


def test_every_candidate_is_a_trial_with_its_reason(tuned: Tuned, bench: Bench) -> None:
    found = trials(bench, tuned)
    assert found[BASELINE].status == "ok"
    assert {trial.status for trial in found.values()} <= {"ok", "pruned", "failed", "skipped"}
    assert all(trial.cause for trial in found.values() if trial.status != "ok")
    assert found["absent"].status == "skipped"
    assert "onnxruntime-openvino is not installed" in (found["absent"].reason or "")
    looked = found["int8"]
    if looked.status == "pruned":
        assert looked.cause is not None and looked.cause.kind in ("not_finalist", "over_budget", "lost_race")
    assert looked.digest != found[BASELINE].digest


def test_more_threads_than_the_baseline_has_are_no_candidate(tuned: Tuned, bench: Bench) -> None:
    assert "threads" not in trials(bench, tuned)


def test_calibration_asks_for_no_more_photos_than_there_are(tuned: Tuned, bench: Bench) -> None:
    int8 = trials(bench, tuned)["int8"]
    in_time = int8.cause is None or int8.cause.kind != "out_of_time"  # on a busy machine it may come too late
    assert int8.status in ("ok", "pruned") or not in_time, "400 photos asked for, 40 there"


def test_the_story_tells_every_kind_of_attempt(tuned: Tuned) -> None:
    story = words.text(tuned)
    assert re.search(r"searched for \d\.\d minutes: \d+ variants? looked at, \d+ could not be tried", story)
    assert re.search(r"smaller input: \d tried; the best, plain@\d\dpx: \d\.\d\d times", story)
    assert f"wrote {tuned.recipe}: `krishi-bench run {tuned.recipe}` measures it again" in story


def test_the_recipe_reproduces_the_winner(tuned: Tuned, bench: Bench) -> None:
    assert tuned.recipe is not None and tuned.recipe.read_text().startswith(HEADER)
    before = trials(bench, tuned)[tuned.comparison.winner or ""]
    (variant,) = recipes.load([tuned.recipe])
    assert (variant.name, variant.digest) == ("tuned-plain", before.digest)
    after = checked(bench.root / "krishi.yaml", [tuned.recipe])["tuned-plain"]
    assert after.status == "ok"
    assert (after.digest, after.artifact_digest) == (before.digest, before.artifact_digest)
    assert (after.accuracy, after.preprocess) == (before.accuracy, before.preprocess)


def test_a_second_search_takes_up_where_the_first_ended(tuned: Tuned, bench: Bench) -> None:
    before = {kind: times_written(bench.cache / kind) for kind in ("looks", "artifacts")}
    again = searched(bench, recipes.load([bench.root / "start"]), 8)
    for kind, seen in before.items():
        now = times_written(bench.cache / kind)
        assert seen and seen.items() <= now.items(), f"{kind} were made again"
    measured = {name for name, trial in trials(bench, tuned).items() if trial.status == "ok"}
    assert measured <= set(trials(bench, again))
    assert again.comparison.winner == tuned.comparison.winner
    assert again.recipe == tuned.recipe


# A search that finds nothing


def test_nothing_that_beats_the_baseline_is_said_and_no_recipe_is_written(
    bench: Bench, tuned: Tuned, tmp_path: Path
) -> None:
    model = fitted(
        network(height=SIDE, across=SIDE), bench.root / "data" / "calibration"
    )  # no smaller inputs
    write_workspace(tmp_path, model, source=bench.root, budget={"max_accuracy_drop": 0.5})
    other = Bench(tmp_path, bench.cache)
    found = searched(other, written(tmp_path / "start", SLOW, WRONG), 20)
    assert found.recipe is None
    assert not (tmp_path / "recipes").exists()
    assert found.comparison.winner == BASELINE
    assert "nothing that keeps the budget beat the plain FP32 export" in words.text(found)
    tried = trials(other, found)
    assert tried["slow"].status == "pruned"
    assert isinstance(tried["slow"].cause, NotFinalist)
    assert tried["slow"].cause.why == "tried against the advice"
    assert tried["wrong"].status == "failed"
    assert "`NoSuchOperator` cannot be quantised" in (tried["wrong"].reason or "")
    smaller = [trial for name, trial in tried.items() if name.startswith("plain@")]
    assert smaller and all(trial.status == "skipped" for trial in smaller)
    assert f"the model comes as an ONNX file for {SIDE} pixels" in (smaller[0].reason or "")


# What is refused


def test_a_budget_too_small_to_try_anything_is_refused_with_a_better_one(
    bench: Bench, tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "tune",
        str(bench.root / "start"),
        "--workspace",
        str(bench.root),
        "--budget",
        "0.01s",
        "--quiet",
    ]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "the budget of 0.01 s ended before anything could be tried" in said.err
    assert re.search(r"hint: give more time: --budget \d+s", said.err)


@pytest.mark.parametrize("budget", ["0", "-3m", "soon", "inf"])
def test_what_is_no_time_is_refused(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", f"--budget={budget}"]) == 2
    assert f"`{budget}` is not a time: give 90s, 10m or 1h" in capsys.readouterr().err


def test_a_recipe_of_someone_else_is_not_overwritten(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(bench.root / "krishi.yaml", tmp_path / "krishi.yaml")
    own = tmp_path / "recipes" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("name: mine\n")
    assert main(["tune", "--workspace", str(tmp_path), "--name", "mine", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert f"{own} is there, and tune did not write it" in said
    assert "hint: choose another --name" in said
    assert own.read_text() == "name: mine\n"
    assert not (tmp_path / "results").exists()


def test_a_name_that_no_recipe_can_have_is_refused(bench: Bench) -> None:
    workspace = load(bench.root / "krishi.yaml")
    for name in ("../elsewhere", "", " ", "x" * 61):
        if name:
            with pytest.raises(WorkbenchError, match="is not a name for a recipe"):
                recipe_path(workspace, name)
    assert recipe_path(workspace, None).name == "tuned-plain.yaml"
