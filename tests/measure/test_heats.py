"""Heats: what does not fit into memory together is timed in groups, and compares all the same."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from tests.builders import small_classifier, smooth_photos
from tests.measure.test_latency import BASELINE, PLAN, QUIET, TWIN, Silent, farm
from workbench.backends import OrtRuntime
from workbench.measure.heats import deal, merge
from workbench.measure.latency import Lineup, Measured, Plan, Sample, log_ratios, measure
from workbench.measure.stats import Ratio
from workbench.measure.worker import Worker
from workbench.photos.contract import Preprocess
from workbench.system.progress import silent

ALWAYS = (BASELINE, TWIN)
SIZES = {BASELINE: 100, TWIN: 100, **{f"v{n}": 50 + 10 * n for n in range(9)}}


@pytest.mark.parametrize("seed", range(20))
def test_every_heat_fits_and_holds_the_baseline_its_copy_and_every_other_once(seed: int) -> None:
    heats = deal(list(SIZES), ALWAYS, SIZES, 450, random.Random(seed))
    assert all(sum(SIZES[name] for name in heat) <= 450 for heat in heats)
    assert all(set(ALWAYS) < set(heat) for heat in heats)
    others = sorted(name for heat in heats for name in heat if name not in ALWAYS)
    assert others == [f"v{n}" for n in range(9)]
    # 810 in heats of 250: first fit leaves no two heats that would go into one.
    assert 4 <= len(heats) <= 6


def test_who_meets_whom_is_dealt_afresh_and_comes_back_with_the_seed() -> None:
    def dealt(seed: int) -> list[list[str]]:
        return deal(list(SIZES), ALWAYS, SIZES, 450, random.Random(seed))

    assert dealt(1) == dealt(1)
    assert {frozenset(heat) for heat in dealt(1)} != {frozenset(heat) for heat in dealt(2)}


def test_what_fits_together_is_one_heat_and_so_is_everything_without_a_limit() -> None:
    for limit in (None, sum(SIZES.values())):
        (heat,) = deal(list(SIZES), ALWAYS, SIZES, limit, random.Random(0))
        assert sorted(heat) == sorted(SIZES)
    assert deal([BASELINE], ALWAYS, SIZES, 1, random.Random(0)) == [[BASELINE]]


def test_survivors_meet_in_fewer_heats() -> None:
    left = [*ALWAYS, "v0", "v1"]
    assert len(deal(left, ALWAYS, SIZES, 450, random.Random(0))) == 1


def test_ratios_compare_across_heats_as_they_do_without() -> None:
    nominal_ms = {BASELINE: 4.0, "a": 3.0, "b": 5.0, "c": 6.0, "d": 4.0}
    needs = dict.fromkeys((*nominal_ms, TWIN), 100)
    lineup = Lineup([*nominal_ms, TWIN], BASELINE, TWIN, needs_bytes=needs)
    for memory_bytes, heats in ((None, 1), (400, 2), (300, 4)):
        made = farm(nominal_ms)
        plan = replace(PLAN, memory_bytes=memory_bytes)
        measured = measure(lineup, made, plan, watch=Silent(), report=silent)
        assert {sample.heat for sample in measured.samples} == set(range(heats))
        assert made.launches.count(BASELINE) == made.launches.count(TWIN) == 12 * heats
        assert made.launches.count("a") == 12
        ratios = log_ratios(measured, BASELINE)
        assert {name: len(rounds) for name, rounds in ratios.items()} == dict.fromkeys(needs, 12)
        for name, time_ms in nominal_ms.items():
            speedup = Ratio(tuple(ratios[name].values())).speedup
            assert speedup == pytest.approx(4.0 / time_ms, rel=0.03)


def test_a_copy_that_died_in_one_heat_is_not_launched_for_the_next() -> None:
    made = farm({BASELINE: 4.0, "a": 3.0, "b": 5.0}, breaks={(TWIN, 1): 2})
    needs = dict.fromkeys((*made.nominal_ms, TWIN), 100)
    lineup = Lineup([*made.nominal_ms, TWIN], BASELINE, TWIN, needs_bytes=needs)
    plan = replace(PLAN, rounds=1, memory_bytes=300)
    measured = measure(lineup, made, plan, watch=Silent(), report=silent)
    assert list(measured.failed) == [TWIN]
    assert made.launches.count(TWIN) == 1
    assert made.launches.count(BASELINE) == 2


def test_a_burst_is_paired_with_the_baseline_of_its_own_heat() -> None:
    def burst(variant: str, heat: int, time_ns: int) -> list[Sample]:
        return [Sample(variant, 0, 0, 0, 0, call, time_ns, heat) for call in range(3)]

    # The machine is at half its speed in the second heat.
    samples = [*burst(BASELINE, 0, 100), *burst("a", 0, 60), *burst(TWIN, 0, 144)]
    samples += [*burst(BASELINE, 1, 200), *burst("b", 1, 150), *burst(TWIN, 1, 450)]
    ratios = {name: math.exp(log[0]) for name, log in log_ratios(Measured(samples=samples), BASELINE).items()}
    # Of the copy's two launches the first one counts, as one launch of any other does.
    assert ratios == pytest.approx({BASELINE: 1.0, "a": 60 / 120, "b": 150 / 300, TWIN: 1.44})


def test_a_round_was_as_disturbed_as_the_worst_of_its_heats() -> None:
    assert merge([QUIET]) == QUIET
    busy = QUIET.model_copy(
        update={"steal": 0.1, "pressure": None, "disturbed": "a; b", "preemptions": 3, "spin_s": 0.02}
    )
    both = merge([busy, QUIET, busy.model_copy(update={"disturbed": "b"})])
    assert (both.seconds, both.steal, both.pressure, both.spin_s) == (3.0, 0.1, 0.0, 0.02)
    assert (both.disturbed, both.preemptions) == ("a; b", 6)


@pytest.mark.integration
def test_real_sessions_never_hold_more_than_the_limit(tmp_path: Path) -> None:
    contract = Preprocess(resize=16, crop=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    artifact, images = small_classifier(tmp_path, 16, 3, 8), smooth_photos(tmp_path, 8, contract)
    names = [BASELINE, TWIN, "a", "b"]
    opened: dict[str, Worker] = {}
    held: list[int] = []

    @contextmanager
    def launch(name: str) -> Iterator[Worker]:
        with Worker(artifact, OrtRuntime(), images, log=tmp_path / "log.txt") as worker:
            opened[name] = worker
            yield worker
            del opened[name]

    class Scales(Silent):
        def begin(self) -> None:
            held.append(sum(worker.memory().peak_bytes for worker in opened.values()))

    with Worker(artifact, OrtRuntime(), images, log=tmp_path / "log.txt") as worker:
        worker.ready()
        worker.burst(20)
        need = int(1.05 * worker.memory().peak_bytes)
    lineup = Lineup(names, BASELINE, TWIN, needs_bytes=dict.fromkeys(names, need))
    plan = Plan(rounds=1, turns=2, memory_bytes=3 * need)
    measured = measure(lineup, launch, plan, watch=Scales(), report=silent)
    assert not measured.failed
    assert len(held) == 2
    assert 2 * need < max(held) <= 3 * need
    assert sorted({(s.heat, s.variant) for s in measured.samples if s.variant not in ALWAYS}) in [
        list(enumerate(order)) for order in permutations("ab")
    ]
