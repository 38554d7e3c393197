"""Percentiles of the raw samples, for the chart of latencies."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.measure.records import FINAL, RACE
from workbench.measure.samples import read

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKS = (5, 25, 50, 75, 95, 99)


def percentiles(path: Path) -> Mapping[str, tuple[float, ...]]:
    """The RANKS of the hot calls of each variant, in ms: of the final session where it timed the variant.

    Raises WorkbenchError where the file cannot be read.
    """
    import numpy as np

    samples = read(path)
    hot = samples["used"].to_numpy() & (samples["call"].to_numpy() > 0)
    times: NDArray[np.float64] = samples["time_ns"].to_numpy() / 1e6
    coded = samples["variant"].combine_chunks().dictionary_encode()
    variants, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    sessions = samples["session"].combine_chunks().dictionary_encode()
    found: dict[str, tuple[float, ...]] = {}
    for session in (name for name in (RACE, FINAL) if name in (named := sessions.dictionary.to_pylist())):
        chosen = hot & (sessions.indices.to_numpy() == named.index(session))
        for code in np.unique(codes[chosen]).tolist():
            values = np.percentile(times[chosen & (codes == code)], RANKS)
            found[variants[code]] = tuple(values.tolist())
    return found
