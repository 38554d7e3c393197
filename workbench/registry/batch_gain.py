"""Measure and decide whether a server gathers photos of several requests into one call."""

import time
from collections.abc import Mapping
from statistics import median

from pydantic import PositiveFloat, PositiveInt

from workbench.backends import Infer
from workbench.errors import plural
from workbench.photos.contract import Batch
from workbench.system.records import Record

SIZES = (2, 4, 8, 16)
# Of the largest logit. A GPU takes other kernels for other batch sizes, and they round FP16 differently.
SAME = {"cpu": 1e-3, "cuda": 1e-2}
TURN_S = 0.02
TURNS = 5
HOPE = 1.05
SAVING_S = 5e-4  # a photo; a batch's threads cost about as much
GAIN = 1.2  # a smaller gain is not worth the wait for other photos
LONGEST_CALL_S = 0.25


class Batching(Record):
    """size: photos a server may gather into a call. photos_per_s: by the size of the call; single photos are
    measured with one call per session at a time, larger sizes with one call. why: one sentence."""

    size: PositiveInt
    photos_per_s: dict[PositiveInt, PositiveFloat]
    why: str


def batching_of(infer: Infer, photos: Batch, *, fixed: int, sessions: int, device: str = "cpu") -> Batching:
    """Time calls of one photo against calls of several, of photos (n, ...) as the session takes them.

    fixed: batch size of the artifact, 0 where it is free: a call of fewer costs as much, so as many are
    gathered. sessions: calls a server makes at a time.
    """
    import numpy as np

    why = f"the artifact takes {plural(fixed, 'photo')} a call"
    if fixed == 1:
        return Batching(size=1, photos_per_s={}, why=why)
    photos = photos[: fixed or len(photos)]
    single = np.concatenate([infer(photos[i : i + 1]) for i in range(len(photos))])
    together = infer(photos)
    # Dynamic quantisation takes its scale from the whole batch.
    if not np.allclose(single, together, rtol=0, atol=SAME[device] * float(np.abs(single).max())):
        return Batching(size=1, photos_per_s={}, why="answers depend on the other photos of a batch")
    if fixed:
        return Batching(size=fixed, photos_per_s={}, why=why)
    batches = {}
    for size in (1, *SIZES):
        batch = np.resize(photos, (size, *photos.shape[1:]))
        infer(batch)  # A GPU's runtime chooses kernels, or records a graph, at the first call of a size.
        started = time.perf_counter()
        infer(batch)
        if size == 1 or time.perf_counter() - started <= LONGEST_CALL_S:
            batches[size] = batch
    # Most networks on most processors gain nothing, and the largest batch shows that.
    largest = max(batches)
    rates = _rates(infer, {size: batches[size] for size in (1, largest)}, sessions)
    if rates[largest] >= HOPE * rates[1]:
        rates = _rates(infer, batches, sessions)
    return decide(rates)


def decide(photos_per_s: dict[int, float]) -> Batching:
    """Choose the smallest size within 5 % of the fastest, or 1 where the gain is too small."""
    single, best = photos_per_s[1], max(photos_per_s.values())
    saves_s = 1 / single - 1 / best
    if best < GAIN * single or saves_s < SAVING_S:
        why = f"a call of several photos does {best / single:.2f} times the photos a second"
        why += f" and saves {1e3 * saves_s:.2f} ms a photo; {GAIN:g} and {1e3 * SAVING_S:g} ms would pay"
        return Batching(size=1, photos_per_s=photos_per_s, why=why)
    size = min(size for size, rate in photos_per_s.items() if rate >= 0.95 * best)
    why = f"calls of {size} photos do {photos_per_s[size] / single:.2f} times the photos a second"
    return Batching(size=size, photos_per_s=photos_per_s, why=why)


def _rates(infer: Infer, batches: Mapping[int, Batch], sessions: int) -> dict[int, float]:
    """Photos a second of each size, measured in turns, so that other load slows all sizes alike."""
    from workbench.measure.throughput import photos_per_s

    measured: dict[int, list[float]] = {size: [] for size in batches}
    for _ in range(TURNS):
        for size, rates in measured.items():
            threads = sessions if size == 1 else 1
            rates.append(photos_per_s(infer, batches[size], threads=threads, seconds=TURN_S))
    return {size: median(rates) for size, rates in measured.items()}
