"""Whether two sets of logits are those of one function."""

import numpy as np
import pytest

from workbench.measure.agreement import SAME, same_answers

LOGITS = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
LARGEST = float(np.abs(LOGITS).max())


def moved(by: float) -> np.ndarray:
    """One logit, which names no class, moved by a share of the largest."""
    got = LOGITS.copy()
    got[7, LOGITS[7].argmin()] -= by * LARGEST
    return got


@pytest.mark.parametrize("by", [0.0, 1e-6, 0.9 * SAME])
def test_what_rounding_explains_is_the_same_function(by: float) -> None:
    same = same_answers(LOGITS, moved(by))
    assert same is not None
    assert (same.images, same.bound, same.max_rel) == (50, SAME, pytest.approx(by, abs=1e-7))


def test_a_logit_further_off_on_a_single_photo_is_another_function() -> None:
    assert same_answers(LOGITS, moved(1.1 * SAME)) is None


def test_another_class_is_another_answer_however_close_the_two_were() -> None:
    tied = LOGITS.copy()
    tied[3] = [2.0, 2.0 + 1e-6, 0.0, 0.0]
    other = tied.copy()
    other[3] = [2.0 + 1e-6, 2.0, 0.0, 0.0]
    assert same_answers(tied, tied.copy()) is not None
    assert same_answers(tied, other) is None


def test_logits_that_are_not_finite_and_other_classes_are_not_the_same() -> None:
    broken = LOGITS.copy()
    broken[0, LOGITS[0].argmin()] = -np.inf
    assert same_answers(LOGITS, broken) is None
    assert same_answers(LOGITS, LOGITS[:, :3]) is None


def test_small_logits_are_not_held_to_a_share_of_nearly_nothing() -> None:
    small = 1e-4 * LOGITS
    assert same_answers(small, small + np.float32(1e-7)) is not None
