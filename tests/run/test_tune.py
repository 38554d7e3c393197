"""The decisions of a search, without its measurements: who goes on, what is recorded, what is written."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.builders import run_info, trial
from workbench.backends import (
    ExecutorchRuntime,
    LitertRuntime,
    OpenvinoRuntime,
    OrtRuntime,
    Target,
    TorchRuntime,
)
from workbench.backends.audit import Delegation
from workbench.errors import WorkbenchError
from workbench.measure.split import Parts
from workbench.model.export.settings import Export
from workbench.photos.contract import Preprocess
from workbench.report import tune as words
from workbench.results.reasons import Failed, NotCertifiedInTurn, NotFinalist, OutOfTime, Skipped
from workbench.results.records import Budget, CertificationSequence, TrialResult
from workbench.results.verdict import Comparison, compare
from workbench.run.check_variant import Context
from workbench.run.tune.bench import SearchBench
from workbench.run.tune.moves import Move, at_size, with_step
from workbench.run.tune.quick_look import QuickLook
from workbench.run.tune.search import FINALISTS, Candidate, Search, _families, chosen, explore, scan_sizes
from workbench.run.tune.tune import (
    HEADER,
    _comparable,
    _in_turn,
    _not_taken,
    _smaller_alone,
    _written,
    certified_in_turn,
    check_ours,
    recipes_of,
    summarize,
    write_recipe,
)
from workbench.steps.executorch.settings import Executorch
from workbench.steps.int8.settings import StaticInt8
from workbench.steps.simplify import Simplify
from workbench.workspace import recipe as recipes
from workbench.workspace.recipe import UNCHANGED, RecipePreprocess, Variant

CONTRACT = Preprocess(resize=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PHOTOS = 2000


def variant(name: str, **fields: Any) -> Variant:
    """Each its own by its opset."""
    given = {
        "export": Export(opset=7 + sum(name.encode()) % 19),
        "steps": (),
        "runtime": OrtRuntime(),
        **fields,
    }
    return Variant(name, name.partition("@")[0].partition("+")[0], "", **given)


def looked(name: str, speedup: float = 1.0, losses: int = 0, gains: int = 0, **fields: Any) -> Candidate:
    look = QuickLook(
        log_ratio=-math.log(speedup),
        images=1000,
        losses=losses,
        gains=gains,
        size_bytes=round(1e6 / speedup),
        memory_bytes=1,
        seconds=1.0,
    )
    return Candidate(variant(name, **fields), "suggested by the advisor", look)


def knowing(*candidates: Candidate, budget: Budget | None = None, seconds: float = 1000.0) -> Search:
    """A search over a context that has photos and a budget, and nothing to measure with."""
    context = SimpleNamespace(
        parts=Parts(tuple(range(PHOTOS)), tuple(range(PHOTOS))),
        prepared=SimpleNamespace(workspace=SimpleNamespace(budget=budget or Budget())),
        job=SimpleNamespace(contract=CONTRACT),
        baseline=variant("baseline"),
        contracts={},
        report=lambda _: None,
    )
    until = time.monotonic() + seconds
    search = Search(cast(Context, context), cast(SearchBench, None), until, trial("baseline", size_mb=1))
    search.candidates = {f"{number}": one for number, one in enumerate(candidates)}
    return search


def broken(name: str) -> Failed:
    return Failed(variant=name, message="it broke", hint="mend it")


def names(candidates: list[Candidate]) -> list[str]:
    return [one.variant.name for one in candidates]


# Who is checked in full


def test_of_equally_sure_ones_the_fastest_is_checked_and_two_that_a_look_cannot_tell_from_it() -> None:
    found = knowing(*[looked(f"v{i}", 2 + i / 20) for i in range(1, 9)])
    assert names(chosen(found)) == ["v8", "v7", "v6"]


def test_a_faster_one_is_checked_beside_a_surer_one_and_a_slower_unsure_one_never() -> None:
    found = knowing(
        looked("bold", 3.0, losses=3, gains=3), looked("sure", 2.0), looked("neither", 1.5, losses=2, gains=2)
    )
    assert names(chosen(found)) == ["sure", "bold"]


def test_of_many_the_surest_and_those_with_most_to_win_are_checked() -> None:
    found = knowing(*[looked(f"v{i}", 1.2**i, losses=i, gains=i) for i in range(1, 10)])
    kept = names(chosen(found))
    assert kept[0] == "v1", "the surest comes first"
    assert FINALISTS <= len(kept) <= FINALISTS + 2


def in_turn(results: list[TrialResult]) -> tuple[list[str], dict[str, Any], CertificationSequence | None]:
    """Who passed, why the others did not, and the sequence."""
    found, pruned = knowing(), {}

    def append(result: TrialResult) -> None:
        assert result.status == "pruned"
        pruned[result.variant] = result.cause

    found.context.folder = cast(Any, SimpleNamespace(append=append))
    passed, sequence = certified_in_turn(found, results, run_info())
    return [result.variant for result in passed], pruned, sequence


def test_finalists_are_certified_surest_first_until_one_fails() -> None:
    fine, bad = trial("", losses=1).accuracy, trial("", losses=60).accuracy
    results = [
        trial("boldest", losses=6, gains=6, certification=fine),
        trial("sure", certification=fine),
        trial("bold", losses=3, gains=3, certification=bad),
    ]
    passed, pruned, sequence = in_turn(results)
    assert passed == ["sure"]
    assert [missed.kind for missed in pruned["bold"].shortfalls] == ["drop"]
    assert pruned["boldest"] == NotCertifiedInTurn(variant="boldest", after="bold")
    assert sequence == CertificationSequence(order=("sure", "bold", "boldest"), passed=1, failed="bold")


def test_where_the_surest_is_not_certified_it_stays_to_be_refused_by_name() -> None:
    bad = trial("", losses=60).accuracy
    passed, pruned, _ = in_turn([trial("a", certification=bad), trial("b", losses=2)])
    assert (passed, list(pruned)) == (["a"], ["b"])


def test_without_photos_that_certify_all_finalists_stay() -> None:
    assert in_turn([trial("a"), trial("b")]) == (["a", "b"], {}, None)


def test_what_misses_the_budget_on_the_photos_that_choose_is_not_certified_at_all() -> None:
    fine = trial("").accuracy
    passed, pruned, _ = in_turn([trial("lossy", losses=90, certification=fine)])
    assert passed == []
    assert (pruned["lossy"].kind, pruned["lossy"].shortfalls[0].drop) == ("over_budget", 0.09)


def test_what_is_slower_than_the_baseline_is_not_checked() -> None:
    failed = Candidate(variant("broken"), "", cause=broken("broken"))
    assert chosen(knowing(looked("slow", 0.9), failed)) == []


def test_a_faster_one_that_may_fit_after_all_is_checked_too() -> None:
    found = knowing(
        looked("sure", 1.5), looked("doubtful", 2.0, losses=12, gains=1), looked("lost", 3.0, losses=400)
    )
    assert names(chosen(found)) == ["sure", "doubtful"]


def test_where_nothing_fits_the_least_bad_of_the_faster_ones_are_checked() -> None:
    doubtful = [looked(f"d{losses}", 2.0, losses=losses) for losses in (16, 11, 14)]
    assert names(chosen(knowing(*doubtful))) == ["d11", "d14"]


def test_the_objective_decides_who_is_best() -> None:
    fast, small = looked("fast", 3.0), looked("small", 2.0)
    assert small.look is not None
    small = replace(small, look=small.look.model_copy(update={"size_bytes": 1}))
    assert names(knowing(fast, small).best()) == ["fast", "small"]
    assert names(knowing(fast, small, budget=Budget(objective="size")).best()) == ["small", "fast"]
    lean = replace(fast, look=small.look.model_copy(update={"memory_bytes": 10**7}))
    by_memory = knowing(lean, budget=Budget(objective="memory"))
    by_memory.baseline = trial("baseline", peak_memory_bytes=3 * 10**7)
    by_memory.context.empty_worker = cast(Any, SimpleNamespace(peak_bytes=10**7))
    assert by_memory.cost(lean) == pytest.approx(0.25)


def test_only_what_uses_as_much_of_the_machine_as_the_baseline_is_compared() -> None:
    runtimes = {
        "one": OrtRuntime(),
        "two": OrtRuntime(threads=2),
        "many": OrtRuntime(batch=8),
        "gpu": OrtRuntime(device="cuda"),
        "torch": TorchRuntime(),
        "openvino": OpenvinoRuntime(),
    }
    given = [variant(name, runtime=runtime) for name, runtime in runtimes.items()]
    assert [one.name for one in _comparable(given, ("server",))] == ["one", "openvino"]
    given = [
        variant("program", runtime=ExecutorchRuntime()),
        variant("file", runtime=LitertRuntime()),
        *given,
    ]
    assert [one.name for one in _comparable(given, ("android",))] == ["program", "file"]
    assert [one.name for one in _comparable(given, ("server", "android"))] == [
        "program", "file", "one", "openvino",
    ]  # fmt: skip


def test_a_smaller_input_that_comes_with_other_arithmetic_is_a_candidate_of_its_own() -> None:
    small = RecipePreprocess(scale=0.75)
    assert _smaller_alone(variant("scan finds it", preprocess=small))
    assert not _smaller_alone(variant("full"))
    assert not _smaller_alone(variant("steps", preprocess=small, steps=(Simplify(use="simplify"),)))
    assert not _smaller_alone(variant("ov", preprocess=small, runtime=OpenvinoRuntime()))


LITERT, PROGRAM = LitertRuntime(threads=1), ExecutorchRuntime(threads=1)


def on_device(name: str, speedup: float, *, outside: int = 0, macs: int = 50, **more: Any) -> Candidate:
    """A candidate for phones, with what the look saw of its delegate."""
    pieces = 1 + outside
    delegation = Delegation(
        delegate="XNNPACK", partitions=pieces, nodes=50, delegated=50 - outside, macs=macs
    )
    found = looked(name, speedup, **{"runtime": PROGRAM, **more})
    assert found.look is not None
    seen = found.look.model_copy(update={"delegation": delegation, "size_bytes": 10**6})
    return replace(found, look=seen)


PHONES = (
    looked("server", 2.0),
    on_device("program", 0.9),
    on_device("litert", 0.8, runtime=LITERT),
    on_device("litert", 0.85, runtime=LITERT, outside=19, export=Export(opset=18)),
)


def for_targets(*targets: Target, candidates: Sequence[Candidate] = PHONES) -> Search:
    found = knowing(*candidates)
    found.targets = targets
    return found


def test_what_a_devices_delegate_runs_best_goes_to_smaller_inputs_too_however_slow_it_is_here() -> None:
    why = "smaller input with what android's delegate runs best"
    moves = _families(for_targets("server", "android"))
    assert [(move.variant.name, move.why) for move in moves] == [
        ("server", "smaller input and other arithmetic together"),
        ("program", why),
        ("litert", why),
    ]
    assert moves[2].variant.export != Export(opset=18), "the one in one piece"
    assert [move.variant.name for move in _families(for_targets("android"))] == ["program", "litert"]
    assert [move.variant.name for move in _families(for_targets("server"))] == ["server"]


def test_a_search_for_phones_takes_the_smaller_input_where_it_does_the_least_work(
    looking: Callable[[int], list[str]],
) -> None:
    taken = looking(170)
    found = for_targets("android", candidates=())
    seed = on_device("program", 0.9)
    explore(found, [Move(seed.variant, "suggested by the advisor")], [])
    assert taken[-2:] == ["program@176px", "program@192px"]
    whys = {candidate.variant.name: candidate.why for candidate in found.candidates.values()}
    assert whys["program@176px"] == "smaller input with what android's delegate runs best"


def test_for_a_device_its_best_is_checked_and_the_best_of_those_that_are_surer() -> None:
    phones = (
        on_device("small", 0.7, macs=30, losses=2, gains=2),
        on_device("int8", 0.8, losses=1, gains=1),
        on_device("cut", 0.9, outside=9),
        on_device("wrong", 0.9, macs=10, losses=300),
    )
    found = for_targets("server", "android", candidates=[looked("server", 2.0), *phones])
    assert names(chosen(found)) == ["server", "small", "int8", "cut"]
    assert names(chosen(for_targets("server", candidates=[*PHONES]))) == ["server"]


def test_candidates_for_devices_and_for_servers_are_tried_by_turns() -> None:
    phones = [variant(name, runtime=PROGRAM) for name in ("p1", "p2")]
    servers = [variant(name) for name in ("s1", "s2", "s3")]
    given = [*servers, *phones]
    order = [one.name for one in _in_turn(given, ("server", "android"))]
    assert order == ["s1", "p1", "s2", "p2", "s3"]
    assert [one.name for one in _in_turn(given, ("android", "server"))][:2] == ["p1", "s1"]
    assert _in_turn(servers, ("server",)) == servers


def test_of_each_recipe_the_fastest_that_may_fit_goes_to_smaller_inputs() -> None:
    found = knowing(
        looked("a", 1.2),
        looked("a", 1.6, losses=1),
        looked("b", 2.0, losses=300),
        looked("c", 1.4),
        looked("d", 0.7),
        looked("plain@160px", 3.0, preprocess=RecipePreprocess(crop=160)),
    )
    assert [(one.variant.name, one.variant.digest) for one in _families(found)] == [
        (name, variant(name).digest) for name in ("a", "c")
    ]


# The order of a search


@dataclass
class Photographer:
    """Stands in for building and looking: loses photos below a size. taken: the names, in order."""

    edge: int
    taken: list[str]

    def __call__(self, move: Move) -> Candidate:
        self.taken.append(move.variant.name)
        crop = move.variant.preprocess.crop or 224
        return replace(
            looked("x", 224 / crop, losses=0 if crop >= self.edge else 300),
            variant=move.variant,
            why=move.why,
        )


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    def install(edge: int) -> list[str]:
        photographer = Photographer(edge, [])
        monkeypatch.setattr(Search, "_looked", lambda _, move: photographer(move))
        return photographer.taken

    return install


def test_a_scan_of_sizes_ends_at_the_first_that_loses_and_looks_beside_the_edge(
    looking: Callable[[int], list[str]],
) -> None:
    taken = looking(170)
    assert scan_sizes(knowing(), variant("plain")) == [(176, 176), (192, 192)]
    assert taken == ["plain@192px", "plain@160px", "plain@176px", "plain@208px"]


def test_a_network_that_needs_its_size_costs_few_looks(looking: Callable[[int], list[str]]) -> None:
    taken = looking(224)
    assert scan_sizes(knowing(), variant("plain")) == []
    assert taken == ["plain@192px", "plain@208px"]


def test_no_candidate_is_begun_when_time_is_up(looking: Callable[[int], list[str]]) -> None:
    taken = looking(0)
    found = knowing(seconds=-1)
    explore(found, [Move(variant("a"), "")], [Move(variant("b"), "")])
    assert (taken, found.candidates) == ([], {})


def test_a_candidate_is_looked_at_once(looking: Callable[[int], list[str]]) -> None:
    taken = looking(0)
    found = knowing()
    first = found.take(Move(variant("a"), "one reason"))
    assert found.take(Move(replace(variant("a"), name="another name"), "another reason")) is first
    assert taken == ["a"]


def test_two_candidates_of_one_name_are_told_apart(looking: Callable[[int], list[str]]) -> None:
    """Artifacts and predictions are kept by name: the second would be measured with the first's file."""
    taken = looking(0)
    found = knowing()
    first, second = (variant("int8+float-1", steps=steps) for steps in ((), (Simplify(use="simplify"),)))
    for move in (Move(first, ""), Move(second, ""), Move(second, "once more")):
        found.take(move)
    assert taken == ["int8+float-1", "int8+float-1~2"]
    assert {digest: candidate.variant.name for digest, candidate in found.candidates.items()} == {
        first.digest: "int8+float-1",
        second.digest: "int8+float-1~2",
    }


