"""What `tune` found, in words."""

import shlex

from workbench.report.search import search
from workbench.report.verdict import plain_export
from workbench.run.tune.tune import Tuned


def text(tuned: Tuned, device_class: str | None = None) -> str:
    """What was tried and what came of it. device_class: of a fleet, that it was for."""
    summary = tuned.comparison.info.search
    others = [f"wrote {path}, the choice for {target}" for target, path in tuned.others.items()]
    return "\n".join([*(search(summary) if summary else []), _outcome(tuned, device_class), *others])


def _outcome(tuned: Tuned, device_class: str | None) -> str:
    if tuned.recipe is None:
        plain, nothing_else = plain_export(tuned.comparison), tuned.comparison.nothing_else
        if nothing_else:
            return f"nothing besides the {plain} could be measured: no recipe was written"
        return f"nothing that keeps the budget beat the {plain}: no recipe was written"
    fleet, of_class = (" --fleet", f" --class {device_class}") if device_class else ("", "")
    file = shlex.quote(str(tuned.recipe))
    again = f"wrote {tuned.recipe}: `krishi-bench run{fleet} {file}` measures it again"
    if not tuned.comparison.certified:
        return f"{again}; the held-out photos did not certify it, so `promote` will refuse it"
    return f"{again}, `krishi-bench promote{of_class}` publishes it"
