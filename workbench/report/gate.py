"""A gate in words: for a terminal, a pull request, GitHub's annotations and a script."""

from collections.abc import Sequence

from workbench.errors import plural
from workbench.report.cells import ABSENT
from workbench.report.remarks import sentence
from workbench.report.words import listed, signed, wrapped
from workbench.results.gate import Finding, GateReport, Kind

HEADINGS = ("candidate", "condition", "reference", "candidate's", "change [interval]", "outcome")
TOGETHER = "the intervals hold for all conditions and candidates together at 95 %"
WIDER = "the interval reaches over the margin"
NARROWER = {
    "accuracy": "more validation photos narrow it",
    "memory": "a quieter machine narrows it",
    "load": "a quieter machine narrows it",
}
ROUNDS = "a larger --rounds and --time-budget narrow it"
# What a figure is multiplied by, its unit, and its decimals.
UNITS: dict[Kind, tuple[float, str, int]] = {
    "accuracy": (100, "%", 2),
    "latency": (1e-6, "ms", 3),
    "p95": (1e-6, "ms", 3),
    "throughput": (1, "/s", 0),
    "size": (1e-6, "MB", 3),
    "memory": (1e-6, "MB", 1),
    "load": (1e3, "ms", 1),
}
WORSE: dict[Kind, str] = {
    "accuracy": "loses {0} points of top-1",
    "latency": "takes {0} % longer",
    "p95": "takes {0} % longer at the 95th percentile",
    "throughput": "does {0} % fewer photos a second",
    "size": "is {0} % larger",
    "memory": "needs {0} % more memory",
    "load": "takes {0} % longer to load",
}


