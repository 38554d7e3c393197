"""The comparison as Parquet: the columns of `workbench.results.frame`, with their types."""

from collections.abc import Sequence

from workbench.results.frames import comparison_frame
from workbench.results.verdict import Comparison


def render(comparisons: Sequence[Comparison]) -> bytes:
    return bytes(comparison_frame(comparisons).to_parquet(index=False))
