"""How often a drop at the budget is certified, and how often a variant that loses nothing is.

    python benchmarks/certification.py [--runs 4000] [--output docs/measured-certification.md]

Simulated runs: photos, some of them near-duplicates, and candidates with true drops, the fastest first. Four
ways certify the fastest one that they find within the budget:

    halves       chosen on one half by its 95 % bound, certified on the other at 95 %
    cross-fit    chosen on each half by the drop itself, certified on the other at 97.5 %; both claims count
    all at once  chosen on all photos by its 95 % bound, certified on them with an error of 5 % for all
                 candidates together (Bonferroni)
    all chose    chosen on all photos by its 95 % bound, with no allowance for the number of candidates

Wrong: something is certified although the true drop of every candidate is the budget. Power: a variant is
certified that loses nothing, beside faster candidates that lose twice the budget.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workbench.measure.stats import PairedDrop

Kind = Literal["apart", "known", "missed", "loose"]
Counts = NDArray[np.float64]  # (runs, candidates)
SIZES = (60, 120, 300, 600, 1000, 2000)
CANDIDATES = (1, 5, 20)
GAINS = (0.0, 0.005, 0.02)  # probability of a gain; that of a loss is the budget more
POWER_SIZES = (300, 400, 500, 600, 800, 1200, 2000)
POWER_CANDIDATES = (1, 3, 8)
CHANGED = (0.0, 0.005, 0.02)  # answers that the good variant changes, half of them for the better
SEED = 20261129
CASES = 2 * len(SIZES) * len(CANDIDATES) * len(GAINS)
NOTES: dict[Kind, str] = {
    "apart": "every photo of its own",
    "known": "every photo three times, found: kept in one half, counted once",
    "missed": "three in ten photos twice, not found: counted as photos of their own",
    "loose": "every photo three times, found, and their answers change apart",
}
DESCRIPTION = """\
Simulated: photos, some of them near-duplicates, and candidates whose true drops are known, the fastest first.
Four ways certify the fastest that they find within the budget:

- **halves**: chosen on one half by its 95 % bound, certified on the other at 95 %. What a run does where a
  half is large enough to certify what loses nothing.
- **cross-fit**: chosen on each half by the drop itself, certified on the other at 97.5 %; either claim
  counts.
- **all at once**: chosen on all photos by its 95 % bound, certified on them at a level that allows for all
  candidates (Bonferroni: 99 % for five). What a run does with fewer photos.
- **all chose**: the same without allowing for the candidates. What a run did there before.

All use the bound of `workbench/measure/stats.py`: Tango's score bound, and where no answer was gained no less
than the exact bound of the losses (without that, a drop at the budget passes in up to 6.8 % of cases).
Near-duplicates stay in one half and count once.

**Found.** Halves and all at once hold their level, beside near-duplicates too where those are found. What
is not found counts twice, and every way is wrong more often then. All chose is wrong more often than not
with twenty candidates. Cross-fit holds its level and is not used: 97.5 % on each half takes more photos
than 95 % on one, so that it can certify little where halves cannot, and there all at once certifies more of
up to eight candidates. With many photos, too, halves certify less than all at once does for a few
candidates; they stay because they hold for any number, and tell the winner's drop without the luck of
having been chosen.
"""
POWER_HEADING = """
## Power

How often a variant is certified that loses nothing, at a budget of one point. It changes so many answers,
half of them for the better; the other candidates are faster and lose two points. (All chose is no fair rival:
it is wrong too often.)
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """The losses and gains of every candidate in every run on one set of photos."""

    losses: Counts
    gains: Counts
    photos: int
    independent: float

    def plus(self, other: "Seen") -> "Seen":
        return Seen(
            self.losses + other.losses,
            self.gains + other.gains,
            self.photos + other.photos,
            self.independent + other.independent,
        )

    def drop(self) -> Counts:
        return (self.losses - self.gains) / self.photos

    def within(self, margin: float, confidence: float) -> NDArray[np.bool_]:
        """`PairedDrop.within` of every one. More losses never help, so each number of gains has a largest."""
        most = np.array(
            [
                most_losses(gains, self.photos, self.independent, margin, confidence)
                for gains in range(int(self.gains.max()) + 1)
            ]
        )
        fits: NDArray[np.bool_] = self.losses <= most[self.gains.astype(int)]
        return fits