def text(report: GateReport) -> str:
    """The table, what fails and why, and what could not be measured."""
    rows = [HEADINGS, *map(_row, report.findings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    marks = ["  ", *("✗ " if report.fails(finding) else "  " for finding in report.findings)]
    lines = [
        mark + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for mark, row in zip(marks, rows, strict=True)
    ]
    table = lines if report.findings else []
    return "\n".join([*_heading(report), *table, "", *_wrapped(_sentences(report)), verdict(report), ""])


def verdict(report: GateReport) -> str:
    """One sentence."""
    failed = [finding for finding in report.findings if report.fails(finding)]
    if failed:
        names = list(dict.fromkeys(finding.candidate for finding in failed))
        return f"FAILED: {listed(names)}: {plural(len(failed), 'condition')} of {len(report.findings)}"
    if report.exit_code:
        return "NOT MEASURED: a candidate could not be built or run"
    doubts = sum(finding.outcome == "AMBIGUOUS" for finding in report.findings)
    unsure = f"; {doubts} ambiguous" if doubts else ""
    return f"PASSED: no regression beyond the margins in {plural(len(report.findings), 'condition')}{unsure}"


def markdown(report: GateReport) -> str:
    """For a pull request, and GitHub's job summary."""
    mark = "✅" if report.exit_code == 0 else "❌"
    lines = [f"### {mark} krishi-bench gate: {_plain(report.name)}", "", _plain(verdict(report)), ""]
    if report.findings:
        rows = [HEADINGS, ("---", "---", "---:", "---:", "---:", "---"), *map(_row, report.findings)]
        bold = [False, False, *map(report.fails, report.findings)]
        for row, failed in zip(rows, bold, strict=True):
            cells = [_plain(cell) for cell in row]
            lines.append(f"| {' | '.join([*cells[:-1], f'**{cells[-1]}**' if failed else cells[-1]])} |")
        lines.append("")
    lines += [f"- {_plain(line)}" for line in [*_heading(report), *_sentences(report)]]
    return "\n".join([*lines, ""])


def annotations(report: GateReport) -> list[str]:
    """Workflow commands of GitHub: an error for what fails, a warning for what is ambiguous or absent."""
    found = []
    for finding in report.findings:
        if report.fails(finding):
            found.append(
                _command("error", f"{finding.condition.text}: {finding.outcome}", sentence_of(finding))
            )
        elif finding.outcome == "AMBIGUOUS":
            found.append(_command("warning", f"{finding.condition.text}: AMBIGUOUS", sentence_of(finding)))
    for absence in report.absent:
        kind = "error" if absence.status == "failed" else "warning"
        found.append(_command(kind, f"{absence.candidate} {absence.status}", absence.reason))
    return found


def sentence_of(finding: Finding) -> str:
    """`fp16 takes 12.1 % longer [10.2, 14.0]; 5 % is allowed`, or what is known where it does not fail."""
    kind, margin = finding.condition.kind, f"{100 * finding.condition.margin:g}"
    if finding.regression and finding.change is not None:
        ends = f" [{', '.join(_magnitudes(kind, finding.interval))}]" if finding.interval else ""
        (amount,) = _magnitudes(kind, [finding.change])
        return f"{finding.candidate} {WORSE[kind].format(amount)}{ends}; the margin is {margin} %"
    told = f"{finding.candidate}, {finding.condition.text}: {_change(finding)}"
    if finding.outcome != "AMBIGUOUS":
        return f"{told}: {finding.outcome}"
    if finding.reason is None and not finding.may_be_worse:
        return f"{told}: no regression beyond the margin, and perhaps better"
    return f"{told}: {finding.reason or f'{WIDER}; {NARROWER.get(kind, ROUNDS)}'}"


def _heading(report: GateReport) -> list[str]:
    timed = f", {plural(report.rounds, 'round')}" if report.rounds else ""
    lines = [
        f"{report.name}: {listed(report.candidates)} against {report.reference}, measured together here",
        f"{plural(report.images, 'validation photo')}{timed}; {report.machine}",
    ]
    if (twin := report.twin) is not None:
        ends = f" [{', '.join(_percent(end) for end in twin.interval)}]" if twin.interval else ""
        lines.append(f"A/A: the time of a second copy of the reference: {_percent(twin.change)} %{ends}")
    return lines


def _sentences(report: GateReport) -> list[str]:
    """What fails first, then what is ambiguous, then what was not measured."""
    failed = [finding for finding in report.findings if report.fails(finding)]
    doubts = [f for f in report.findings if f.outcome == "AMBIGUOUS" and not report.fails(f)]
    lines = [sentence_of(finding) for finding in [*failed, *doubts]]
    lines += [f"{each.candidate} was {WHAT_ENDED[each.status]}: {each.reason}" for each in report.absent]
    lines += [f"wrong: {sentence(remark)}" for remark in report.remarks]
    return [*lines, TOGETHER] if any(finding.interval for finding in report.findings) else lines


WHAT_ENDED = {"skipped": "skipped", "failed": "not built or not run"}


def _row(finding: Finding) -> tuple[str, ...]:
    kind = finding.condition.kind
    return (
        finding.candidate,
        finding.condition.text,
        _figure(kind, finding.before),
        _figure(kind, finding.after),
        _change(finding),
        finding.outcome,
    )


def _figure(kind: Kind, value: float | None) -> str:
    factor, unit, places = UNITS[kind]
    return ABSENT if value is None else f"{value * factor:,.{places}f} {unit}"


def _change(finding: Finding) -> str:
    """`+12.1 % [10.2, 14.0]`; of accuracy in points."""
    if finding.change is None:
        return ABSENT
    kind = finding.condition.kind
    unit = "points" if kind == "accuracy" else "%"
    ends = f" [{', '.join(_of(kind, end) for end in finding.interval)}]" if finding.interval else ""
    plus = "+" if round(100 * finding.change, PLACES[kind == "accuracy"]) > 0 else ""
    return f"{plus}{_of(kind, finding.change)} {unit}{ends}"


PLACES = (1, 2)  # of percentages, and of points of accuracy


def _of(kind: Kind, change: float) -> str:
    return signed(100 * change, PLACES[kind == "accuracy"])


def _percent(change: float) -> str:
    return signed(100 * change, PLACES[False])


def _magnitudes(kind: Kind, changes: Sequence[float]) -> list[str]:
    return [_of(kind, change) for change in sorted(map(abs, changes))]


def _wrapped(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in wrapped(line, "")]


def _plain(text: str) -> str:
    """Names from elsewhere, in a table of Markdown."""
    return text.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


def _command(kind: str, title: str, message: str) -> str:
    """`::error title=...::...`, escaped as GitHub's runner wants it."""
    escaped = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    inside = title.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title=krishi-bench gate {inside}::{escaped}"
