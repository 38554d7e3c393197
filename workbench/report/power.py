"""What the photos can certify, in a sentence."""

from workbench.errors import plural
from workbench.measure.power import SURE, Power
from workbench.report.words import points


def sentence(found: Power) -> str:
    """The smallest drop that the photos can certify, and how many photos the budget would take."""
    held_out = "half of them held out" if found.halves else "too few to hold half of them out"
    several = found.candidates > 1 and not found.halves
    of = f"the best of {plural(found.candidates, 'variant')} at " if several else ""
    at_best, *more = found.cases
    changed = ", ".join(f"{points(case.drop)} where {100 * case.changed:g} % do" for case in more)
    changed = changed.replace("% do", "% of the answers change", 1)
    certify = (
        f"{plural(found.photos, 'photo')}, {held_out}, certify {of}a drop of {points(at_best.drop)} points "
        f"at best, {changed} ({100 * SURE:g} % sure)"
    )
    limit = f"{100 * found.limit:g} point{'' if found.limit == 0.01 else 's'}"
    needed = [_about(case.needed) for case in found.cases if case.needed is not None]
    if len(needed) < len(found.cases):
        return f"{certify}; no number of photos certifies a budget of {limit}"
    return f"{certify}; a budget of {limit} takes {', '.join(needed[:-1])} and {needed[-1]}"


def _about(count: int) -> str:
    """Two digits: it is a plan, no measurement."""
    return f"{float(f'{count:.2g}'):,.0f}"
