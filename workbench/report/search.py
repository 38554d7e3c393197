"""What a search tried, in words."""

from workbench.errors import plural
from workbench.report.words import points, times
from workbench.results.records import SearchSummary

OUTLOOKS = {
    "within": "",
    "beyond": ", more than the budget allows",
    "uncertain": ", too uncertain to be certified",
}


def search(summary: SearchSummary) -> list[str]:
    """What a search tried and found, a line for each kind of attempt."""
    lines = [
        f"searched for {summary.seconds / 60:.1f} minutes: {plural(summary.looked, 'variant')} looked at, "
        f"{summary.untried} could not be tried, {summary.finalists} measured in full"
    ]
    lines += [
        f"{each.why}: {each.tried} tried; the best, {each.best}: {times(each.speedup)}, drop "
        f"{points(each.drop)} points on {plural(each.images, 'photo')}{OUTLOOKS[each.outlook]}"
        for each in summary.attempts
    ]
    if (sequence := summary.sequence) is not None:
        end = f"{sequence.failed} failed" if sequence.failed else "none failed"
        order = f"{' > '.join(sequence.order)}; {sequence.passed} passed, {end}"
        lines.append(f"certified in turn, most certain first, until one fails: {order}")
    return lines
