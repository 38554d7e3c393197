"""Simulated sessions for `coverage.py`: per-round log-ratios of a variant and of the baseline's twin."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]  # log effects of launches

ROUNDS = 20
TURNS = 12
RATIOS = (1.01, 1.02, 1.09, 0.985, 0.7)  # true times of a variant over the baseline's, where they differ
JITTER = 0.02  # of a burst
SWITCH = math.log(1.3)  # between the speeds of a host with two of them


def normal(sd: float) -> Draw:
    return lambda rng, shape: rng.normal(0, sd, shape)


def uniform(sd: float) -> Draw:
    return lambda rng, shape: rng.uniform(-sd * math.sqrt(3), sd * math.sqrt(3), shape)


def student(scale: float, freedom: float) -> Draw:
    return lambda rng, shape: scale * rng.standard_t(freedom, shape)


def some(share: float, low: float, high: float, sd: float, *, signs: tuple[int, ...] = (-1, 1)) -> Draw:
    """Normal effects of this sd, but this share of launches is off by `low` to `high` more."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        off = rng.uniform(low, high, shape) * rng.choice(signs, shape)
        effects: Array = rng.normal(0, sd, shape) + np.where(rng.random(shape) < share, off, 0.0)
        return effects

    return draw


def skewed(sd: float) -> Draw:
    return lambda rng, shape: rng.exponential(sd, shape)


@dataclass(frozen=True, slots=True)
class Scenario:
    """variant, baseline: effects of their launches. switched: the share of turns in which the host changes
    its speed between the two bursts. drift: of the ratio, a round. symmetric: the truth is the true ratio;
    else it is what the estimator says of very many rounds."""

    variant: Draw
    baseline: Draw
    switched: float = 0.0
    drift: float = 0.0
    symmetric: bool = True

    def rounds(self, rng: np.random.Generator, sessions: int, rounds: int) -> tuple[Array, Array]:
        """Log-ratios, session by round: of the variant (true ratio 1) to the mean of the baseline and its
        twin, and of the twin to the baseline."""
        shape = (sessions, rounds)
        first, second = self.baseline(rng, shape), self.baseline(rng, shape)
        drift = self.drift * np.arange(rounds)
        variant = self.variant(rng, shape) - (first + second) / 2 + drift + self._within(rng, shape, 1.5)
        return variant, second - first + self._within(rng, shape, 2.0)

    def _within(self, rng: np.random.Generator, shape: tuple[int, ...], bursts: float) -> Array:
        """The error of a round: Hodges-Lehmann over its turns. bursts: whose variances add up in a ratio."""
        turns = rng.normal(0, JITTER * math.sqrt(bursts), (*shape, TURNS))
        switches = rng.choice((-SWITCH, SWITCH), turns.shape)
        turns += np.where(rng.random(turns.shape) < self.switched, switches, 0.0)
        rows, columns = np.triu_indices(TURNS)
        estimates: Array = np.median((turns[..., rows] + turns[..., columns]) / 2, axis=-1)
        return estimates


QUIET, USUAL, ROUGH = normal(0.002), normal(0.01), normal(0.016)

# Bursts of 5 to 10 ms some 10 to 30 ms apart, on a host that keeps a speed for 0.1 to 1 s: one turn in 25.
SCENARIOS = {
    "quiet launches (sd 0.2 %)": Scenario(QUIET, QUIET),
    "launches of sd 1 %": Scenario(USUAL, USUAL),
    "launches of sd 1.6 %": Scenario(ROUGH, ROUGH),
    "light tails (uniform)": Scenario(uniform(0.014), uniform(0.014)),
    "one launch in 25 off by 5 to 12 %": Scenario(
        some(0.04, 0.05, 0.12, 0.014), some(0.04, 0.05, 0.12, 0.014)
    ),
    "heavy tails (Student, 2 degrees)": Scenario(student(0.008, 2), student(0.008, 2)),
    "two-state host": Scenario(QUIET, QUIET, switched=0.04),
    "two-state host, launches of sd 1.4 %": Scenario(normal(0.014), normal(0.014), switched=0.04),
    "ratio drifts by 0.1 % a round": Scenario(USUAL, USUAL, drift=0.001),
    "one launch in 8 of the variant slow by 3 to 10 %": Scenario(
        some(0.125, 0.03, 0.10, 0.014, signs=(1,)), normal(0.014), symmetric=False
    ),
    "one launch in 25 of the variant slow by 5 to 15 %": Scenario(
        some(0.04, 0.05, 0.15, 0.01, signs=(1,)), USUAL, symmetric=False
    ),
    "skewed launches of the variant (exponential)": Scenario(skewed(0.014), USUAL, symmetric=False),
}
