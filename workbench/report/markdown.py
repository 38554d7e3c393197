"""The comparison as a Markdown table, for pull requests and model cards."""

from collections.abc import Sequence

from workbench.compare import Comparison, Row
from workbench.report import cells


def render(comparisons: Sequence[Comparison]) -> str:
    return "\n".join(_one(comparison) for comparison in comparisons)


def _one(comparison: Comparison) -> str:
    info = comparison.info
    floor = f"{100 * info.noise_floor:.1f} %" if info.noise_floor is not None else "unknown"
    lines = [
        f"**{info.name}**, run `{info.run_id}`, {cells.photos(info)}"
        + (" (synthetic)" if info.synthetic else "")
        + f"; {info.machine.cpu}, {info.machine.cores} cores; noise floor {floor}",
        "",
        _line([heading or " " for heading in cells.HEADINGS]),
        _line(["---", "---", *["---:"] * (len(cells.HEADINGS) - 2)]),
        *(_line([mark, _code(name), *rest]) for mark, name, *rest in map(cells.cells, _measured(comparison))),
        "",
        cells.LEGEND,
        "",
        *(
            f"- {row.status} {_code(row.variant)}: {_plain(row.reason or '')}"
            for row in comparison.rows
            if row.status != "ok"
        ),
        *(f"- {_plain(reason)}" for reason in comparison.reasons),
    ]
    return "\n".join(lines) + "\n"


def _measured(comparison: Comparison) -> list[Row]:
    return [row for row in comparison.rows if row.status in cells.MEASURED]


def _code(text: str) -> str:
    return f"`{text}`"


def _plain(text: str) -> str:
    """Prose from elsewhere: `<class ...>` would be taken for HTML, and not shown."""
    return text.replace("<", "\\<")


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |"
