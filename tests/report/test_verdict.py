"""The verdict in words: every kind of reason has a sentence, and lists and plurals are right."""

import pytest

from tests.builders import absent_trial, run_info, trial
from workbench.errors import plural
from workbench.measure.early_stopping import LostRace
from workbench.measure.records import SharedPhotos, TooFewToSplit, WholePath
from workbench.report import tune, verdict, words
from workbench.report.search import search
from workbench.results import reasons
from workbench.results.records import (
    AdviceScore,
    Attempts,
    CertificationSequence,
    Misjudgement,
    RunInfo,
    SearchSummary,
)
from workbench.results.verdict import Comparison, compare
from workbench.run.tune.tune import Tuned

FEW = TooFewToSplit(images=200, drop_upper=0.0267)
SHARED = SharedPhotos(images=6, paths=("/a.jpg", "/b.jpg", "/c.jpg"))
WINNER = reasons.Winner(
    variant="int8",
    objective="latency",
    speedup=2.0,
    speedup_ci=(1.9, 2.1),
    drop=-0.0017,
    drop_upper=0.0028,
    images=1200,
    size_bytes=1_060_000,
    tolerance=0.011,
)
DROP = reasons.DropShortfall(drop=0.05, limit=0.01)


def judged(info: RunInfo, *found: reasons.Reason, winner: str | None = None) -> Comparison:
    return Comparison(
        (), reasons.Verdict(winner=winner, certified=False, close_behind=(), reasons=found), info
    )


def lines(comparison: Comparison, title: str, *, verbose: bool = False) -> list[str]:
    found = {section.title: section.lines for section in verdict.sections(comparison, verbose=verbose)}
    return list(found.get(title, ()))


@pytest.mark.parametrize(
    ("shortfall", "text"),
    [
        (DROP, "drop 5.00 points (budget 1)"),
        (
            reasons.PhotosShortfall(images=200, drop=-0.0, drop_upper=0.021, limit=0.01, images_needed=1631),
            "too few photos (200): drop 0.00 points (95 % bound 2.10, budget 1); about 1,631 would do",
        ),
        (
            reasons.PhotosShortfall(images=1000, drop=0.01, drop_upper=0.015, limit=0.01, images_needed=None),
            "too few photos (1,000): drop 1.00 points (95 % bound 1.50, budget 1); "
            "more photos will not help, as the drop itself reaches the budget",
        ),
        (
            reasons.ClassShortfall(class_name="rust", drop=0.06, limit=0.05),
            "class rust loses 6.0 % of its photos (budget 5)",
        ),
        (
            reasons.AbsentClassShortfall(class_names=("rust", "scab"), limit=0.05),
            "no photo of 2 classes (`rust`, `scab`), so that max_class_drop cannot be judged: add some, or "
            "leave it out of the budget",
        ),
        (reasons.SizeShortfall(size_bytes=8_000_000, limit_bytes=1e6), "file 8.00 MB (budget 1)"),
        (
            reasons.MemoryShortfall(peak_memory_bytes=40_000_000, limit_bytes=20e6),
            "memory 40.00 MB (budget 20)",
        ),
        (reasons.LatencyShortfall(p50_ns=10e6, limit_ns=2.5e6), "p50 10.00 ms (budget 2.5)"),
        (
            reasons.BatchShortfall(batch_size=8),
            "timed in batches of 8, which win only with `objective: throughput`",
        ),
        (reasons.UnmeasuredShortfall(what="accuracy"), "accuracy not measured"),
        (reasons.UnmeasuredShortfall(what="latency"), "not measured to the end"),
        (reasons.UnmeasuredShortfall(what="throughput"), "throughput not measured"),
        (reasons.LeakShortfall(cause="3 photos are in both"), "3 photos are in both"),
        (
            reasons.LeakShortfall(cause=SHARED),
            "6 photos in both data.calibration and data.validation (/a.jpg, /b.jpg, /c.jpg and 3 more): "
            "accuracy on photos used for calibration certifies nothing",
        ),
    ],
)
def test_every_shortfall_has_its_numbers(shortfall: reasons.Shortfall, text: str) -> None:
    assert verdict.shortfall(shortfall) == text


