"""Field stresses in words and tables."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.errors import plural, some
from workbench.photos.stress import STRESSES
from workbench.report.words import WIDTH, points, wrapped
from workbench.results.reasons import FieldCheck, FieldShortfalls, FieldUnmeasuredShortfall
from workbench.results.records import RunInfo, TrialResult
from workbench.results.stress import (
    StressLine,
    StressRecord,
    candidates_of,
    largest_drop,
    main_severity,
    stress_lines,
)

CERTIFIED = "✓"


@dataclass(frozen=True, slots=True)
class StressAnswer:
    """What is shown: these variants under these stresses. limit: of a certified drop, a fraction of 1.
    left_out: variants that compute the baseline's function."""

    info: RunInfo
    lines: tuple[StressLine, ...]
    main_severity: int
    limit: float
    held_out: bool
    candidates: int
    left_out: tuple[str, ...] = ()

    @property
    def severities(self) -> list[int]:
        return sorted({line.severity for line in self.lines})

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(line.variant for line in self.lines))

    def certified_at(self, severity: int) -> bool:
        """Whether every line of the severity is; true where there is none."""
        return all(line.certified for line in self.lines if line.severity == severity)

    def of(self, variant: str, severity: int) -> list[StressLine]:
        return [line for line in self.lines if (line.variant, line.severity) == (variant, severity)]


def stress_answer(
    record: StressRecord,
    info: RunInfo,
    trials: Sequence[TrialResult],
    variants: Sequence[str],
    severities: Sequence[int],
    stresses: Sequence[str],
    left_out: tuple[str, ...] = (),
) -> StressAnswer:
    """Of what is recorded, what was asked for."""
    lines = stress_lines(record, info, trials, variants)
    shown = [line for line in lines if line.severity in severities and line.stress in stresses]
    found = record.of(shown[0].variant)
    main = main_severity(found, info.budget) if found else severities[0]
    return StressAnswer(
        info=info,
        lines=tuple(shown),
        main_severity=main if main in severities else severities[0],
        limit=largest_drop(info.budget),
        held_out=record.held_out,
        candidates=candidates_of(info, trials),
        left_out=left_out,
    )


def as_json(answer: StressAnswer) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "run": answer.info.run_id,
        "held_out": answer.held_out,
        "limit": answer.limit,
        "left_out": answer.left_out,
        "rows": [asdict(line) for line in answer.lines],
    }


def text(answer: StressAnswer) -> str:
    """One screen: rows are stresses; columns are severities, or for one severity the variants."""
    info, severities, variants = answer.info, answer.severities, answer.variants
    lines = wrapped(f"{info.name}, run {info.run_id}: {_photos(answer)} under field stresses", "")
    if len(severities) > 1:
        for variant in variants:
            lines += ["", *_title(variant), *align(_by_severity(answer, variant))]
    elif len(variants) > 1:
        lines += ["", f"Top-1 lost at severity {severities[0]}, in points (95 % bound)"]
        lines += align(_by_variant(answer))
    if len(variants) == 1:
        main = answer.main_severity
        lines += ["", f"{variants[0]} at severity {main}", *align(_details(answer.of(variants[0], main)))]
    lines.append("")
    for sentence in conclusions(answer):
        lines += wrapped(sentence, "")
    return "\n".join(lines)


def _title(variant: str) -> list[str]:
    what = "top-1 of the baseline in %, and what is lost under the same stress, in points"
    return wrapped(f"{variant} by severity: {what}", "")


def _photos(answer: StressAnswer) -> str:
    """`741 held-out photos (500 at severity 1, 2, 4, 5)`."""
    counts = {s: min(line.images for line in answer.lines if line.severity == s) for s in answer.severities}
    most = max(counts.values())
    fewer: dict[int, list[str]] = {}
    for severity, count in counts.items():
        if count < most:
            fewer.setdefault(count, []).append(str(severity))
    parts = [f"{count:,} at severity {', '.join(which)}" for count, which in fewer.items()]
    kind = plural(most, "held-out photo" if answer.held_out else "photo")
    return f"{kind} ({'; '.join(parts)})" if parts else kind


def _by_severity(answer: StressAnswer, variant: str) -> list[tuple[str, ...]]:
    shown = {(line.stress, line.severity): line for line in answer.lines if line.variant == variant}
    rows = [("stress", *map(str, answer.severities))]
    for stress in dict.fromkeys(line.stress for line in answer.lines):
        cells = [_short(shown.get((stress, severity))) for severity in answer.severities]
        rows.append((stress, *cells))
    return rows


