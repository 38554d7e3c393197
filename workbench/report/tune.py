"""What `tune` found, in words."""

from workbench.report.verdict import search
from workbench.run.tune.tune import Tuned


def text(tuned: Tuned) -> str:
    """What was tried and what came of it."""
    summary = tuned.comparison.info.search
    return "\n".join([*(search(summary) if summary else []), _outcome(tuned)])


def _outcome(tuned: Tuned) -> str:
    if tuned.recipe is None and tuned.comparison.nothing_else:
        return "nothing besides the plain FP32 export could be measured: no recipe was written"
    if tuned.recipe is None:
        return "nothing that keeps the budget beat the plain FP32 export: no recipe was written"
    again = f"wrote {tuned.recipe}: `krishi-bench run {tuned.recipe}` measures it again"
    if not tuned.comparison.certified:
        return f"{again}; the held-out photos did not certify it, so `promote` will refuse it"
    return f"{again}, `krishi-bench promote` publishes it"