@pytest.mark.parametrize(
    ("cause", "brief", "verbose"),
    [
        (
            LostRace(variant="x", behind="fast", factor=1.27, rounds=3, confidence=0.99996),
            None,
            "slower: at least 1.27 times the time of fast (after 3 rounds, one-sided 99.996 % bound)",
        ),
        (
            reasons.NotFinalist(
                variant="x", why="suggested by the advisor", speedup=1.25, drop=0.002, images=1000
            ),
            "not taken further: others promised more in a quick look",
            "not taken further: 1.25 times the baseline's speed, drop 0.20 points in a quick look on 1,000 "
            "photos (suggested by the advisor); others promised more",
        ),
        (
            reasons.NotCertifiedInTurn(variant="x", shortfalls=(DROP,)),
            "not certified: drop 5.00 points (budget 1)",
            None,
        ),
        (
            reasons.NotCertifiedInTurn(variant="x", after="bold"),
            "not certified: bold came first in the sequence and failed",
            None,
        ),
        (
            reasons.OutOfTime(variant="x", while_building=True),
            "not tried: the search ended during the build",
            None,
        ),
        (reasons.OutOfTime(variant="x"), "not tried: the search ended before its turn", None),
        (
            reasons.TooLarge(
                variant="x", needs_bytes=900_000_000, beside_bytes=600_000_000, limit_bytes=1_400_000_000
            ),
            "skipped: it needs 900 MB of memory and the baseline and its second copy 600; 1400 may be used "
            "at a time",
            None,
        ),
        (
            reasons.Skipped(variant="x", message="no GPU", hint="buy one"),
            "skipped: no GPU",
            "skipped: no GPU (buy one)",
        ),
        (
            reasons.Failed(variant="x", message="killed by SIGKILL", while_timing=True),
            "failed: while timing: killed by SIGKILL",
            None,
        ),
        (reasons.Pruned(variant="x", message="3 times slower"), "pruned: 3 times slower", None),
    ],
)
def test_every_cause_has_its_words_in_brief_and_in_full(
    cause: reasons.Cause, brief: str | None, verbose: str | None
) -> None:
    assert ": ".join(verdict.cause(cause)) == (verbose or brief)
    shown = lines(judged(run_info(), cause), "Not measured here")
    assert shown == ([f"x {brief}"] if brief else [])


def test_variants_of_one_cause_share_a_line_and_many_are_counted() -> None:
    skipped = [reasons.Skipped(variant=name, message="no GPU") for name in "abcde"]
    comparison = judged(run_info(), *skipped, reasons.Failed(variant="f", message="it broke"))
    assert lines(comparison, "Not measured here") == ["a and 4 more skipped: no GPU", "f failed: it broke"]
    assert lines(comparison, "Not measured here", verbose=True)[0] == "a, b, c, d, e skipped: no GPU"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            reasons.Outcome(kind="baseline_wins"),
            "nothing that fits the budget beats the plain FP32 export: use that",
        ),
        (
            reasons.Certified(
                variant="int8",
                images=600,
                top1=0.97,
                drop=-0.0017,
                drop_upper=0.0028,
                limit=0.01,
                mcnemar_p=1.0,
            ),
            "certified on 600 held-out photos: drop −0.17 points (95 % bound 0.28, budget 1)",
        ),
        (
            reasons.Certified(
                variant="baseline",
                images=50,
                top1=0.96,
                drop=None,
                drop_upper=None,
                limit=0.01,
                mcnemar_p=None,
            ),
            "certified: the others are compared with it; top-1 96.00 % on 50 held-out photos",
        ),
        (
            reasons.NotCertified(variant="int8", images=1, shortfalls=(DROP, DROP)),
            "NOT certified on 1 held-out photo: drop 5.00 points (budget 1); drop 5.00 points (budget 1)",
        ),
        (
            reasons.NoneCertifies(variant="int8", cause=FEW, leak=False),
            "not certified: 200 photos are too few to hold half of them out, so all were used for selection "
            "(a half could at best show a drop under 2.67 points)",
        ),
        (
            reasons.NoneCertifies(variant="int8", cause=FEW, leak=False, candidates=6, drop_upper=0.0143),
            "not certified: 200 photos are too few to hold half of them out, so all were used for selection "
            "(a half could at best show a drop under 2.67 points); allowing for a choice among 6 variants, "
            "the drop may be 1.43 points",
        ),
        (
            reasons.CertifiedTogether(
                variant="int8",
                images=500,
                candidates=5,
                confidence=0.99,
                drop=0.0,
                drop_upper=0.0094,
                limit=0.01,
            ),
            "certified on the 500 photos it was chosen on, too few to hold half of them out: drop 0.00 "
            "points (99 % bound 0.94, budget 1), which allows for a choice among 5 variants",
        ),
        (
            reasons.CertifiedAsSame(variant="fp32[opset=20]", images=100, max_rel=8.1e-7, bound=1e-4),
            "same answers as the baseline on 100 photos: logits differ by at most 8.1e-07 of the largest; "
            "rounding explains 0.0001",
        ),
        (
            reasons.NoneCertifies(variant="int8", cause=None, leak=False),
            "not certified: this run held no photos out",
        ),
        (reasons.Outcome(kind="nothing_fits"), "nothing fits the budget"),
        (reasons.Outcome(kind="cut_short"), "the run was cut short before anything was timed: run it again"),
        (
            reasons.NothingElse(counts={"skipped": 4, "failed": 1}),
            "nothing else was measured (4 skipped, 1 failed): this says nothing about the others",
        ),
        (reasons.NothingElse(counts={}), "nothing else was measured"),
    ],
)
def test_every_reason_of_the_decision_is_a_line(reason: reasons.Reason, text: str) -> None:
    assert lines(judged(run_info(), reason), "No winner") == [text]