def test_advice_against_is_followed_last(looking: Callable[[int], list[str]]) -> None:
    taken = looking(224)
    explore(knowing(), [Move(variant("good"), "suggested")], [Move(variant("bad"), "against")])
    assert taken == ["plain@192px", "plain@208px", "good", "bad"]


# What is recorded


def test_a_candidate_that_was_not_taken_is_a_trial_with_its_reason() -> None:
    context = knowing().context
    record = _not_taken(looked("fast", 1.25, losses=3, gains=1), context)
    assert (record.status, record.variant, record.digest) == ("pruned", "fast", variant("fast").digest)
    cause = record.cause
    assert isinstance(cause, NotFinalist)
    assert (cause.variant, cause.why) == ("fast", "suggested by the advisor")
    assert (cause.speedup, cause.drop, cause.images) == (pytest.approx(1.25), 0.002, 1000)
    failed = _not_taken(Candidate(variant("x"), "", cause=broken("x")), context)
    assert (failed.status, failed.reason, failed.cause) == ("failed", "it broke (mend it)", broken("x"))
    skipped = _not_taken(Candidate(variant("x"), "", cause=Skipped(variant="x", message="no GPU")), context)
    assert (skipped.status, skipped.reason) == ("skipped", "no GPU")
    late = _not_taken(Candidate(variant("x"), "", cause=OutOfTime(variant="x")), context)
    assert (late.status, late.reason, late.cause) == ("skipped", None, OutOfTime(variant="x"))


