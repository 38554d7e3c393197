"""What a run leaves behind can be read back, also after a crash and by later versions."""

import re
from pathlib import Path

import pytest

from tests.builders import absent_trial, run_info, trial
from workbench.errors import WorkbenchError
from workbench.results.folder import RunFolder, find_run, runs
from workbench.results.records import Budget, FieldBudget, TrialResult
from workbench.results.verdict import compare
from workbench.system.files import digest_of

SAVED = Path(__file__).parents[1] / "data"


def test_two_runs_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    folders = [RunFolder.create(tmp_path) for _ in range(20)]
    assert len({folder.run_id for folder in folders}) == 20
    assert all((folder.path / "logs").is_dir() for folder in folders)


def test_trials_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    written = [
        trial("baseline"),
        trial("a[method=entropy]", speedup=1.7, losses=3),
        absent_trial("b", "failed", "über-long\nreason"),
    ]
    for one in written:
        folder.append(one)
    assert folder.trials() == written


def test_the_last_record_of_a_variant_counts_in_its_first_place(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    for one in (trial("a", latency=None), trial("b"), trial("a", speedup=2.0)):
        folder.append(one)
    assert folder.trials() == [trial("a", speedup=2.0), trial("b")]


@pytest.mark.parametrize("kept", [1, 50, 300])
def test_a_last_line_cut_short_is_left_out(tmp_path: Path, kept: int) -> None:
    folder = RunFolder.create(tmp_path)
    folder.append(trial("a"))
    whole = (folder.path / "trials.jsonl").read_bytes()
    (folder.path / "trials.jsonl").write_bytes(whole + whole[:kept])
    assert folder.trials() == [trial("a")]


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.append(trial("a"))
    with (folder.path / "trials.jsonl").open("ab") as file:
        file.write(b"{broken\n")
    folder.append(trial("b"))
    with pytest.raises(WorkbenchError, match=r"trials\.jsonl:2 is not JSON"):
        folder.trials()


def test_a_run_that_measured_nothing_yet_has_no_trials(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path).trials() == []


def test_the_run_itself_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.save_info(run_info(synthetic=True, noise_floor=0.013))
    assert folder.info() == run_info(synthetic=True, noise_floor=0.013)


def test_a_run_of_another_schema_is_refused_by_name(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    text = run_info().model_dump_json().replace('"schema_version":1', '"schema_version":99')
    (folder.path / "run.json").write_text(text)
    with pytest.raises(WorkbenchError, match="has schema_version 99; this krishi-bench reads 1"):
        folder.info()


def test_a_run_without_its_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match=r"run\.json cannot be read: No such file or directory"):
        RunFolder.create(tmp_path).info()


@pytest.mark.parametrize("below", ["", "results", "deeper/results"])
def test_results_that_cannot_be_written_are_a_sentence(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkbenchError) as caught:
        RunFolder.create(tmp_path / "file" / below)
    assert caught.value.message.endswith(": Not a directory")
    assert caught.value.hint


def test_logs_and_predictions_are_filed_under_the_variants_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.log("a[b=c]") == tmp_path / "logs" / "a_b=c.txt"
    assert folder.predictions("a[b=c]") == tmp_path / "predictions" / "a_b=c.npz"


def test_a_run_refused_before_it_began_leaves_no_folder(tmp_path: Path) -> None:
    refused, begun = RunFolder.create(tmp_path), RunFolder.create(tmp_path)
    begun.save_info(run_info())
    for folder in (refused, begun):
        folder.remove_if_never_begun()
    assert (refused.path.exists(), begun.path.exists()) == (False, True)


def test_runs_are_listed_oldest_first_and_only_those_that_began(tmp_path: Path) -> None:
    for name in ("20260103-000000", "20260101-000000", "20260102-000000"):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).save_info(run_info(run_id=name))
    (tmp_path / "20260104-000000").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [run.run_id for run in runs(tmp_path)] == ["20260101-000000", "20260102-000000", "20260103-000000"]
    assert find_run(tmp_path, None).run_id == "20260103-000000"
    assert find_run(tmp_path, "20260101-000000").run_id == "20260101-000000"


