"""A search for each class: which device takes it, and what is said where none can."""

from pathlib import Path
from typing import Any, cast

from tests.builders import run_info, trial
from tests.fleet.simulated import Fate, SimulatedDevice, SimulatedLink, fleet_of
from tests.fleet.test_matrix import fleet_run
from workbench.fleet.matrix import matrix_of
from workbench.fleet.records import FleetFolder
from workbench.fleet.run import FleetOptions
from workbench.fleet.tune import FleetTuned, FleetTuner
from workbench.report.fleet import matrix_text
from workbench.report.fleet_tune import text
from workbench.results.records import Attempts, SearchSummary
from workbench.results.verdict import compare
from workbench.run.check_variant import Context
from workbench.run.pipeline import Options
from workbench.run.tune.tune import Tuned
from workbench.system.progress import silent

CLASSES = {"a": "pi5", "b": "pi5", "c": "pi5"}
FATES: dict[str, Fate] = {"a": "away", "b": "busy", "c": "old"}


def tuner_over(results: Path, fates: dict[str, Fate]) -> FleetTuner:
    devices = {name: SimulatedDevice(name, fate, {}) for name, fate in fates.items()}

    def open_simulated(name: str, *_: Any) -> Any:
        return SimulatedLink(devices[name])

    folder = FleetFolder.create(results)
    run = fleet_run(CLASSES).model_copy(update={"run_id": folder.run_id, "recipes": {}, "devices": {}})
    folder.save(run)
    settings = FleetOptions(Options(), wait_s=0.0, open=open_simulated)
    return FleetTuner(folder, run, fleet_of(CLASSES), cast(Context, None), [], {}, settings, silent)


def test_a_class_whose_devices_cannot_be_had_tries_each_and_says_why(tmp_path: Path) -> None:
    tuner = tuner_over(tmp_path, FATES)
    tuner.search()
    status = tuner.folder.status()
    assert {name: each.state for name, each in status.outcomes.items()} == {
        "a": "gone", "b": "busy", "c": "unfit",
    }  # fmt: skip
    assert tuner.found == {}
    told = text(FleetTuned(tuner.folder, tuner.found))
    assert told.splitlines()[0] == "pi5: no search came to its end"
    assert "a (pi5) gone: it cannot be reached" in told
    assert "c (pi5) unfit: it has krishi-bench 0.0.1" in told
    assert "nothing: no device was measured to the end" in matrix_text(matrix_of(tuner.folder), status)


def test_a_run_that_is_stopped_tries_no_other_device(tmp_path: Path) -> None:
    tuner = tuner_over(tmp_path, FATES)
    tuner.links.stop()
    tuner.search()
    assert {name: each.state for name, each in tuner.folder.status().outcomes.items()} == {"a": "stopped"}


def test_each_class_has_its_story_and_what_one_never_tried_is_no_failure(tmp_path: Path) -> None:
    tuner = tuner_over(tmp_path, FATES)
    tuner.search()
    attempts = Attempts(
        why="smaller input", tried=2, best="int8", speedup=2.0, drop=0.0, images=9, outlook="within"
    )
    info = run_info(
        search=SearchSummary(seconds=60.0, looked=2, untried=0, finalists=1, attempts=(attempts,))
    )
    found = [trial("baseline"), trial("int8", speedup=2.0, size_mb=2.0)]
    run = tuner.folder.device("c")
    run.save_info(info)
    for each in found:
        run.append(each)
    (run.path / "recipes").mkdir()
    run.recipe("int8").write_text("name: int8\n")
    tuner.keep_recipes(run)
    tuner.folder.update("c", tuner.folder.outcome("c"), state="done", reason=None)
    recipe = tmp_path / "tuned-pi5.yaml"
    done = FleetTuned(tuner.folder, {"pi5": Tuned(compare(info, found), recipe)})
    lines = text(done).splitlines()
    assert lines[0] == "pi5 (c)"
    assert "  searched for 1.0 minutes: 2 variants looked at" in lines[1]
    assert f"`krishi-bench run --fleet {recipe}` measures it again" in text(done)
    assert "`krishi-bench promote --class pi5` publishes it" in text(done)
    matrix = matrix_of(tuner.folder)
    assert matrix.winners == {"pi5": "int8"} and matrix.run.recipes["int8"].text == "name: int8\n"
