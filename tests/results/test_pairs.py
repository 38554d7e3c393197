"""Every two variants of a run, from the samples it kept."""

import math
import random
from pathlib import Path

import pytest

from tests.builders import error_of, run_info, trial
from workbench.measure import samples
from workbench.measure.latency import Measured, Sample
from workbench.measure.pairs import VariantPair
from workbench.measure.records import FINAL, RACE, Environment
from workbench.results.folder import RunFolder
from workbench.results.pairs import finalist_pairs, pairs_of
from workbench.results.reasons import Ahead
from workbench.results.records import TrialResult
from workbench.results.verdict import compare

SPEEDS = {"baseline": 1.0, "quick": 2.0, "quicker": 2.1, "slow": 0.5}


def timed(names: list[str], rounds: int = 7) -> Measured:
    rng, found = random.Random(0), Measured()
    for number in range(rounds):
        found.environments.append(
            Environment(seconds=1.0, steal=None, pressure=None, spin_s=0.01, disturbed=None)
        )
        for turn in range(6):
            host = rng.uniform(1, 1.4)
            for place, name in enumerate(names):
                times = [round(1e6 * host / SPEEDS[name] * rng.uniform(0.99, 1.01)) for _ in range(3)]
                found.samples += [
                    Sample(name, number, place, turn, place, call, ns) for call, ns in enumerate(times)
                ]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of four variants, three of them in the final; `slow` was dropped in the race."""
    run = RunFolder.create(tmp_path_factory.mktemp("results"))
    sessions = {RACE: timed(list(SPEEDS)), FINAL: timed(["baseline", "quick", "quicker"])}
    samples.save(sessions, run.path / "latency.parquet")
    run.save_info(run_info(run_id=run.run_id))
    for name, speedup in SPEEDS.items():
        run.append(_trial(name, speedup))
    return run


def _trial(name: str, speedup: float) -> TrialResult:
    one = trial(name, speedup=speedup, status="pruned" if name == "slow" else "ok")
    assert one.latency is not None
    return one.model_copy(update={"latency": one.latency.model_copy(update={"confirmed": name != "slow"})})


def test_every_two_variants_are_compared_by_the_final_rounds(folder: RunFolder) -> None:
    found = pairs_of(folder.path.parent, [])
    assert [(each.faster, each.slower, each.session, each.rounds) for each in found] == [
        ("quicker", "quick", "final", 7),
        ("quicker", "baseline", "final", 7),
        ("quick", "baseline", "final", 7),
    ]
    assert [each.ratio for each in found] == pytest.approx([1.05, 2.1, 2.0], rel=0.01)
    assert all(each.interval is not None and each.interval[0] > 1 for each in found)


def test_what_was_no_finalist_is_compared_by_the_race(folder: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder.create(tmp_path)
    (copy.path / "latency.parquet").write_bytes((folder.path / "latency.parquet").read_bytes())
    copy.save_info(folder.info())
    for one in folder.trials():
        copy.append(one.model_copy(update={"status": "ok"}))
    found = {(each.faster, each.slower): each.session for each in pairs_of(tmp_path, [])}
    assert found["quick", "slow"] == "race"
    assert found["quicker", "quick"] == "final"


def test_without_samples_and_of_several_runs_there_are_no_pairs(folder: RunFolder, tmp_path: Path) -> None:
    bare = RunFolder.create(tmp_path)
    bare.save_info(folder.info())
    missing = error_of(lambda: pairs_of(tmp_path, []))
    assert missing.message == f"{bare.path}/latency.parquet is not there: this run kept no raw samples"
    several = error_of(lambda: pairs_of(tmp_path, ["a", "b"]))
    assert (several.message, several.hint) == ("--pairs was asked of 2 runs", "name one run")


def test_the_winner_is_compared_with_the_next_best_from_what_the_run_recorded(folder: RunFolder) -> None:
    trials = folder.trials()
    info = folder.info().model_copy(update={"pairs": finalist_pairs(folder, trials)})
    assert [(pair.one, pair.other, len(pair.log_ratios)) for pair in info.pairs] == [("quicker", "quick", 7)]
    # Their sizes are equal and their speeds are told apart by more than the noise floor.
    (found,) = [reason for reason in compare(info, trials).verdict.reasons if isinstance(reason, Ahead)]
    assert (found.variant, found.behind) == ("quicker", "quick")
    assert found.ratio == pytest.approx(1.05, rel=0.01)
    assert found.ratio_ci is not None
    assert found.ratio_ci[0] > 1.03


def test_the_pair_counts_whichever_of_the_two_was_named_first() -> None:
    trials = [trial("baseline"), trial("a", speedup=2.0), trial("b", speedup=1.8)]
    pair = VariantPair(one="b", other="a", session="final", log_ratios=(math.log(2.0 / 1.8),) * 6)
    (found,) = [
        reason
        for reason in compare(run_info(pairs=(pair,)), trials).verdict.reasons
        if isinstance(reason, Ahead)
    ]
    assert (found.behind, found.ratio) == ("b", pytest.approx(2.0 / 1.8))


def test_a_baseline_that_wins_is_compared_with_the_next_best_too() -> None:
    trials = [trial("baseline"), trial("a", speedup=0.8)]
    (found,) = [r for r in compare(run_info(), trials).verdict.reasons if isinstance(r, Ahead)]
    assert (found.variant, found.behind, found.ratio) == ("baseline", "a", pytest.approx(1.25))


def test_older_runs_and_other_objectives_have_no_such_line() -> None:
    trials = [trial("baseline"), trial("a", speedup=2.0), trial("b", speedup=1.8)]
    smaller = run_info(budget={"objective": "size"})
    for info in (run_info(), smaller):
        assert not [r for r in compare(info, trials).verdict.reasons if isinstance(r, Ahead)]