def test_without_held_out_photos_the_drop_is_that_of_the_photos_it_was_chosen_on() -> None:
    none = reasons.NoneCertifies(variant="int8", cause="they are too few", leak=False)
    assert lines(judged(run_info(), WINNER, none, winner="int8"), "Winner") == [
        "int8: 2.00 times the baseline's speed [1.90, 2.10], 1.06 MB",
        "on the 1,200 photos it was chosen on: drop −0.17 points (95 % bound 0.28, budget 1)",
        "not certified: they are too few",
    ]


def close(variant: str, ratio: float, *, tied: bool) -> reasons.CloseBehind:
    return reasons.CloseBehind(variant=variant, ratio=ratio, tied=tied, speedup=2.0 / ratio, speedup_ci=None)


def test_what_is_tied_and_what_is_behind_are_told_apart() -> None:
    found = [close(name, 1.0, tied=True) for name in ("a", "baseline")]
    found += [close("c", 1.03, tied=False), close("d", 1.05, tied=False)]
    assert lines(judged(run_info(), WINNER, *found, winner="int8"), "Close behind") == [
        "baseline, a: the same speed (less than 1.1 % apart counts as equal); "
        "the smaller and simpler one wins",
        "c 1.94 times, d 1.90 times: up to 5 % behind in speed",
    ]


def test_faster_ones_over_the_budget_are_named_and_of_many_the_first() -> None:
    over = [reasons.OverBudget(variant=f"v{n}", speedup=4.0, shortfalls=(DROP,)) for n in range(9)]
    shown = lines(judged(run_info(), *over), "Over the budget")
    assert shown[0] == "v0 (4.00 times): drop 5.00 points (budget 1)"
    assert (len(shown), shown[-1]) == (9, "1 more")
    assert len(lines(judged(run_info(), *over), "Over the budget", verbose=True)) == 9


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (
            {"ended": {"race": "budget", "final": "narrow"}},
            "(race: the time budget ended; final: every interval was narrow enough): "
            "a larger --time-budget makes it more precise",
        ),
        (
            {"ended": {"race": "rounds", "final": "rounds"}},
            "(all rounds were made): a larger --rounds makes it more precise",
        ),
        ({"ended": None}, "(the run was cut short): a larger --rounds makes it more precise"),
    ],
)
def test_an_open_question_says_what_would_answer_it(known: dict[str, object], text: str) -> None:
    reason = reasons.Undecided.model_validate({"variants": ["a", "b"], "target": 0.02, **known})
    (line,) = lines(judged(run_info(), reason), "Notes")
    assert line == f"the speed of a, b is uncertain by more than ±2 % {text}"


