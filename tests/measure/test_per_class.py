"""What a variant does to single classes, and to how sure it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import per_class
from workbench.backends.softmax import softmax
from workbench.measure.per_class import (
    ClassChange,
    Confusion,
    class_changes,
    expected_calibration_error,
    holm,
    mean_kl,
    new_confusions,
)
from workbench.measure.stats import PairedDrop


def test_holm_is_worked_by_hand() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not fall below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_changes_nothing_for_one_and_never_passes_one() -> None:
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_raw_value_and_bonferronis(values: list[float]) -> None:
    adjusted = holm(values)
    for raw, got in zip(values, adjusted, strict=True):
        assert raw <= got <= min(1.0, len(values) * raw)
    ranks = sorted(range(len(values)), key=lambda index: values[index])
    assert [adjusted[index] for index in ranks] == sorted(adjusted)


def test_classes_that_changed_are_listed_by_what_they_lose() -> None:
    accuracy = per_class((100, 50, 10, 10), (8, 0, 0, 1), (0, 2, 0, 1))
    changes = class_changes(accuracy, ["rust", "scab", "same", "swap"])
    assert [change.name for change in changes] == ["rust", "swap", "scab"]
    assert changes[0] == ClassChange("rust", 100, 8, 0, 3 * PairedDrop(8, 0, 100).mcnemar_p())
    assert [change.drop for change in changes] == pytest.approx([0.08, 0.0, -0.04])
    assert [change.p for change in changes[1:]] == [1.0, 1.0]


def test_nothing_is_listed_where_nothing_changed_or_where_it_was_not_counted() -> None:
    accuracy = per_class((5, 5), (0, 0), (0, 0))
    assert class_changes(accuracy, ["a", "b"]) == []
    assert class_changes(accuracy.model_copy(update={"class_losses": ()}), ["a", "b"]) == []


def test_a_confusion_is_new_where_the_baseline_said_something_else() -> None:
    labels = [0, 0, 0, 1, 2, 2]
    variant = np.eye(3, dtype=np.float32)[[1, 1, 2, 1, 0, 2]]
    baseline = np.eye(3, dtype=np.float32)[[0, 0, 2, 1, 1, 2]]
    # The third photo was confused the same way before; the fifth was taken for something else.
    assert new_confusions(variant, baseline, labels, ["rust", "scab", "rot"]) == [
        Confusion("rust", "scab", 2),
        Confusion("rot", "rust", 1),
    ]


def sure(confidence: float, right: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Photos of two classes, each answered 0 with this confidence; the labels of the last are 1."""
    probabilities = np.tile([confidence, 1 - confidence], (total, 1))
    return probabilities, np.array([0] * right + [1] * (total - right))


def test_confidence_equal_to_accuracy_is_no_calibration_error() -> None:
    parts = [sure(0.9, 9, 10), sure(0.6, 6, 10)]
    probabilities, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("confidence", "right", "error"), [(1.0, 5, 0.5), (0.9, 6, 0.3), (0.6, 10, 0.4)])
def test_the_calibration_error_is_the_distance_of_confidence_from_accuracy(
    confidence: float, right: int, error: float
) -> None:
    assert expected_calibration_error(*sure(confidence, right, 10)) == pytest.approx(error)


def test_errors_of_both_kinds_do_not_cancel_out() -> None:
    parts = [sure(0.9, 7, 10), sure(0.6, 8, 10)]
    probabilities, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.2)


def test_equal_logits_diverge_by_nothing_and_a_shift_changes_no_probability() -> None:
    logits = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    assert mean_kl(logits, logits) == 0.0
    assert mean_kl(logits, logits + 3) == pytest.approx(0.0, abs=1e-6)


def test_divergence_is_in_nats_and_averaged_over_the_photos() -> None:
    even = np.zeros((2, 2), dtype=np.float32)
    tilted = np.array([[np.log(9), 0], [0, 0]], dtype=np.float32)
    one = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert mean_kl(even, tilted) == pytest.approx(one / 2, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 300))
def test_divergence_is_finite_and_not_negative_however_sure_the_models_are(seed: int, scale: float) -> None:
    a, b = (scale * np.random.default_rng(seed).standard_normal((2, 8, 5))).astype(np.float32)
    assert -1e-9 <= mean_kl(a, b) < 1e5
    assert mean_kl(a, a) == 0.0


def test_probabilities_of_huge_logits_sum_to_one() -> None:
    got = softmax(np.array([[3e38, 0, -3e38], [1e4, 1e4, 0]], dtype=np.float32))
    assert got.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert got[1] == pytest.approx([0.5, 0.5, 0.0])
