"""Accuracy drop against speed-up as a plot for a terminal."""

from workbench.report import cells
from workbench.results.verdict import Comparison

HEIGHT = 20  # lines
OTHER = "o"
TITLE = f"accuracy drop against speed-up ({OTHER} others, the line is the budget)"


def render(comparison: Comparison, *, color: bool, width: int) -> str:
    """Better is up and to the right; the line is the budget. What loses too much stands at the lower edge."""
    import plotext

    info = comparison.info
    deepest = cells.largest_drop(info)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, HEIGHT)
    figure.ruler("x").scale("log")
    figure.ruler("y").direction(-1)
    figure.label("times the baseline's speed", "x")
    figure.label("drop, points", "y")
    figure.line(100 * info.budget.max_accuracy_drop)
    drawn = [row for row in cells.measured(comparison.rows) if row.speedup and row.drop is not None]
    if not drawn:
        return ""
    for mark in ("", "×", "•", cells.WINNER):  # what matters is drawn last, on top
        rows = [row for row in drawn if cells.mark(row) == mark]
        if rows:
            drops = [max(-deepest, min(deepest, 100 * (row.drop or 0.0))) for row in rows]
            figure.draw(figure.signal([row.speedup for row in rows], drops, marker=mark or OTHER))
    text = str(figure.build())
    return f"{TITLE}\n{text if color else plotext.uncolorize(text)}".rstrip() + "\n"
