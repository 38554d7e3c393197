"""Activation ranges: what is cut, and that neither the order nor the number of photos changes how."""

import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from workbench.errors import WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.steps.int8 import calibration as calibrating
from workbench.steps.int8.calibration import Summary, pooled, ranges_of
from workbench.steps.int8.range_search import (
    LEVELS,
    Range,
    entropy_threshold,
    percentile_limit,
    percentile_tails,
)
from workbench.steps.int8.settings import Calibration

Arrays = list[NDArray[np.float32]]


METHODS = ("minmax", "entropy", "percentile")


def summary(values: NDArray[np.float32]) -> Summary:
    """As the network computes it, in numpy."""
    mean = float(values.mean(dtype=float))
    return Summary(values.size, values.size, float(values.min()), float(values.max()), mean)


def ranges(arrays: Arrays, method: str, *, symmetric: bool = False, **fields: float) -> Range:
    plan = {"t": Calibration.model_validate({"method": method, **fields})}
    summaries = pooled({"t": summary(array)} for array in arrays)
    return ranges_of(summaries, plan, lambda _: ({"t": array} for array in arrays), symmetric=symmetric)["t"]


@pytest.fixture(scope="module")
def outliers() -> NDArray[np.float32]:
    """A bell of values within ±5, and three far outside it."""
    values = np.random.default_rng(0).standard_normal(40_000, np.float32)
    return np.concatenate([values, np.array([40, 30, -38], np.float32)])


def test_minmax_keeps_every_value(outliers: NDArray[np.float32]) -> None:
    assert ranges([outliers], "minmax") == (-38.0, 40.0)


def test_entropy_cuts_outliers_where_minmax_does_not(outliers: NDArray[np.float32]) -> None:
    low, high = ranges([outliers], "entropy")
    assert 3 < high < 8
    assert low == -high


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_neither_the_order_nor_the_split_into_batches_changes_a_range(
    outliers: NDArray[np.float32], method: str, symmetric: bool
) -> None:
    whole = ranges([outliers], method, symmetric=symmetric)
    twenty = ranges(np.array_split(outliers, 20), method, symmetric=symmetric)
    backwards = ranges(np.array_split(outliers[::-1], 7), method, symmetric=symmetric)
    assert twenty == pytest.approx(whole, rel=1e-6)
    assert backwards == pytest.approx(whole, rel=1e-6)


def test_a_range_never_exceeds_the_values_seen() -> None:
    relu = np.maximum(np.random.default_rng(1).standard_normal(10_000, np.float32), 0)
    for method in METHODS:
        low, high = ranges([relu], method)
        assert low == 0.0
        assert 0 < high <= relu.max()


def test_percentile_cuts_both_tails_of_an_asymmetric_range() -> None:
    values = np.linspace(-1, 3, 100_001, dtype=np.float32)
    low, high = ranges([values], "percentile", percentile=90)
    assert low == pytest.approx(-0.8, abs=4 / 2048)
    assert high == pytest.approx(2.8, abs=4 / 2048)


def test_percentile_cuts_the_absolute_value_for_a_symmetric_range() -> None:
    values = np.linspace(-4, 4, 100_001, dtype=np.float32)
    low, high = ranges([values], "percentile", symmetric=True, percentile=75)
    assert high == pytest.approx(3.0, abs=4 / 2048)
    assert low == -high


