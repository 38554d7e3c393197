"""Whether the promise of a version that abstains is kept, and whether photos of other things are noticed.

    python benchmarks/abstention.py [--splits 500] [--workspace DIR] [--things FOLDER]
                                    [--output docs/measured-abstention.md]

Two parts. Risk: populations of answers, synthetic ones and those of real networks, from which photos are
drawn again and again; a rule is fitted and its promise held against the whole population. Other things:
pictures that show no leaf go through the networks, and scores try to tell them from leaves. workspace: a
trained network and its photos, beside the bundled sample's. things: photos of anything but leaves.
"""

import argparse
import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import abstention_things as things
import numpy as np
from numpy.typing import NDArray

from workbench.backends.abstention import Abstention, Doubt, RiskLimits, scores
from workbench.measure.abstention import LabelledOutputs, fit, tail, temperature
from workbench.measure.split import split
from workbench.model.export.comparison import torch_logits
from workbench.model.source.model_source import load_model
from workbench.photos.preprocess import batch_of, pixels_of
from workbench.registry.abstention import promise
from workbench.run.prepare import prepare
from workbench.system.progress import silent
from workbench.workspace.sample import ensure_sample, leaves
from workbench.workspace.workspace import Workspace, load, sample

Outputs = NDArray[np.float32]  # (n, classes)
Values = NDArray[np.float64]  # (n,)
Score = Callable[[Outputs], Values]
LIMITS = RiskLimits()
SIZES = (300, 600, 1500)  # photos of each part
WHOLE = 10_000  # of a synthetic population
UNLIKE = (0.01, 0.02, 0.05)  # shares of leaves that may be called unlike
THINGS = 200  # of each kind
SEED = 20261130
SAMPLE = "The bundled sample"
HEADING = """\
# How often an answer that is given is wrong, and what is no leaf

Output of `python benchmarks/abstention.py --splits {splits} --workspace DIR --things FOLDER`, {day:%Y-%m-%d}.

## The promise

Photos are drawn from a population of answers whose truth is known, and parted: a temperature, an energy
floor and a sequence of thresholds are fitted on one part, and the threshold is tested on the other
([abstention.md](abstention.md)). Then "at most 2 % of answers wrong (95 %)" is held against the whole
population. {splits} splits of each kind and size.

- **promise made**: a threshold passed its test. **broken**: more than 2 % of what the rule would answer
  is wrong; of all splits, and 5 % are allowed.
- **answered**: share of the photos, the mean over all splits; 0 where nothing was promised. **by SGR**:
  the same with the threshold of Geifman and El-Yaniv's search on the second part. **best possible**: by a
  threshold that knows the truth.

The first four populations are synthetic: logits are the logarithms of true probabilities, in the second
twice as large. In the fifth more answers are wrong than allowed whatever the confidence, so that every
promise is broken. The last two are the answers of trained networks to their validation photos, drawn with
replacement; the rest of this page says which.

**Found.** The promise is broken in 0.2 to 3.6 % of the splits; of answers that cannot keep it, it is made
in 1.2 to 2.0 %. With 300 photos SGR's search, which pays for each of its steps, promises nothing, while a
fixed sequence does; with 1,500 both answer nearly the same. The harder the network's task, the more
photos it takes: 300 show nothing of one that is wrong in a fifth of its answers. (Where every photo comes
three times SGR counts each of them, and the rule counts one.)
"""
THINGS_HEADING = """
## Other things

Two networks in FP32 look at pictures that show no leaf, {things} of each kind: drawn ones, cuts of the
photos that scikit-image and scikit-learn carry (a cat, a cup, a rocket, bricks, coins, a retina, galaxies
…), and leaves of the other network's kind. AUROC is the probability that a leaf of the held-out photos
scores higher: 1 tells all apart, 0.5 none. The last three columns are what the fitted rule makes of the
pictures.

Below each: the share that is still answered beside the rule's threshold, where the floor lies so that it
calls 1, 2 or 5 % of the held-out leaves unlike, by the two scores.

**Found.** No score of the logits is a detector. With the rule as it is, more than a quarter of the photos
of other things is still answered, and up to nine tenths of what looks like a leaf's surroundings. The
Mahalanobis distance orders pictures best, by AUROC, and lets the fewest pass where 5 % of the leaves may
be called unlike; where 1 % may, it and the energy let pass about the same. The energy is kept: it is one
number to store and microseconds to compute, where the distance takes the square of the number of classes
of both. `abstain.unlike: 0.05` brings what passes of photos of other things from 44 to 16 % for the
second network, and costs 3 % of the leaves.
"""


