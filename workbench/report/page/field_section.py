"""What variants lose under field stresses, where that was measured."""

from typing import Any

from workbench.measure.records import BASELINE
from workbench.report.page import charts
from workbench.report.page.blocks import Chart, PageSection, lines, table
from workbench.report.page.run_data import EXAMINED, RunData
from workbench.report.stress import StressAnswer, conclusions, stress_answer
from workbench.report.words import points
from workbench.results.stress import StressLine, read_stress

TITLE = "Field robustness"


def robustness(run: RunData) -> PageSection:
    """Accuracy against severity, stress by stress, of the baseline and the variants that were stressed."""
    trials = [*run.trials.values()]
    record = read_stress(run.folder, run.info, trials)
    measured = [each.variant for each in record.variants] if record else []
    if record is None or not measured:
        return PageSection("field", TITLE, ())
    shown = sorted(measured, key=lambda name: name != run.comparison.winner)[:EXAMINED]
    cells = [cell for name in shown if (known := record.of(name)) for cell in known.cells]
    severities, stresses = sorted({c.severity for c in cells}), dict.fromkeys(c.stress for c in cells)
    answer = stress_answer(record, run.info, trials, shown, severities, [*stresses])
    series = [*dict.fromkeys([BASELINE, *shown])]
    values = [value for line in answer.lines for value in _values(line)]
    values += [value for name in series for value in _without_stress(run, name, [*stresses])]
    values.sort(key=lambda value: value["severity"])
    chart = Chart(TITLE, charts.stresses(values, [*stresses], series), _figures(answer))
    more = len(measured) - len(shown)
    cut = f"{more} more were stressed: `krishi-bench stress --variant NAME` shows them." if more else ""
    scope = (
        f"On {'held-out photos' if answer.held_out else 'the photos'}, stressed alike for every variant; "
        "severity 0 is all validation photos without stress."
    )
    return PageSection("field", TITLE, (*lines(scope), chart, *lines(*conclusions(answer), cut)))


def _values(line: StressLine) -> list[dict[str, Any]]:
    lost = f"{points(line.drop)} points, bound {points(line.drop_upper)}"
    common = {"stress": line.stress, "severity": line.severity}
    baseline = {**common, "series": BASELINE, "top1": 100 * line.baseline_top1, "lost": "–"}
    mine = {**common, "series": line.variant, "top1": 100 * line.top1, "lost": lost}
    return [baseline] if line.variant == BASELINE else [baseline, mine]


def _without_stress(run: RunData, variant: str, stresses: list[str]) -> list[dict[str, Any]]:
    trial = run.trials.get(variant)
    parts = [part for part in (trial.accuracy, trial.certification) if part] if trial else []
    if not parts:
        return []
    top1 = 100 * sum(part.correct for part in parts) / sum(part.images for part in parts)
    return [
        {"stress": stress, "severity": 0, "series": variant, "top1": top1, "lost": "–"} for stress in stresses
    ]


def _figures(answer: StressAnswer) -> Any:
    headings = (
        "variant",
        "stress",
        "severity",
        "photos",
        "baseline %",
        "top-1 %",
        "lost",
        "bound",
        "certified",
    )
    return table(
        "Top-1 under each stress, and what is lost against the baseline, in points",
        headings,
        [
            (
                line.variant,
                line.stress,
                str(line.severity),
                f"{line.images:,}",
                f"{100 * line.baseline_top1:.2f}",
                f"{100 * line.top1:.2f}",
                points(line.drop),
                points(line.drop_upper),
                "yes" if line.certified else "no",
            )
            for line in answer.lines
        ],
        texts=2,
    )