def test_the_summary_has_what_came_of_every_kind_of_attempt() -> None:
    best, poor = looked("a", 1.5), replace(looked("b", 2.0, losses=100), why="smaller input")
    found = knowing(best, poor, Candidate(variant("c"), "", cause=broken("c")))
    summary = summarize(found, [best], None, 90.0)
    assert (summary.seconds, summary.looked, summary.untried, summary.finalists) == (90.0, 2, 1, 1)
    assert [(each.why, each.tried, each.best, each.drop, each.outlook) for each in summary.attempts] == [
        ("suggested by the advisor", 1, "a", 0.0, "within"),
        ("smaller input", 1, "b", 0.1, "beyond"),
    ]


# What is written


def comparison_of(winner: Variant) -> Comparison:
    return compare(run_info(), [trial("baseline"), trial(winner.name, speedup=2.0, digest=winner.digest)])


STEP = StaticInt8.model_validate(
    {"use": "static_int8", "calibration": {"images": 20}, "exclude_nodes": ["b", "a"]}
)


@pytest.mark.parametrize(
    "winner",
    [
        variant("plain@160px", export=Export(), preprocess=RecipePreprocess(crop=160)),
        variant("scaled", preprocess=RecipePreprocess(scale=0.5, interpolation="bicubic")),
        variant("int8", steps=(Simplify(use="simplify"), STEP), needs=("onnxruntime>=1.0",)),
        with_step(variant("int8", steps=(STEP,)), "float-1", exclude_nodes=("c",), bias_correction=True),
        at_size(variant("ov", runtime=OpenvinoRuntime(precision="bf16")), (96, 96)),
        at_size(variant("not-square"), (64, 88)),
        variant("torchscript", export=Export(exporter="torchscript", opset=17, dynamic_batch=False)),
    ],
    ids=lambda winner: winner.name,
)
def test_the_recipe_says_all_that_the_winner_is(winner: Variant, tmp_path: Path) -> None:
    path = tmp_path / "recipes" / "tuned-leaf.yaml"
    write_recipe(winner, path, comparison_of(winner))
    (read,) = recipes.load([path])
    assert (read.name, read.recipe) == ("tuned-leaf", "tuned-leaf")
    assert read.digest == winner.digest
    assert read.needs == winner.needs
    # An ONNX source is held against what was asked for in so many words.
    assert read.export.model_fields_set == winner.export.model_fields_set
    assert winner.name in read.description
    assert path.read_text().splitlines()[0] == (
        f"{HEADER} from run 20260102-030405: 2.00 times the baseline's speed on Test CPU @ 2.00GHz."
    )


