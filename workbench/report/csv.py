"""The comparison as CSV: the columns of `workbench.results.frame`, what was not measured left empty."""

from collections.abc import Sequence

from workbench.results.frames import comparison_frame
from workbench.results.verdict import Comparison


def render(comparisons: Sequence[Comparison]) -> str:
    return str(comparison_frame(comparisons).to_csv(index=False, lineterminator="\n"))
