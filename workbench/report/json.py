"""The comparison as JSON, for scripts. The keys are stable; docs/measuring.md describes them."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from workbench.results.verdict import Comparison


def render(comparisons: Sequence[Comparison]) -> str:
    """A list of rows, each with the run it belongs to."""
    rows = [
        {
            **asdict(row),
            "gpu": row.gpu and row.gpu.model_dump(mode="json"),
            "run": comparison.info.run_id,
        }
        for comparison in comparisons
        for row in comparison.rows
    ]
    return json.dumps(rows, indent=2) + "\n"
