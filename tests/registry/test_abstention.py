"""What a version promises of its answers: fitted from the run, kept in the manifest, said when published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import trial
from tests.registry.test_bundle_writer import FIRST, VARIANT, Bench
from workbench.backends.abstention import Abstention, RiskLimits
from workbench.errors import WorkbenchError
from workbench.measure.records import SharedPhotos
from workbench.registry.abstention import SHARED, fit_abstention, in_words, promise
from workbench.registry.bundle_writer import Promotion
from workbench.report.registry import promotion, promotion_answer
from workbench.results.folder import RunFolder

pytestmark = pytest.mark.integration

LIMITS = RiskLimits()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def run_of(
    bench: Bench, photos: int, *, held_out: bool = True, groups: bool = True, **info: Any
) -> RunFolder:
    """A run whose network is always right. groups: record which photos are alike, as runs now do."""
    run = bench.run(FIRST)
    (known,) = np.load(run.predictions(VARIANT)).values()
    outputs = np.zeros((photos, known.shape[1]), dtype=np.float32)
    outputs[:, 0] = np.linspace(9, 1, photos)
    outputs[: len(known)] = known
    arrays = {"labels": outputs.argmax(axis=1), "certifies": (np.arange(photos) % 2 == 1) & held_out}
    np.savez(run.predictions(VARIANT), logits=outputs)
    if groups:
        arrays["groups"] = np.arange(photos)
    np.savez(run.path / "validation.npz", **arrays)  # type: ignore[arg-type]
    run.save_info(run.info().model_copy(update=info))
    return run


def rule_of(done: Promotion) -> Abstention:
    rule = done.bundle.manifest.abstention
    assert rule is not None
    return rule


def test_a_promotion_fits_the_rule_and_says_what_it_promises(bench: Bench) -> None:
    done = bench.promote_run(run_of(bench, 600), limits=LIMITS)
    rule = rule_of(done)
    assert (rule.limits, rule.photos, rule.wrong, rule.claims) == (LIMITS, 300, 0, 1)
    assert rule.least_confidence is not None and rule.least_energy is not None
    said = f"answers {round(rule.answered / 3)} % of photos; at most 2 % of answers wrong (95 %, 300 photos)"
    assert promise(rule) == said
    assert promotion(done).splitlines()[-1] == said
    answer = promotion_answer(done)["abstention"]
    assert isinstance(answer, dict)
    assert (answer["promise"], answer["answered"]) == (said, rule.answered)
    card = (done.bundle.folder / "MODEL_CARD.md").read_text()
    assert f"## When it is uncertain\n\n- A{said[1:]}.\n" in card


def test_the_same_model_with_the_same_limits_is_one_version_and_with_others_another(bench: Bench) -> None:
    plain = bench.promote_run(run_of(bench, 600)).bundle
    assert plain.manifest.abstention is None
    assert "uncertain" not in (plain.folder / "MODEL_CARD.md").read_text()
    abstaining = bench.promote_run(run_of(bench, 600), limits=LIMITS)
    why = "it calls other answers uncertain than 1.0.0 does"
    assert (abstaining.version, abstaining.why) == ("1.1.0", why)
    again = bench.promote_run(run_of(bench, 640), limits=LIMITS)
    assert again.unchanged
    assert promotion(again).splitlines()[-1] == promise(rule_of(abstaining))
    back = bench.promote_run(run_of(bench, 600))
    assert (back.version, "abstention" in promotion_answer(back)) == ("1.0.0", False)


def fitted(run: RunFolder, limits: RiskLimits = LIMITS) -> Abstention | None:
    trials = run.trials()
    return fit_abstention(run, run.info(), trials[0], trials, limits)


def test_a_run_that_did_not_record_which_photos_are_alike_has_no_rule(bench: Bench) -> None:
    assert fitted(run_of(bench, 600, groups=False)) is None


def test_too_few_photos_promise_nothing_and_are_told_how_many_would(bench: Bench) -> None:
    rule = fitted(run_of(bench, 120))
    assert rule is not None and rule.least_confidence is None
    assert promise(rule) == (
        "no abstain threshold: all 60 photos show at most 4.9 % wrong (95 %), not 2 %; about 300 validation "
        "photos would show it at the errors seen; or allow more with `abstain.max_risk` in krishi.yaml"
    )


def test_photos_that_chose_the_winner_promise_less_than_photos_that_were_held_out(bench: Bench) -> None:
    run = run_of(bench, 600, held_out=False)
    chosen_of_two = fitted(run)
    run.append(trial("other"))
    chosen_of_three = fitted(run)
    assert chosen_of_two is not None and chosen_of_three is not None
    assert [rule.claims for rule in (chosen_of_two, chosen_of_three)] == [2, 3]
    assert (chosen_of_three.photos, chosen_of_three.least_confidence) == (300, 0.0)
    assert "allows for a choice among 3 variants" in "\n".join(in_words(chosen_of_three))
    fewer = run_of(bench, 360, held_out=False)
    fewer.append(trial("other"))
    rule = fitted(fewer)
    assert rule is not None and rule.least_confidence is None, (
        "180 photos show it for one variant, not for three"
    )
    assert (held_out := fitted(run_of(bench, 360))) is not None and held_out.least_confidence is not None


def test_photos_that_the_ranges_were_found_on_promise_nothing(bench: Bench) -> None:
    rule = fitted(run_of(bench, 600, leak=True))
    assert rule is not None
    assert promise(rule) == f"no abstain threshold: {SHARED.format(use='calibration')}"


def test_photos_of_the_training_promise_nothing_and_are_called_so(bench: Bench) -> None:
    shared = SharedPhotos(images=1, paths=("/a.jpg",), part="train")
    rule = fitted(run_of(bench, 600, leak=True, uncertified=shared))
    assert rule is not None and rule.why_not == SHARED.format(use="training")


def test_one_class_and_logits_that_are_not_finite_have_no_threshold(bench: Bench) -> None:
    run = run_of(bench, 600, class_names=("leaf",))
    assert fitted(run) is None
    run = run_of(bench, 600)
    (outputs,) = np.load(run.predictions(VARIANT)).values()
    outputs[7, 0] = np.nan
    np.savez(run.predictions(VARIANT), logits=outputs)
    rule = fitted(run)
    assert rule is not None and rule.why_not == "some of its logits are not finite"


def test_predictions_of_other_photos_are_refused(bench: Bench) -> None:
    run = run_of(bench, 600)
    arrays = {"labels": np.zeros(5, int), "certifies": np.zeros(5, bool), "groups": np.arange(5)}
    np.savez(run.path / "validation.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(WorkbenchError, match="is of other photos or classes than"):
        fitted(run)