@dataclass(frozen=True, slots=True)
class Population:
    """Every answer there is: what a split draws from, and what a promise is held against."""

    name: str
    answers: LabelledOutputs

    def draw(self, rng: np.random.Generator, photos: int, *, copies: int = 1) -> LabelledOutputs:
        """Photos drawn independently, each `copies` times."""
        rows = rng.integers(0, len(self.answers), photos // copies).repeat(copies)
        groups = np.arange(photos // copies).repeat(copies)
        whole = self.answers
        return LabelledOutputs(whole.outputs[rows], whole.kind, whole.labels[rows], groups)

    def risk(self, rule: Abstention) -> tuple[float, float]:
        """The share answered, and the share of wrong ones among them."""
        scores = rule.scores(self.answers.outputs, self.answers.kind)
        given = scores.confidence >= (rule.least_confidence or 0.0)
        if rule.least_energy is not None and scores.energy is not None:
            given &= scores.energy >= rule.least_energy
        return float(given.mean()), float(self.answers.wrong()[given].mean()) if given.any() else 0.0

    def best(self) -> float:
        """The largest share that one threshold on the confidence could answer within the limit."""
        confidence = scores(self.answers.outputs, self.answers.kind, 1.0).confidence
        order = np.argsort(-confidence)
        risk = np.cumsum(self.answers.wrong()[order]) / np.arange(1, len(order) + 1)
        within = np.flatnonzero(risk <= LIMITS.max_risk)
        return float((within[-1] + 1) / len(order)) if len(within) else 0.0


def synthetic(
    name: str, accuracy_like: float, *, classes: int, sharpness: float, photos: int = WHOLE
) -> Population:
    """Answers whose logits are the true log-probabilities times `sharpness`: above 1 it is too sure."""
    rng = np.random.default_rng(len(name))
    hard = rng.gamma(1.5, 1.0, photos)[:, None]
    logits = rng.normal(0, 1, (photos, classes)) * accuracy_like / (0.3 + hard)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels = (powers.cumsum(axis=1) / powers.sum(axis=1, keepdims=True) < rng.random((photos, 1))).sum(axis=1)
    outputs = (sharpness * logits).astype(np.float32)
    return Population(name, LabelledOutputs(outputs, "logits", labels, np.arange(photos)))


def at_the_limit(photos: int = WHOLE) -> Population:
    """One answer in 47 is wrong, 2.13 %, at every confidence: no promise of 2 % is true."""
    logits = np.zeros((photos, 10), dtype=np.float32)
    logits[:, 0] = np.linspace(9, 1, photos)
    labels = (np.arange(photos) % 47 == 0).astype(np.int64)
    return Population(
        "2.13 % wrong at every confidence", LabelledOutputs(logits, "logits", labels, np.arange(photos))
    )


def two_classes(photos: int = WHOLE) -> Population:
    """Probabilities of two classes, as a network that ends in softmax gives them."""
    known = synthetic("two classes, probabilities", 8.0, classes=2, sharpness=1.5, photos=photos).answers
    powers = np.exp(known.outputs - known.outputs.max(axis=1, keepdims=True))
    outputs = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    name = "two classes, probabilities instead of logits"
    return Population(name, LabelledOutputs(outputs, "probabilities", known.labels, known.groups))


def populations() -> list[Population]:
    return [
        synthetic("12 classes, calibrated", 16.0, classes=12, sharpness=1.0),
        synthetic("12 classes, twice too sure", 16.0, classes=12, sharpness=2.0),
        synthetic("38 classes, hard", 12.0, classes=38, sharpness=1.3),
        two_classes(),
        at_the_limit(),
    ]


# Risk


@dataclass(frozen=True, slots=True)
class Splits:
    """What became of the splits of one population. photos: of each part. answered, searched: means over all
    splits, of the rule and of SGR; where nothing was promised, nothing is answered."""

    population: str
    photos: int
    promised: float
    broken: float
    answered: float
    searched: float
    best: float


def run_splits(population: Population, photos: int, splits: int, *, copies: int = 1) -> Splits:
    rng = np.random.default_rng([SEED, photos, copies])
    promised, broken, answered, searched = [], [], [], []
    for _ in range(splits):
        parts = [population.draw(rng, photos, copies=copies) for _ in range(2)]
        rule = fit(parts[0], parts[1], LIMITS)
        made = rule.least_confidence is not None
        share, risk = population.risk(rule) if made else (0.0, 0.0)
        promised.append(made)
        broken.append(risk > LIMITS.max_risk)
        answered.append(share)
        searched.append(sgr_share(population, rule, parts[1]))
    figures = [float(np.mean(values)) for values in (promised, broken, answered, searched)]
    name = population.name if copies == 1 else f"{population.name}, every photo {copies} times"
    return Splits(name, photos, *figures, population.best())


def sgr_share(population: Population, rule: Abstention, testing: LabelledOutputs) -> float:
    """The share answered with the threshold of Geifman and El-Yaniv's SGR: a binary search over the photos,
    whose error is divided by the number of its steps."""
    scores = rule.scores(testing.outputs, testing.kind)
    order = np.argsort(-scores.confidence, kind="stable")
    wrong, steps = testing.wrong()[order].cumsum(), math.ceil(math.log2(len(testing)))
    low, high, kept = 0, len(testing) - 1, -1
    for _ in range(steps):
        middle = math.ceil((low + high) / 2)
        counts = np.array([wrong[middle]], dtype=float), np.array([middle + 1], dtype=float)
        if tail(*counts, LIMITS.max_risk)[0] <= (1 - LIMITS.confidence) / steps:
            low = kept = middle
        else:
            high = max(low, middle - 1)
    if kept < 0:
        return 0.0
    found = rule.model_copy(
        update={"least_confidence": float(scores.confidence[order[kept]]), "least_energy": None}
    )
    return population.risk(found)[0]


# Other things


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network: its answers to leaves, in two parts, and to pictures of other things by kind."""

    name: str
    fitting: LabelledOutputs
    testing: LabelledOutputs
    others: dict[str, Outputs]

    def population(self) -> Population:
        parts = (self.fitting, self.testing)
        outputs, labels = (
            np.concatenate(arrays) for arrays in zip(*((p.outputs, p.labels) for p in parts), strict=True)
        )
        return Population(self.name, LabelledOutputs(outputs, "logits", labels, np.arange(len(labels))))


def open_network(name: str, workspace: Workspace, others: Mapping[str, Iterable[bytes]]) -> Network:
    """others: encoded pictures."""
    prepared = prepare(workspace, silent, calibrate=False)
    network, images = load_model(workspace.model, prepared.job.classes), prepared.job.photos
    say(f"{name}: {len(images)} photos")
    outputs = np.concatenate([torch_logits(network, batch) for batch in images.batches(32)])
    parts = split(prepared.validation, images.pixels(), None, max_drop=workspace.budget.max_accuracy_drop)
    everything = LabelledOutputs(outputs, "logits", np.asarray(images.labels), np.asarray(parts.groups))
    held_out = np.isin(np.arange(len(images)), parts.certification)

    def answers(photos: Iterable[bytes]) -> Outputs:
        pixels = np.stack([pixels_of(photo, images.contract) for photo in photos])
        return torch_logits(network, batch_of(pixels, images.contract, raw=False))

    given = {kind: answers(photos) for kind, photos in others.items()}
    return Network(name, everything.rows(~held_out), everything.rows(held_out), given)


def others_for(folder: Path | None) -> dict[str, Iterable[bytes]]:
    """folder: photos of other things."""
    found: dict[str, Iterable[bytes]] = {
        kind: map(encoded, things.pictures(kind, THINGS)) for kind in things.DRAWN
    }
    if folder is not None:
        found["photos of other things"] = map(encoded, things.cuts(folder, THINGS))
    return found


def encoded(picture: things.Picture) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def drawn_leaves() -> Iterator[bytes]:
    return (leaves.photo(leaves.CLASS_NAMES[n % 12], leaves.photo_seed("val", n)) for n in range(THINGS))


def real_leaves(workspace: Workspace) -> Iterator[bytes]:
    paths = sorted(path for path in workspace.validation.rglob("*") if path.is_file())
    return (path.read_bytes() for path in paths[:: max(1, len(paths) // THINGS)][:THINGS])


def confidence_score(network: Network) -> Score:
    heat = temperature(network.fitting)
    return lambda outputs: scores(outputs, "logits", heat).confidence


def energy_score(_: Network) -> Score:
    return lambda outputs: np.asarray(scores(outputs, "logits", 1.0).energy)


def largest_logit(_: Network) -> Score:
    return lambda outputs: outputs.max(axis=1).astype(np.float64)


def mahalanobis_score(network: Network) -> Score:
    """The distance of the logits to those of the nearest class, with one covariance for all.

    K. Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
    attacks", NeurIPS 2018, on the only layer that an artifact shows.
    """
    known, labels = network.fitting.outputs.astype(np.float64), network.fitting.labels
    means = np.stack([known[labels == label].mean(axis=0) for label in np.unique(labels)])
    rest = known - means[np.searchsorted(np.unique(labels), labels)]
    inverse = np.linalg.pinv(rest.T @ rest / len(rest) + 1e-6 * np.eye(known.shape[1]))

    def score(outputs: Outputs) -> Values:
        away = outputs[:, None].astype(np.float64) - means
        return -np.einsum("ncd,de,nce->nc", away, inverse, away).min(axis=1)

    return score


SCORES: dict[str, Callable[[Network], Score]] = {
    "energy": energy_score,
    "largest logit": largest_logit,
    "calibrated confidence": confidence_score,
    "Mahalanobis, of logits": mahalanobis_score,
}


def auroc(usual: Values, other: Values) -> float:
    """The probability that a usual photo scores higher than another: 1 tells all apart, 0.5 none."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([usual, other]))[: len(usual)]
    return float((ranks.sum() - len(usual) * (len(usual) + 1) / 2) / (len(usual) * len(other)))


# The page


def main() -> None:
    parser = argparse.ArgumentParser(description="the promise of a version that abstains, and other things")
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--workspace", type=Path, help="folder of a krishi.yaml with a trained network")
    parser.add_argument("--name", default="own network", help="of that network")
    parser.add_argument("--things", type=Path, help="folder of photos of other things")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    networks = open_networks(options.workspace, options.name, options.things)
    cells = []
    for population in [*populations(), *(network.population() for network in networks)]:
        cells += [run_splits(population, photos, options.splits) for photos in SIZES]
        say(population.name)
    cells.append(run_splits(populations()[1], 1500, options.splits, copies=3))
    heading = HEADING.format(splits=options.splits, day=datetime.now(UTC))
    parts = [heading, risk_table(cells), THINGS_HEADING.format(things=THINGS)]
    for network in networks:
        parts += [f"### {network.name}\n", things_table(network), "", floors_table(network), ""]
    report = "\n".join(parts)
    print(report)
    if options.output:
        options.output.write_text(report)


def open_networks(folder: Path | None, name: str, photos: Path | None) -> list[Network]:
    ensure_sample()
    own, others = sample(Path.cwd()), others_for(photos)
    if folder is None:
        return [open_network(SAMPLE, own, others)]
    second = load(folder / "krishi.yaml")
    return [
        open_network(SAMPLE, own, others | {"real leaves": real_leaves(second)}),
        open_network(name, second, others_for(photos) | {"drawn leaves": drawn_leaves()}),
    ]


def risk_table(cells: Sequence[Splits]) -> str:
    lines = [
        "| answers | photos to fit, to test | promise made | broken | answered | by SGR | best possible |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in cells:
        figures = (cell.promised, cell.broken, cell.answered, cell.searched, cell.best)
        shown = " | ".join(f"{100 * figure:.1f} %" for figure in figures)
        lines.append(f"| {cell.population} | {cell.photos:,} each | {shown} |")
    return "\n".join(lines)


def things_table(network: Network) -> str:
    rule = fit(network.fitting, network.testing, LIMITS)
    scores = {name: make(network) for name, make in SCORES.items()}
    heads = [*scores, "unlike", "low confidence", "answered"]
    lines = [
        f"{promise(rule)[0].upper()}{promise(rule)[1:]}.\n",
        f"| pictures | {' | '.join(heads)} |",
        "| --- |" + " ---: |" * len(heads),
    ]
    usual = network.testing.outputs
    for kind, outputs in {"leaves held out": usual, **network.others}.items():
        told = [f"{auroc(score(usual), score(outputs)):.3f}" for score in scores.values()]
        figures = told if outputs is not usual else ["–"] * len(scores)
        lines.append(f"| {kind} | {' | '.join([*figures, *fates(rule, outputs)])} |")
    return "\n".join(lines)


def floors_table(network: Network) -> str:
    """What is answered beside a threshold that keeps the limit, by the score that calls photos unlike."""
    rule = fit(network.fitting, network.testing, LIMITS)
    sure = confidence_score(network)
    lines = [
        "| leaves called unlike | by | leaves answered | drawn pictures answered | others answered |",
        "| ---: | --- | ---: | ---: | --- |",
    ]
    for unlike in UNLIKE:
        for name in ("energy", "Mahalanobis, of logits"):
            score = SCORES[name](network)
            floor = np.quantile(score(network.testing.outputs), unlike)

            def share(outputs: Outputs, score: Score = score, floor: float = floor) -> float:
                given = (score(outputs) >= floor) & (sure(outputs) >= (rule.least_confidence or 0.0))
                return 100 * float(given.mean())

            drawn = np.mean([share(network.others[kind]) for kind in things.DRAWN])
            rest = [
                f"{kind} {share(outputs):.0f} %"
                for kind, outputs in network.others.items()
                if kind not in things.DRAWN
            ]
            leaves_share = share(network.testing.outputs)
            cells = [
                f"{100 * unlike:.0f} %",
                name,
                f"{leaves_share:.0f} %",
                f"{drawn:.0f} %",
                ", ".join(rest),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def fates(rule: Abstention, outputs: Outputs) -> list[str]:
    """The shares that are called unlike, that are left with a low confidence, and that are answered."""
    doubts = Counter(rule.doubt(rule.scores(row, "logits")) for row in outputs)
    kinds: tuple[Doubt | None, ...] = ("unlike the training photos", "low confidence", None)
    return [f"{100 * doubts[kind] / len(outputs):.0f} %" for kind in kinds]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
