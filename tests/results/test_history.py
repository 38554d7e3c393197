"""Runs of the past: read back, judged again, worked out again."""

from pathlib import Path

import pytest

from tests.builders import run_info, trial
from workbench.backends import OrtRuntime
from workbench.errors import WorkbenchError
from workbench.measure import samples
from workbench.measure.early_stopping import LostRace
from workbench.measure.latency import Measured, Sample, noise_floor
from workbench.measure.records import FINAL, RACE, TWIN
from workbench.results.folder import RunFolder, find_run
from workbench.results.history import compare_runs, details_of, find_trial, record_timings, with_latency
from workbench.results.records import RunInfo, TrialResult
from workbench.system.machine import Machine
from workbench.system.spans import Spans


def saved_run(results: Path, info: RunInfo, trials: list[TrialResult]) -> str:
    folder = RunFolder.create(results)
    folder.save_info(info.model_copy(update={"run_id": folder.run_id}))
    for one in trials:
        folder.append(one)
    return folder.run_id


def test_where_the_time_went_is_added_to_the_run(tmp_path: Path) -> None:
    run_id = saved_run(tmp_path, run_info(), [trial("baseline")])
    (found,) = compare_runs(tmp_path, [], reanalyse=False)
    spans = Spans()
    spans.add("reading", 0.5)
    assert record_timings(tmp_path, found, spans).info.timings == {"reading": 0.5}
    assert RunFolder(tmp_path / run_id).info().timings == {"reading": 0.5}


def test_the_latest_run_is_compared_unless_others_are_named(tmp_path: Path) -> None:
    first = saved_run(tmp_path, run_info(), [trial("baseline")])
    second = saved_run(tmp_path, run_info(), [trial("baseline"), trial("a", speedup=2.0)])
    (latest,) = compare_runs(tmp_path, [], reanalyse=False)
    assert latest.info.run_id == second
    both = compare_runs(tmp_path, [first, second], reanalyse=False)
    assert [(c.info.run_id, c.winner) for c in both] == [(first, "baseline"), (second, "a")]


def test_a_run_that_was_copied_from_elsewhere_is_named_by_its_folder(tmp_path: Path) -> None:
    other: Machine = run_info().machine.model_copy(update={"cpu": "Another CPU"})
    here = saved_run(tmp_path / "results", run_info(), [trial("baseline")])
    there = saved_run(tmp_path / "elsewhere", run_info(machine=other), [trial("baseline")])
    found = compare_runs(tmp_path / "results", [here, str(tmp_path / "elsewhere" / there)], reanalyse=False)
    assert [comparison.info.machine.cpu for comparison in found] == ["Test CPU @ 2.00GHz", "Another CPU"]
    with pytest.raises(WorkbenchError, match=r"elsewhere is not the folder of a run: it holds no run.json"):
        compare_runs(tmp_path / "results", [str(tmp_path / "elsewhere")], reanalyse=False)


def test_a_new_python_or_kernel_is_not_a_new_machine() -> None:
    machine = run_info().machine
    upgraded = machine.model_copy(update={"python": "3.14.0", "system": "Linux 7"})
    assert upgraded.fingerprint == machine.fingerprint


