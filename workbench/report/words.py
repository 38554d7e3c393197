"""Small parts of sentences: numbers, lists, lines."""

import textwrap
from functools import partial

from workbench.errors import plural, some

WIDTH = 100  # columns of the table, and of a terminal whose width is unknown

listed = partial(some, most=3, quote="")  # the names in one sentence: `a, b, c and 2 more`


def signed(value: float, places: int = 2) -> str:
    """With a minus sign that is as wide as a digit; -0.001 is 0.00."""
    # Adding zero turns -0.0 into 0.0.
    return f"{round(value, places) + 0.0:.{places}f}".replace("-", "−")


def millions(count: int, noun: str, places: int) -> str:
    """`56 million MACs`; `9,216 MACs` where a million is far off."""
    return plural(count, noun) if count < 100_000 else f"{count / 1e6:,.{places}f} million {noun}s"


def points(fraction: float) -> str:
    """A fraction of 1 as percentage points."""
    return signed(100 * fraction)


def times(ratio: float, interval: tuple[float, float] | None = None, what: str = "speed") -> str:
    """`1.05 times the baseline's speed [1.04, 1.07]`."""
    bounds = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    return f"{ratio:.2f} times the baseline's {what}{bounds}"


def in_percent(ratio: float, interval: tuple[float, float] | None) -> str:
    """A ratio of times as `3.1 % [1.2, 5.0]` more than 1; large ones as `83 % [79, 88]`."""
    decimals = 1 if ratio < 1.1 else 0
    centre, *ends = (signed(100 * (value - 1), decimals) for value in (ratio, *(interval or ())))
    return f"{centre} % [{', '.join(ends)}]" if ends else f"{centre} %"


def wrapped(text: str, indent: str, first: str | None = None, width: int = WIDTH) -> list[str]:
    """Lines of at most `width` columns. first: what the first begins with; the others are indented deeper."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent if first is not None else indent + "  ",
        break_on_hyphens=False,
    )
