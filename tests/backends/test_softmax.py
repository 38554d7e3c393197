"""Logits to probabilities, by the function that evaluation and server share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.backends.softmax import log_softmax, softmax


def test_softmax_survives_large_logits() -> None:
    probabilities = softmax(np.array([3e38, -3e38, 0.0], np.float32))
    assert probabilities.dtype == np.float64
    assert probabilities.tolist() == [1.0, 0.0, 0.0]
    assert softmax(np.zeros(4, np.float32)).tolist() == [0.25] * 4
    assert softmax(np.array([1, 2], np.float32))[1] == pytest.approx(1 / (1 + np.exp(-1.0)), rel=1e-15)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_the_logarithms_are_those_of_the_probabilities(seed: int, scale: float) -> None:
    logits = (scale * np.random.default_rng(seed).standard_normal((4, 6))).astype(np.float32)
    assert np.exp(log_softmax(logits)) == pytest.approx(softmax(logits), rel=1e-12)
    # Rows are independent, and a row alone is as one of many.
    assert softmax(logits[2]).tolist() == softmax(logits)[2].tolist()


def test_the_logarithm_of_a_vanishing_probability_is_finite() -> None:
    assert log_softmax(np.array([[0.0, -2000.0]])).tolist() == [[0.0, -2000.0]]


def test_the_logits_are_not_changed() -> None:
    logits = np.array([[1.0, 2.0]])
    softmax(logits)
    log_softmax(logits)
    assert logits.tolist() == [[1.0, 2.0]]


def test_a_logit_that_is_not_a_number_makes_every_probability_none() -> None:
    assert np.isnan(softmax(np.array([0.0, np.nan], np.float32))).all()