def test_only_its_own_recipes_are_written_over(tmp_path: Path) -> None:
    path = tmp_path / "tuned.yaml"
    check_ours(path)  # nothing is there
    path.write_text(f"{HEADER} from run 20260102-030405\nname: tuned\n")
    check_ours(path)
    for text in ("name: tuned\n", "", "name: tuned  # Written by `krishi-bench tune`\n"):
        path.write_text(text)
        with pytest.raises(WorkbenchError, match="tune did not write it") as refused:
            check_ours(path)
        assert refused.value.hint == "choose another --name, or move it away"


def test_each_target_has_a_recipe_of_its_own(tmp_path: Path) -> None:
    steps = (Executorch(use="executorch"),)
    fast, program = variant("fast", export=Export()), variant("program", runtime=PROGRAM, steps=steps)
    trials = [
        trial("baseline"),
        trial("fast", speedup=2.0),
        trial("program", backend="executorch", status="pruned").model_copy(update={"latency": None}),
    ]
    comparison = compare(run_info(targets=("server", "android")), trials)
    paths = recipes_of(tmp_path / "tuned.yaml", ("server", "android"))
    tuned = _written(comparison, [Candidate(fast, ""), Candidate(program, "")], paths)
    assert (tuned.recipe, tuned.others) == (
        tmp_path / "tuned.yaml",
        {"android": tmp_path / "tuned-android.yaml"},
    )
    (read,) = recipes.load([tmp_path / "tuned-android.yaml"])
    assert read.runtime.backend == "executorch"
    assert "not timed on" in (tmp_path / "tuned-android.yaml").read_text()
    assert "wrote" in words.text(tuned).splitlines()[-1]
    assert "the choice for android" in words.text(tuned).splitlines()[-1]


def test_a_variant_without_preprocessing_of_its_own_states_none(tmp_path: Path) -> None:
    winner = variant("fp32", export=Export())
    write_recipe(winner, tmp_path / "r.yaml", comparison_of(winner))
    assert recipes.load([tmp_path / "r.yaml"])[0].preprocess == UNCHANGED
    assert "preprocess" not in (tmp_path / "r.yaml").read_text()