def test_what_a_run_of_before_says_of_its_end_is_used() -> None:
    reason = reasons.Undecided(variants=("a",), target=0.02, ended=None)
    (line,) = lines(judged(run_info(timing_ended="race: the time budget ended"), reason), "Notes")
    assert line.endswith("(race: the time budget ended): a larger --time-budget makes it more precise")


def test_the_way_of_a_photo_is_a_note_and_its_stages_are_for_verbose() -> None:
    path = WholePath(
        photo="12 megapixels", bytes=3_000_000, decode_ns=60e6, preprocess_ns=20e6, infer_ns=19e6, rest_ns=1e6
    )
    winner = WINNER.model_copy(update={"whole_path": (path,)})
    comparison = judged(run_info(), winner, winner="int8")
    assert lines(comparison, "Notes") == [
        "from a photo's file to its class: 100.0 ms for 12 megapixels, 60 % of it decoding"
    ]
    assert lines(comparison, "Notes", verbose=True) == [
        "photo of 12 megapixels: 100.00 ms = decode 60.00 + preprocess 20.00 + inference 19.00 + rest 1.00"
    ]


def test_the_score_of_the_advice_is_for_verbose_and_what_it_left_out_a_note() -> None:
    wrong = Misjudgement(
        kind="faster_than_advised",
        variant="int8",
        expected="slower",
        low=0.5,
        high=0.8,
        because="it has no VNNI",
        speedup=1.4,
        speedup_ci=(1.3, 1.5),
    )
    score = AdviceScore(right=1, timed=2, wrong=(wrong,), not_worth=3, not_here=1)
    comparison = judged(run_info(advice=score))
    assert lines(comparison, "The advice") == []
    assert lines(comparison, "The advice", verbose=True) == [
        "int8 was expected to be slower and is faster: 1.40 times the baseline's speed [1.30, 1.50] "
        "(expected 0.50 to 0.80 times, because it has no VNNI)",
        "right about 1 of 2 variants that were timed",
    ]
    assert lines(comparison, "Notes") == [
        "--advised left out 3 not worth trying and 1 that cannot run here (`krishi-bench advise` says why)"
    ]


SUMMARY = SearchSummary(
    seconds=90.0,
    looked=2,
    untried=1,
    finalists=1,
    attempts=(
        Attempts(
            why="smaller input", tried=1, best="b", speedup=2.0, drop=0.1, images=1000, outlook="beyond"
        ),
    ),
    sequence=CertificationSequence(order=("sure", "bold"), passed=1, failed="bold"),
)


def test_a_search_is_told_by_its_attempts() -> None:
    assert search(SUMMARY) == [
        "searched for 1.5 minutes: 2 variants looked at, 1 could not be tried, 1 measured in full",
        "smaller input: 1 tried; the best, b: 2.00 times the baseline's speed, drop 10.00 points on 1,000 "
        "photos, more than the budget allows",
        "certified in turn, most certain first, until one fails: sure > bold; 1 passed, bold failed",
    ]


def test_a_search_that_could_measure_nothing_else_does_not_say_that_nothing_beat_the_baseline() -> None:
    gone = absent_trial("gpu", "skipped", "no CUDA device")
    alone = compare(run_info(search=SUMMARY), [trial("baseline"), gone])
    assert tune.text(Tuned(alone, None)).splitlines() == [
        *search(SUMMARY),
        "nothing besides the plain FP32 export could be measured: no recipe was written",
    ]
    against = compare(run_info(), [trial("baseline"), gone, trial("slow", speedup=0.5)])
    assert "nothing that keeps the budget beat" in tune.text(Tuned(against, None))


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "photo", "1 photo"),
        (0, "photo", "0 photos"),
        (1200, "photo", "1,200 photos"),
        (2, "class", "2 classes"),
    ],
)
def test_plurals_are_right(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text


@pytest.mark.parametrize(
    ("names", "text"),
    [("", ""), ("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c, d"), ("abcde", "a, b, c and 2 more")],
)
def test_long_lists_are_counted(names: str, text: str) -> None:
    assert words.listed(list(names)) == text


def test_minus_signs_are_real_and_nothing_is_minus_zero() -> None:
    assert [words.points(drop) for drop in (-0.0017, -0.00001, 0.0, 0.05)] == [
        "−0.17",
        "0.00",
        "0.00",
        "5.00",
    ]