def test_the_latest_run_is_the_last_one_begun_however_fast_they_follow(tmp_path: Path) -> None:
    begun = [RunFolder.create(tmp_path) for _ in range(12)]
    for folder in begun:
        folder.save_info(run_info())
    assert [run.run_id for run in runs(tmp_path)] == [folder.run_id for folder in begun]


def test_an_unknown_run_is_answered_with_the_latest(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.save_info(run_info())
    with pytest.raises(WorkbenchError) as caught:
        find_run(tmp_path, "20200101-000000")
    assert caught.value.message == f"{tmp_path} has no run `20200101-000000`"
    assert caught.value.hint == f"the latest is `{folder.run_id}`"


def test_no_run_yet_is_answered_with_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError) as caught:
        find_run(tmp_path / "results", None)
    assert caught.value.message == f"{tmp_path}/results holds no run yet"
    assert "krishi-bench run" in (caught.value.hint or "")


@pytest.mark.parametrize("folder", sorted(SAVED.glob("results-v*")), ids=lambda path: path.name)
def test_a_run_saved_by_every_schema_version_still_loads(folder: Path) -> None:
    """Never rewrite these files: they stand for what is on people's disks."""
    run = RunFolder(folder)
    comparison = compare(run.info(), run.trials())
    assert comparison.winner == "int8-static[method=minmax]"
    assert [row.status for row in comparison.rows] == ["ok", "ok", "failed", "skipped"]


def without_decode(path: Path) -> None:
    """As it was written before there was a choice."""
    text = path.read_text()
    older = re.sub(r',\s*"decode":\s*"full"', "", text)
    assert older != text and "decode" not in older
    path.write_text(older)


def test_a_run_from_before_photos_could_be_scaled_was_measured_at_their_full_size(tmp_path: Path) -> None:
    saved = RunFolder(SAVED / "results-v1")
    assert saved.info().preprocess.decode == "full"
    full = saved.info().preprocess
    run = RunFolder.create(tmp_path)
    run.save_info(run_info(preprocess=full))
    run.append(trial("a").model_copy(update={"preprocess": full}))
    for name in ("run.json", "trials.jsonl"):
        without_decode(run.path / name)
    (one,) = run.trials()
    assert one.preprocess == run.info().preprocess == full


@pytest.mark.parametrize("way", ["scaled", "full"])
def test_how_photos_were_decoded_comes_back_as_it_was_written(tmp_path: Path, way: str) -> None:
    contract = run_info().preprocess.model_copy(update={"decode": way})
    run = RunFolder.create(tmp_path)
    run.save_info(run_info(preprocess=contract))
    run.append(trial("a").model_copy(update={"preprocess": contract}))
    (one,) = run.trials()
    assert one.preprocess == run.info().preprocess == contract


def test_the_golden_photos_of_an_earlier_run_are_found_by_the_name_they_were_given(tmp_path: Path) -> None:
    contract = RunFolder(SAVED / "results-v1").info().preprocess
    older = contract.model_dump(mode="json", exclude={"decode"})
    run = RunFolder(tmp_path)
    assert run.golden(contract) == tmp_path / f"golden-{digest_of(older)[:12]}.npz"
    assert run.golden(contract) != run.golden(contract.model_copy(update={"decode": "scaled"}))


def test_there_is_a_saved_run_of_every_schema_version() -> None:
    current = TrialResult.model_fields["schema_version"].default
    assert {path.name for path in SAVED.glob("results-v*")} == {
        f"results-v{n}" for n in range(1, current + 1)
    }


@pytest.mark.parametrize(
    ("budget", "names"),
    [
        (Budget(), []),
        (Budget(max_accuracy_drop=0.99, max_class_drop=0.5), []),
        (Budget(max_accuracy_drop=1), ["budget.max_accuracy_drop"]),
        (
            Budget(max_class_drop=1, field=FieldBudget(max_drop=1)),
            ["budget.max_class_drop", "budget.field.max_drop"],
        ),
    ],
)
def test_a_limit_of_all_points_is_said_to_be_none(budget: Budget, names: list[str]) -> None:
    assert [note.partition(":")[0] for note in budget.notes] == names
    assert all(
        note.endswith("1 is a drop of 100 points, so no limit; one point is 0.01") for note in budget.notes
    )