def _short(line: StressLine | None) -> str:
    if line is None:
        return "–"
    return f"{100 * line.baseline_top1:.1f} {points(line.drop):>6} {CERTIFIED if line.certified else ' '}"


def _by_variant(answer: StressAnswer) -> list[tuple[str, ...]]:
    shown = {(line.stress, line.variant): line for line in answer.lines}
    first = {line.stress: line for line in reversed(answer.lines)}
    rows = [("stress", "baseline %", *answer.variants)]
    for stress in dict.fromkeys(line.stress for line in answer.lines):
        cells = [_bounded(shown.get((stress, variant))) for variant in answer.variants]
        rows.append((stress, f"{100 * first[stress].baseline_top1:.2f}", *cells))
    return rows


def _bounded(line: StressLine | None) -> str:
    if line is None:
        return "–"
    return f"{points(line.drop)} ({points(line.drop_upper)}) {CERTIFIED if line.certified else ' '}"


def _details(shown: Sequence[StressLine]) -> list[tuple[str, ...]]:
    headings = (
        "stress",
        "baseline %",
        "top-1 %",
        "lost [bound]",
        "",
        "ECE baseline",
        "ECE",
        "class losing most",
    )
    rows: list[tuple[str, ...]] = [headings]
    for line in shown:
        worst = f"{line.worst_class_lost} of {line.worst_class_images} {line.worst_class}"
        rows.append(
            (
                line.stress,
                f"{100 * line.baseline_top1:.2f}",
                f"{100 * line.top1:.2f}",
                f"{points(line.drop)} [{points(line.drop_upper)}]",
                CERTIFIED if line.certified else "",
                "–" if line.baseline_ece is None else points(line.baseline_ece),
                "–" if line.ece is None else points(line.ece),
                worst if line.worst_class else "none",
            )
        )
    return rows


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns below each other, figures to the right; lines that are too long are cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        if rows[0][-1] == "class losing most":
            cells[-1] = others[-1]
        line = "  ".join([first.ljust(widths[0]), *cells]).rstrip()
        lines.append(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…")
    return lines


def conclusions(answer: StressAnswer) -> list[str]:
    """What is certified, a sentence a variant, and on what that rests."""
    severity, limit = answer.main_severity, _points(answer.limit)
    found = []
    for variant in answer.variants:
        lines = answer.of(variant, severity)
        missed = [line.stress for line in lines if not line.certified]
        stresses = f"{plural(len(lines), 'stress')} of severity {severity}"
        if missed:
            found.append(f"{variant}: NOT certified to lose at most {limit} under {some(missed, quote='')}")
        else:
            found.append(f"{variant}: certified to lose at most {limit} under {stresses}")
    found.append(
        f"{CERTIFIED} certified: at 95 % every one that is marked at a severity is within {limit} (Holm)"
    )
    if answer.left_out:
        found.append(
            f"not measured, as they compute the baseline's function: {some(answer.left_out, quote='')}"
        )
    if answer.info.leak:
        which = "nothing else" if any(line.certified for line in answer.lines) else "nothing"
        found.append(f"{which} is certified: {answer.info.leak_of} and validation share photos")
    elif answer.candidates > 1:
        found.append(f"the photos chose the winner too: a choice among {answer.candidates} is allowed for")
    return found


def _points(limit: float) -> str:
    return f"{100 * limit:g} point{'' if 100 * limit == 1 else 's'}"


def shortfall(missed: FieldShortfalls) -> str:
    if isinstance(missed, FieldUnmeasuredShortfall):
        every = len(missed.stresses) == len(STRESSES)
        which = "field stresses" if every else some(missed.stresses, quote="")
        return f"not measured under {which} of severity {missed.severity}: `{command(missed)}`"
    lost = f"drop {points(missed.drop)} points (95 % bound {points(missed.drop_upper)}"
    photos = plural(missed.images, "photo")
    limits = f"budget {100 * missed.limit:g}; p {missed.p:.2g} over all stresses, {photos})"
    return f"under {missed.stress} of severity {missed.severity}: {lost}, {limits}"


def command(missed: FieldUnmeasuredShortfall) -> str:
    """That measures it."""
    words = ["krishi-bench", "stress", missed.run, "--variant", missed.variant]
    return shlex.join([*words, "--severity", str(missed.severity)])


def field_rule(check: FieldCheck) -> str:
    return f"budget.field, at most {_points(check.limit)} at severity {check.severity}, {check.variant}: "
