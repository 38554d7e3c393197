"""Whether a server should gather photos of several requests into one call: measured, and decided here."""

import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from workbench.errors import plural
from workbench.system.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.backends import Infer


SIZES = (2, 4, 8, 16)
# Of the largest logit. A GPU takes other kernels for other batch sizes, which round FP16 otherwise.
SAME = {"cpu": 1e-3, "cuda": 1e-2}
TURN_S = 0.02
TURNS = 5
HOPE = 1.05
SAVING_S = 5e-4  # a photo; less is lost again to the threads that a batch is gathered from
GAIN = 1.2  # below, the wait for others and the larger steps of latency are not worth it
LONGEST_CALL_S = 0.25


class Batching(Record):
    """What calls of several photos bring, on the machine of the promotion.

    size: photos a server may gather into a call; 1: it gathers none. photos_per_s: of calls of 1, 2, 4, ...
    photos, as far as was measured; of single photos as many calls at a time as the runtime's sessions, of
    larger ones one. why: one sentence.
    """

    size: PositiveInt
    photos_per_s: dict[PositiveInt, PositiveFloat]
    why: str


def batching_of(
    infer: "Infer", photos: "NDArray[np.generic]", *, fixed: int, sessions: int, device: str = "cpu"
) -> Batching:
    """Time calls of one photo against calls of several, in turns.

    photos: (n, ...) as the session takes them. fixed: the batch the artifact was built for, 0 where it is
    free. sessions: calls a server makes at a time.
    """
    import numpy as np

    if fixed != 0:
        return Batching(size=1, photos_per_s={}, why=f"the artifact takes {plural(fixed, 'photo')} a call")
    single = np.concatenate([infer(photos[i : i + 1]) for i in range(len(photos))])
    together = infer(photos)
    # Dynamic quantisation takes its scale from the whole batch, whoever's photos are in it.
    if not np.allclose(single, together, rtol=0, atol=SAME[device] * float(np.abs(single).max())):
        return Batching(size=1, photos_per_s={}, why="answers depend on the other photos of a batch")
    batches = {size: np.resize(photos, (size, *photos.shape[1:])) for size in (1, *SIZES)}
    for batch in batches.values():
        infer(batch)  # A GPU's runtime chooses kernels, or records a graph, when a size first comes up.
    sizes = [1, *(size for size in SIZES if _seconds(infer, batches[size]) <= LONGEST_CALL_S)]
    # Most networks on most processors gain nothing, and the largest batch shows that.
    rates = _rates(infer, batches, [1, sizes[-1]], sessions)
    if rates[sizes[-1]] >= HOPE * rates[1]:
        rates = _rates(infer, batches, sizes, sessions)
    return decide(rates)


def decide(photos_per_s: dict[int, float]) -> Batching:
    """The smallest size that is nearly as fast as the fastest, where that pays."""
    single, best = photos_per_s[1], max(photos_per_s.values())
    saves_s = 1 / single - 1 / best
    if best < GAIN * single or saves_s < SAVING_S:
        why = f"a call of several photos does {best / single:.2f} times the photos a second"
        why += f" and saves {1e3 * saves_s:.2f} ms a photo; {GAIN:g} and {1e3 * SAVING_S:g} ms would pay"
        return Batching(size=1, photos_per_s=photos_per_s, why=why)
    size = min(size for size, rate in photos_per_s.items() if rate >= 0.95 * best)
    why = f"calls of {size} photos do {photos_per_s[size] / single:.2f} times the photos a second"
    return Batching(size=size, photos_per_s=photos_per_s, why=why)


def _seconds(infer: "Infer", batch: "NDArray[np.generic]") -> float:
    started = time.perf_counter()
    infer(batch)
    return time.perf_counter() - started


def _rates(
    infer: "Infer", batches: "dict[int, NDArray[np.generic]]", sizes: Sequence[int], sessions: int
) -> dict[int, float]:
    """Photos a second of each size, in turns, so that what else the machine does meets all alike."""
    from workbench.measure.throughput import photos_per_s

    measured: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(TURNS):
        for size, rates in measured.items():
            threads = sessions if size == 1 else 1
            rates.append(photos_per_s(infer, batches[size], threads=threads, seconds=TURN_S))
    return {size: median(rates) for size, rates in measured.items()}