@cache
def most_losses(gains: int, photos: int, independent: float, margin: float, confidence: float) -> int:
    """The most losses that are within the margin beside so many gains; -1 where none are."""
    low, high = -1, photos - gains
    while low < high:
        middle = (low + high + 1) // 2
        fits = PairedDrop(middle, gains, photos, independent).within(margin, confidence)
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def draw(
    rng: np.random.Generator, kind: Kind, photos: int, lost: NDArray[np.float64], gained: float, runs: int
) -> tuple[Seen, Seen]:
    """What two halves of the photos see. lost: the probability of a loss, for every candidate."""
    chances = np.stack([lost, np.full_like(lost, gained), 1 - lost - gained], axis=-1)
    half = photos // 2

    def counts(groups: int, size: int = 1) -> tuple[Counts, Counts]:
        drawn = rng.multinomial(groups, chances, size=(runs, len(lost)))
        return size * drawn[..., 0].astype(float), size * drawn[..., 1].astype(float)

    match kind:
        case "apart":
            return Seen(*counts(half), half, half), Seen(*counts(half), half, half)
        case "known" | "loose":
            groups = half // 3
            one, two = [counts(groups, 3) if kind == "known" else counts(3 * groups) for _ in range(2)]
            return Seen(*one, 3 * groups, groups), Seen(*two, 3 * groups, groups)
        case "missed":
            # A pair lies in one half, or across both, as chance has it.
            pairs = round(0.15 * half)
            single = half - 2 * pairs
            inside, across = pairs // 2, 2 * (pairs - pairs // 2)
            both = counts(across)
            halves = []
            for _ in range(2):
                own, twice = counts(single), counts(inside, 2)
                sums = [a + b + c for a, b, c in zip(own, twice, both, strict=True)]
                halves.append(Seen(sums[0], sums[1], half, half))
            return halves[0], halves[1]


