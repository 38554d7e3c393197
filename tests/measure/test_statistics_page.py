"""Every number of the examples in docs/statistics.md is what the code computes."""

import math
import re
from pathlib import Path
from statistics import fmean, stdev

import pytest

from workbench.measure.early_stopping import rounds_needed
from workbench.measure.pairs import holm
from workbench.measure.stats import PairedDrop, Ratio, samples_for_percentile, wilson
from workbench.measure.student_t import student_t_quantile

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "statistics.md").read_text().split())
(ROUNDS,) = re.findall(r"```text title=\"rounds\" ([\d. ]+) ```", PAGE)
LOGS = [math.log(float(ratio)) for ratio in ROUNDS.split()]
DROP = PairedDrop(losses=12, gains=6, total=1000)


def quantile(rounds: int) -> float:
    return student_t_quantile(0.975, rounds - 1)


NEEDED = math.ceil((quantile(8) * stdev(LOGS[:8]) / 0.01) ** 2)


def student(values: list[float]) -> tuple[float, float]:
    """The plain interval of a speed-up."""
    slack = quantile(len(values)) * stdev(values) / math.sqrt(len(values))
    return math.exp(-fmean(values) - slack), math.exp(-fmean(values) + slack)


def between(ends: tuple[float, float] | None, places: int = 2) -> str:
    assert ends is not None
    return f"[{ends[0]:.{places}f}, {ends[1]:.{places}f}]"


def in_percent(ends: tuple[float, float]) -> str:
    return between((100 * ends[0], 100 * ends[1]), 1)


@pytest.mark.parametrize(
    "text",
    [
        f"The plain mean of these rounds gives {math.exp(-fmean(LOGS)):.2f} times",
        f"average the rest: **{Ratio(tuple(LOGS)).speedup:.2f} times**",
        f"| plain mean, Student | {math.exp(-fmean(LOGS)):.2f} | {between(student(LOGS))} |",
        f"Yuen | {Ratio(tuple(LOGS)).speedup:.2f} | {between(Ratio(tuple(LOGS)).interval)} |",
        f"{quantile(6):.2f} for six rounds, {quantile(12):.2f} for twelve, 1.96 for very many",
        f"The first eight of the rounds above spread by {100 * stdev(LOGS[:8]):.1f} %",
        f"({quantile(8):.2f} × 2.0 % / 1 %)² = {NEEDED} rounds",
        f"the final makes {rounds_needed([LOGS[:8]], 0.01, least=6, most=20)}, which is the most",
        f"from **{samples_for_percentile(0.95)}** calls on",
        f"for p99 it takes **{samples_for_percentile(0.99)}**",
        f"{in_percent(wilson(970, 1000))} and {in_percent(wilson(964, 1000))}, overlap",
        f"| {970 - DROP.losses} | {DROP.losses} lost |",
        f"| {DROP.gains} gained | {1000 - 970 - DROP.gains} |",
        f"/ 1,000 = {100 * DROP.drop:.1f} points",
        f"It is **{100 * DROP.upper_bound():.2f} points**",
        f"about {DROP.images_needed(0.01):,} photos would do",
        f"gives p = {DROP.mcnemar_p():.2f} here",
        "{:.2f} points on 59 photos, {:.2f} on 150, {:.2f} on 299".format(
            *(100 * PairedDrop(0, 0, photos).upper_bound() for photos in (59, 150, 299))
        ),
        f"1 − 0.95²⁰ = {1 - 0.95**20:.0%}".replace("%", " %"),
        f"it is then {100 * DROP.upper_bound(0.99):.2f} points instead of {100 * DROP.upper_bound():.2f}",
        "become " + " and ".join(["{:.2f}, {:.2f}", "{:.2f}"]).format(
            *(p for p, _ in holm([0.01, 0.02, 0.04]))
        ),
    ],
)  # fmt: skip
def test_the_page_says_what_the_code_computes(text: str) -> None:
    assert text in PAGE


def test_299_photos_are_the_fewest_for_a_budget_of_one_point() -> None:
    assert "one point takes 299 photos at the least" in PAGE
    assert PairedDrop(0, 0, 299).within(0.01) and not PairedDrop(0, 0, 298).within(0.01)


def test_the_paired_error_is_half_the_other() -> None:
    apart = math.sqrt(0.970 * 0.030 / 1000 + 0.964 * 0.036 / 1000)
    paired = math.sqrt((18 / 1000 - 0.006**2) / 1000)
    assert paired / apart == pytest.approx(0.53, abs=0.01)