def test_percentile_100_is_minmax(outliers: NDArray[np.float32]) -> None:
    assert ranges([outliers], "percentile", percentile=100) == ranges([outliers], "minmax")
    assert percentile_limit(np.array([5, 0, 1]), 3.0, 100) == 3.0
    assert percentile_tails(np.array([5, 0, 1]), (0.0, 3.0), 100) == (0.0, 3.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_with_one_value_keeps_it_and_one_of_zeros_gets_a_scale(method: str) -> None:
    assert ranges([np.full(10, 2.5, np.float32)], method)[1] == 2.5
    assert ranges([np.full(10, -2.5, np.float32)], method)[0] == -2.5
    assert ranges([np.zeros(10, np.float32)], method) == (0.0, 1.0)
    assert ranges([np.full(10, -1e-30, np.float32)], method) == (-1.0, 1.0)


def test_tensors_too_large_for_one_run_are_counted_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    arrays = {name: rng.standard_normal(1000, np.float32) for name in "abcde"}
    summaries = pooled(iter([{name: summary(array) for name, array in arrays.items()}]))
    plan = dict.fromkeys(arrays, Calibration(method="percentile", percentile=99))
    asked: list[str] = []

    def passes(names: Sequence[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
        asked.append("".join(names))
        return iter([{name: arrays[name] for name in names}])

    at_once = ranges_of(summaries, plan, passes, symmetric=False)
    monkeypatch.setattr(calibrating, "AT_ONCE_BYTES", 8000)
    assert ranges_of(summaries, plan, passes, symmetric=False) == at_once
    assert asked == ["abcde", "ab", "cd", "e"]


@pytest.mark.parametrize("seed", range(6))
def test_the_vectorised_entropy_finds_what_the_definition_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.abs(rng.standard_t(3, 3000)) if seed % 2 else rng.gamma(2, 1, 500)
    counts, _ = np.histogram(values, bins=300, range=(0, values.max()))
    assert entropy_threshold(counts, 1.0) == pytest.approx(entropy_by_definition(counts))


def entropy_by_definition(counts: NDArray[np.int64]) -> float:
    """Migacz's search, one threshold at a time, without the shortcut through prefix sums."""
    bins = counts.astype(float)
    bins[0] = bins[1]
    best = (np.inf, 0)
    for end in range(LEVELS, len(bins) + 1):
        p = bins[:end].copy()
        p[-1] += bins[end:].sum()
        q = np.zeros(end)
        edges = end * np.arange(LEVELS + 1) // LEVELS
        for start, stop in pairwise(edges):
            used = p[start:stop] > 0
            if used.any():
                q[start:stop][used] = bins[start:stop].sum() / used.sum()
        some = p > 0
        if (q[some] == 0).any():
            continue
        p, q = p / p.sum(), q / q.sum()
        best = min(best, (float((p[some] * np.log(p[some] / q[some])).sum()), end))
    return best[1] / len(bins)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(WorkbenchError, match="`t` is not finite"):
        pooled(iter([{"t": Summary(3, 3, min(bad, 0.0), max(bad, 1.0), bad)}]))


def test_a_photo_that_is_not_finite_is_blamed_on_the_photos() -> None:
    with pytest.raises(WorkbenchError, match="a calibration photo is not finite"):
        pooled(iter([{"t": summary(np.array([0, np.nan], np.float32))}]), "t")


def test_photos_are_dropped_as_the_next_ones_come() -> None:
    made: list[weakref.ref[NDArray[np.float32]]] = []
    most = 0

    def activations(_: Sequence[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
        nonlocal most
        for seed in range(30):
            values = np.random.default_rng(seed).standard_normal(100, np.float32)
            made.append(weakref.ref(values))
            most = max(most, sum(array() is not None for array in made))
            yield {"t": values}

    summaries = {"t": Summary(3000, 100, -5.0, 5.0, 0.0)}
    ranges_of(summaries, {"t": Calibration(method="entropy")}, activations, symmetric=False)
    assert len(made) == 30
    assert most <= 2


def test_calibration_photos_come_from_all_classes(tmp_path: Path) -> None:
    images = stored(tmp_path, classes=10, each=7)
    chosen = np.concatenate(list(images.spread(20, 8)))
    labels = np.round(chosen[:, 0, 0, 0] * 255).astype(int)
    assert sorted(set(labels)) == list(range(10))
    assert len(labels) == 20


def stored(folder: Path, *, classes: int, each: int) -> Images:
    """Photos whose pixels are all their label."""
    labels = np.repeat(np.arange(classes), each)
    np.save(
        folder / "pixels.npy",
        np.broadcast_to(labels[:, None, None, None], (len(labels), 4, 4, 3)).astype("u1"),
    )
    contract = Preprocess(resize=4, crop=4, mean=(0, 0, 0), std=(1, 1, 1))
    return Images(folder / "pixels.npy", tuple(labels.tolist()), contract, "digest")


def test_entropy_does_not_clip_a_tensor_that_stays_away_from_zero_to_next_to_nothing() -> None:
    """Such as the gate of a squeeze-and-excitation block: all its values lie between 0.4 and 0.6."""
    values = np.random.default_rng(0).normal(0.5, 0.03, 3200).clip(0.4, 0.6)
    counts, _ = np.histogram(values, bins=2048, range=(0.0, 0.6))
    threshold = entropy_threshold(counts, 0.6)
    assert (values > threshold).mean() <= 0.01
