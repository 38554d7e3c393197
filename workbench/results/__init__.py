"""What a run leaves behind, the verdict on it, and both as pandas DataFrames: `frame` and `samples`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


def frame(run: "Path | str | None" = None, *, results: "Path | str" = "results") -> "pd.DataFrame":
    """One row a variant; docs/notebook.md lists the columns.

    run: its folder, or its id under `results`; None is the latest there. Raises WorkbenchError.
    """
    from workbench.results import frames

    return frames.frame(run, results)


def samples(run: "Path | str | None" = None, *, results: "Path | str" = "results") -> "pd.DataFrame":
    """One row a timed call; docs/notebook.md lists the columns. Arguments and errors as of `frame`."""
    from workbench.results import frames

    return frames.samples(run, results)
