"""What the table, Markdown and HTML show of a comparison; they only lay it out."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.backends import Target
from workbench.errors import plural
from workbench.measure.records import AT_RISK
from workbench.report import cells, gpu, throughput
from workbench.report.verdict import Section, sections
from workbench.results.records import RunInfo
from workbench.results.verdict import Comparison, Row

SYNTHETIC = "the photos of the bundled sample are synthetic: its accuracy says nothing about fields"


@dataclass(frozen=True, slots=True)
class Contents:
    """facts: on the photos first, then on the machine. grids: the main table first."""

    facts: tuple[str, ...]
    grids: tuple[cells.Grid, ...]
    sections: tuple[Section, ...]


def contents(comparison: Comparison, columns: cells.Columns, *, verbose: bool, audit: bool) -> Contents:
    """audit: say of each variant in which precision it really ran."""
    info, rows = comparison.info, cells.measured(comparison.rows)
    facts = (_photos(info), _machine(info), gpu.machine_line(info), SYNTHETIC if info.synthetic else None)
    ran = _audit_lines(rows) if audit else []
    devices = [target for target in info.targets if target != "server"]
    found = [
        *sections(comparison, verbose=verbose),
        *(Section(f"For {target}", (_for_device(target, comparison),)) for target in devices),
        Section("What really ran", tuple(ran)),
    ]
    return Contents(
        facts=tuple(fact for fact in facts if fact is not None),
        grids=(
            cells.grid(rows, columns, info.targets, comparison.choices),
            *(_more_grids(info, rows) if columns == "speed" else ()),
        ),
        sections=tuple(section for section in found if section.lines),
    )


def _more_grids(info: RunInfo, rows: Sequence[Row]) -> list[cells.Grid]:
    return [*throughput.grids(info, rows), *gpu.grids(info, rows)]


def _photos(info: RunInfo) -> str:
    """`1,200 validation photos (600 for selection, 600 held out)`."""
    held_out, text = info.certification_images, plural(info.validation_images, "validation photo")
    selection = info.validation_images - held_out
    return f"{text} ({selection:,} for selection, {held_out:,} held out)" if held_out else text


def _machine(info: RunInfo) -> str:
    floor = f"{100 * info.noise_floor:.1f} %" if info.noise_floor is not None else "unknown"
    return f"{info.machine.cpu}, {plural(info.machine.cores, 'core')}; noise floor of speed-ups {floor}"


def _audit_lines(rows: Sequence[Row]) -> list[str]:
    """The verdict on each variant, as a sentence; variants of one verdict share a line."""
    named: dict[str, list[str]] = {}
    for row in rows:
        if row.audit:
            exact = f"; {_exact_on(row.validated)}" if row.validated else ""
            named.setdefault(f"{row.audit}{exact}", []).append(row.variant)
    return [f"{', '.join(names)}: {verdict}" for verdict, names in named.items()]


def _for_device(target: Target, comparison: Comparison) -> str:
    """The choice for a device, and by what."""
    if (
        won := next((row for row in comparison.rows if row.variant == comparison.choices.get(target)), None)
    ) is None:
        return "nothing that it opens keeps the budget: `krishi-bench run litert` measures what there is"
    size = cells.rounded(won.size_bytes, 1e6)
    return (
        f"{won.variant}, {size} MB: of those within the budget its delegate runs most, in the fewest pieces, "
        "and then the smallest and the least work. How fast it is there is not known here; "
        f"`krishi-bench promote --target {target}` publishes it"
    )


def _exact_on(validated: str) -> str:
    exact = f"INT8 sums are exact on {validated.replace('; ', ', ')}"
    return exact if AT_RISK in validated else f"{exact}, not on {AT_RISK}"
