"""Counts from logits, held against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.measure.accuracy import accuracy, parity


def logits_for(classes: list[int], count: int) -> np.ndarray:
    """(n, count) float32 whose largest logit is at the given class."""
    return np.eye(count, dtype=np.float32)[classes]


def test_an_image_is_right_where_its_largest_logit_is_its_label() -> None:
    got = accuracy(logits_for([0, 1, 2, 2], 3), logits_for([0, 1, 2, 2], 3), [0, 1, 2, 0])
    assert (got.images, got.correct, got.top1) == (4, 3, 0.75)


def test_losses_and_gains_are_counted_on_the_same_photos_in_the_class_of_the_photo() -> None:
    labels = [0, 0, 2, 2, 0]
    # The last photo is wrong in both, in different ways.
    variant, baseline = logits_for([1, 0, 2, 2, 1], 3), logits_for([0, 0, 1, 2, 2], 3)
    got = accuracy(variant, baseline, labels)
    assert (got.losses, got.gains, got.correct) == (1, 1, 3)
    assert (got.class_losses, got.class_gains) == ((1, 0, 0), (0, 0, 1))


def test_a_model_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    # Two classes; a logit difference of log 3 is a confidence of 3/4.
    logits = np.array([[np.log(3), 0]] * 4, dtype=np.float32)
    assert accuracy(logits, logits, [0, 0, 0, 1]).ece == pytest.approx(0.0, abs=1e-6)
    assert accuracy(logits, logits, [0, 0, 1, 1]).ece == pytest.approx(0.25, abs=1e-6)


def test_classes_are_counted_in_the_order_of_the_class_names() -> None:
    got = accuracy(logits_for([2, 2, 0, 0], 4), logits_for([0] * 4, 4), [2, 2, 0, 3])
    assert got.class_images == (1, 0, 2, 1)
    assert got.class_correct == (1, 0, 2, 0)


def test_macro_f1_averages_over_the_classes_that_have_photos() -> None:
    got = accuracy(logits_for([0, 0, 1, 1], 5), logits_for([0] * 4, 5), [0, 0, 1, 0])
    # Class 0: precision 2/2, recall 2/3, F1 0.8; class 1: precision 1/2, recall 1, F1 2/3.
    assert got.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)


def test_top_five_counts_the_five_largest_logits() -> None:
    ranking = np.array([[6, 5, 4, 3, 2, 1, 0]] * 3, dtype=np.float32)
    assert accuracy(ranking, ranking, [0, 4, 5]).correct_top5 == 2


@pytest.mark.parametrize(("classes", "counted"), [(2, False), (5, False), (6, True)])
def test_top_five_says_nothing_about_five_classes_or_fewer(classes: int, counted: bool) -> None:
    logits = logits_for([0], classes)
    assert (accuracy(logits, logits, [0]).correct_top5 is not None) is counted


@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_counts_agree_with_a_loop_over_the_photos(images: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    variant, baseline = rng.standard_normal((2, images, classes)).astype(np.float32)
    labels = rng.integers(0, classes, images).tolist()
    got = accuracy(variant, baseline, labels)
    mine = [int(row.argmax()) == label for row, label in zip(variant, labels, strict=True)]
    reference = [int(row.argmax()) == label for row, label in zip(baseline, labels, strict=True)]
    assert got.correct == sum(mine) == sum(got.class_correct)
    assert sum(got.class_images) == images
    assert got.losses == sum(r and not m for r, m in zip(reference, mine, strict=True))
    assert got.losses - got.gains == sum(reference) - sum(mine)
    assert (sum(got.class_losses), sum(got.class_gains)) == (got.losses, got.gains)
    assert got.class_losses == tuple(
        sum(r and not m for r, m, label in zip(reference, mine, labels, strict=True) if label == k)
        for k in range(classes)
    )


def test_softmax_changes_no_count() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((50, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 50).tolist()
    odds = np.exp(logits)
    softmax = odds / odds.sum(axis=1, keepdims=True)
    # How sure the model is of an answer is another matter: that is what changes under a second softmax.
    twice, once = accuracy(softmax, logits, labels), accuracy(logits, logits, labels)
    assert twice.model_copy(update={"ece": once.ece}) == once


def test_parity_with_itself_is_perfect() -> None:
    logits = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    got = parity(logits, logits)
    assert (got.images, got.max_abs, got.max_rel, got.top1_agreement, got.kl) == (20, 0.0, 0.0, 1.0, 0.0)


def test_parity_is_the_largest_difference_against_the_largest_reference_logit() -> None:
    reference = np.array([[8.0, 0.0], [1.0, 2.0]], dtype=np.float32)
    variant = np.array([[8.0, 0.5], [3.0, 2.0]], dtype=np.float32)
    got = parity(variant, reference)
    assert (got.max_abs, got.max_rel, got.top1_agreement) == (2.0, 0.25, 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error_that_counts_the_photos(value: float) -> None:
    logits = np.zeros((5, 3), dtype=np.float32)
    logits[[1, 3], 0] = value
    with pytest.raises(WorkbenchError, match="2 of 5 photos gave NaN or infinite logits"):
        parity(logits, np.zeros((5, 3), dtype=np.float32))


def test_a_reference_of_zeros_divides_by_nothing() -> None:
    zeros = np.zeros((2, 3), dtype=np.float32)
    assert parity(zeros, zeros).max_rel == 0.0