def fastest(fits: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The first candidate of every run that fits; -1 where none does."""
    return np.where(fits.any(axis=1), fits.argmax(axis=1), -1)


def certified_of(chosen: NDArray[np.intp], passed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The candidate chosen in every run where it passed; else -1."""
    there = chosen >= 0
    rows = np.arange(len(chosen))
    return np.where(there & passed[rows, np.maximum(chosen, 0)], chosen, -1)


def halves(one: Seen, two: Seen, margin: float) -> list[NDArray[np.intp]]:
    return [certified_of(fastest(one.within(margin, 0.95)), two.within(margin, 0.95))]


def cross_fit(one: Seen, two: Seen, margin: float) -> list[NDArray[np.intp]]:
    return [
        certified_of(fastest(a.drop() <= margin), b.within(margin, 0.975))
        for a, b in ((one, two), (two, one))
    ]


def all_at_once(one: Seen, two: Seen, margin: float) -> list[NDArray[np.intp]]:
    everything = one.plus(two)
    sure = everything.within(margin, 1 - 0.05 / one.losses.shape[1])
    return [certified_of(fastest(everything.within(margin, 0.95)), sure)]


def all_chose(one: Seen, two: Seen, margin: float) -> list[NDArray[np.intp]]:
    return [fastest(one.plus(two).within(margin, 0.95))]


WAYS: dict[str, Callable[[Seen, Seen, float], list[NDArray[np.intp]]]] = {
    "halves": halves,
    "cross-fit": cross_fit,
    "all at once": all_at_once,
    "all chose": all_chose,
}


def margin_of(photos: int) -> float:
    """The budget: one that so many photos may certify, with some losses."""
    return max(0.01, round(8 / photos, 3))


@dataclass(frozen=True, slots=True)
class Cell:
    """rate: the share of runs in which a claim was made, by way; a wrong one, or that of the good variant."""

    kind: Kind
    photos: int
    margin: float
    candidates: int
    changed: float
    rate: dict[str, float]


def levels(runs: int) -> Iterator[Cell]:
    rng = np.random.default_rng(SEED)
    for kind, photos in itertools.product(NOTES, SIZES):
        margins = sorted({margin_of(photos), 0.05 if photos <= 300 else 0.02})
        for margin, candidates, gained in itertools.product(margins, CANDIDATES, GAINS):
            parts = draw(rng, kind, photos, np.full(candidates, margin + gained), gained, runs)
            rate = {name: made([claim >= 0 for claim in way(*parts, margin)]) for name, way in WAYS.items()}
            yield Cell(kind, photos, margin, candidates, margin + 2 * gained, rate)
        say(f"{kind}, {photos} photos")


def powers(runs: int) -> Iterator[Cell]:
    """The budget is one point."""
    rng = np.random.default_rng(SEED + 1)
    for photos, candidates, changed in itertools.product(POWER_SIZES, POWER_CANDIDATES, CHANGED):
        lost = np.full(candidates, 0.02 + changed / 2)
        good = candidates - 1  # the slowest
        lost[good] = changed / 2
        parts = draw(rng, "apart", photos, lost, changed / 2, runs)
        rate = {name: made([claim == good for claim in way(*parts, 0.01)]) for name, way in WAYS.items()}
        yield Cell("apart", photos, 0.01, candidates, changed, rate)


def made(claims: Sequence[NDArray[np.bool_]]) -> float:
    """The share of runs in which one of the claims was made."""
    return float(np.any(claims, axis=0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="simulation of the ways to certify a drop")
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    report = "\n".join([heading(options.runs), *level_tables(list(levels(options.runs))), POWER_HEADING])
    report += "\n" + power_table(list(powers(options.runs)))
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


def heading(runs: int) -> str:
    return f"""# How a drop is certified, and how often that is wrong

Output of `python benchmarks/certification.py --runs {runs}`, {datetime.now(UTC):%Y-%m-%d}.

{DESCRIPTION}
## Wrong at the budget

The true drop of every candidate is the budget, so that each claim is wrong, and should be made in 5 % of the
runs at most. Listed is the worst of {CASES} cases: {plain(SIZES)} photos; two budgets
from 1 to 13 points; {plain(CANDIDATES)} candidates, which gain 0, 0.5 or 2 % of the answers and lose more.
The standard error of 5 % is {100 * math.sqrt(0.05 * 0.95 / runs):.2f} %, and the worst of so many cases lies
up to three of them above it.
"""


def plain(values: Sequence[int]) -> str:
    *most, last = (f"{value:,}" for value in values)
    return f"{', '.join(most)} or {last}"


def level_tables(cells: Sequence[Cell]) -> list[str]:
    lines = [f"| photos | {' | '.join(WAYS)} |", "| --- |" + " ---: |" * len(WAYS)]
    for kind, note in NOTES.items():
        worst = [max(cell.rate[way] for cell in cells if cell.kind == kind) for way in WAYS]
        lines.append(f"| {note} | " + " | ".join(f"{100 * rate:.1f} %" for rate in worst) + " |")
    lines += ["", "By the number of candidates, photos of their own:", ""]
    lines += [f"| candidates | {' | '.join(WAYS)} |", "| ---: |" + " ---: |" * len(WAYS)]
    for count in CANDIDATES:
        alike = [cell for cell in cells if cell.kind == "apart" and cell.candidates == count]
        worst = [max(cell.rate[way] for cell in alike) for way in WAYS]
        lines.append(f"| {count} | " + " | ".join(f"{100 * rate:.1f} %" for rate in worst) + " |")
    return lines


def power_table(cells: Sequence[Cell]) -> str:
    lines = [
        f"| photos | candidates | answers changed | {' | '.join(WAYS)} |",
        "| ---: | ---: | ---: |" + " ---: |" * len(WAYS),
    ]
    for cell in cells:
        rates = " | ".join(f"{100 * cell.rate[way]:.0f} %" for way in WAYS)
        lines.append(f"| {cell.photos:,} | {cell.candidates} | {100 * cell.changed:g} % | {rates} |")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