def session(fast_ns: int, twin_off: float) -> Measured:
    """Seven rounds of four turns; the third was repeated."""
    measured = Measured(unused={2})
    for number in range(7):
        for turn in range(4):
            slower = 1.0 + 0.3 * (turn % 2)
            times = {
                "baseline": 4_000_000,
                TWIN: 4_000_000 * (1 + twin_off * (number - 3)),
                "fast": fast_ns * (1 + 0.002 * number),
                "wrong": 1_000_000 if number < 3 else None,
            }
            measured.samples += [
                Sample(name, number, place, turn, place, call, round(slower * time_ns * (1 if call else 1.4)))
                for place, (name, time_ns) in enumerate(times.items())
                if time_ns is not None
                for call in range(3)
            ]
    return measured


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One run with its raw samples, as a run would have left it."""
    pytest.importorskip("pyarrow")
    race, final = session(2_000_000, 0.004), session(2_100_000, 0.002)
    race.pruned["wrong"] = LostRace(variant="wrong", behind="fast", factor=1.1, rounds=3, confidence=0.999)
    race.unsettled.add("wrong")
    final.samples = [s for s in final.samples if s.variant != "wrong"]
    sessions = {RACE: race, FINAL: final}
    checked = [trial(name, latency=None) for name in ("baseline", "fast", "wrong")]
    floors = [noise_floor(measured) or 0.0 for measured in sessions.values()]
    info = run_info(noise_floor=max(floors))
    run_id = saved_run(tmp_path, info, [*with_latency(checked, sessions), trial("unbuilt", latency=None)])
    samples.save(sessions, tmp_path / run_id / "latency.parquet")
    return tmp_path


def test_the_raw_samples_give_the_same_comparison_again(results: Path) -> None:
    stored = compare_runs(results, [], reanalyse=False)
    again = compare_runs(results, [], reanalyse=True)
    assert again == stored
    assert stored[0].info.noise_floor is not None
    assert stored[0].info.noise_floor > 0
    assert [row.speedup is not None for row in stored[0].rows] == [True, True, True, False]


def test_what_is_worked_out_again_comes_from_the_samples_and_not_from_the_records(results: Path) -> None:
    folder = find_run(results, None)
    before = {trial.variant: trial for trial in folder.trials()}
    fast = before["fast"]
    assert fast.latency is not None
    forged = fast.latency.model_copy(update={"p50_ns": 1.0, "round_log_ratios": (-3.0,) * 6, "samples": 1})
    folder.append(fast.model_copy(update={"latency": forged}))
    folder.save_info(folder.info().model_copy(update={"noise_floor": 0.5}))
    (again,) = compare_runs(results, [], reanalyse=True)
    assert again.rows[1].speedup == pytest.approx(1.9, rel=0.02)
    assert again.rows[1].p50_ms == pytest.approx(2.1, rel=0.3)
    assert again.info.noise_floor is not None
    assert again.info.noise_floor < 0.1


def test_the_details_can_be_worked_out_again_too(results: Path) -> None:
    folder = find_run(results, None)
    wrong = find_trial(folder, "wrong")
    assert wrong.latency is not None
    assert not wrong.latency.settled
    forged = wrong.latency.model_copy(update={"samples": 1})
    folder.append(wrong.model_copy(update={"latency": forged}))
    assert details_of(results, [], "wrong", reanalyse=False).trial.latency == forged
    assert details_of(results, [], "wrong", reanalyse=True).trial == wrong


def test_a_run_that_kept_no_samples_cannot_be_worked_out_again(tmp_path: Path) -> None:
    saved_run(tmp_path, run_info(), [trial("baseline")])
    with pytest.raises(WorkbenchError, match="kept no raw samples"):
        compare_runs(tmp_path, [], reanalyse=True)


def test_an_unknown_variant_is_answered_with_the_one_that_was_probably_meant(tmp_path: Path) -> None:
    run_id = saved_run(tmp_path, run_info(), [trial("baseline"), trial("int8-static")])
    with pytest.raises(WorkbenchError) as caught:
        details_of(tmp_path, [], "int8-statc", reanalyse=False)
    assert caught.value.message == f"run {run_id} has no variant `int8-statc`"
    assert caught.value.hint == "did you mean `int8-static`?"
    with pytest.raises(WorkbenchError) as caught:
        find_trial(find_run(tmp_path, None), "zzz")
    assert caught.value.hint == "it has baseline, int8-static"


def test_the_details_are_of_one_run(tmp_path: Path) -> None:
    runs = [saved_run(tmp_path, run_info(), [trial("baseline")]) for _ in range(2)]
    assert details_of(tmp_path, runs[:1], "baseline", reanalyse=False).info.run_id == runs[0]
    with pytest.raises(WorkbenchError, match="`baseline` was asked of 2 runs"):
        details_of(tmp_path, runs, "baseline", reanalyse=False)


def test_times_of_batches_stay_by_photo_where_the_runtime_is_gone(tmp_path: Path) -> None:
    measured = [trial("baseline"), trial("fast", speedup=4.0)]
    assert measured[1].latency is not None
    eight = measured[1].latency.model_copy(update={"batch_size": 8})
    info = run_info(runtimes={"baseline": OrtRuntime()})
    run_id = saved_run(tmp_path, info, [measured[0], measured[1].model_copy(update={"latency": eight})])
    samples.save({RACE: session(8_000_000, 0.0)}, tmp_path / run_id / "latency.parquet")
    ((_, fast),) = (c.rows for c in compare_runs(tmp_path, [run_id], reanalyse=True))
    assert fast.speedup == pytest.approx(4.0, rel=0.05)
