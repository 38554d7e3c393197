"""Heats: groups of variants that fit into memory together, where all of a round's launches do not."""

import random
from collections.abc import Collection, Mapping, Sequence

from workbench.measure.records import Environment


def deal(
    names: Sequence[str],
    always: Collection[str],
    needs_bytes: Mapping[str, int],
    limit_bytes: int | None,
    rng: random.Random,
) -> list[list[str]]:
    """The names in random order, in one heat, or in as many as keep each within the limit.

    always: those that take part in every heat, so that ratios to them compare across heats. needs_bytes:
    where known. A variant that is too large even alone gets a heat of its own.
    """
    others = [name for name in names if name not in always]
    rng.shuffle(others)
    present = [name for name in names if name in always]
    heats: list[list[str]] = [[]]
    if limit_bytes is None:
        heats = [others]
    else:
        room = limit_bytes - sum(needs_bytes.get(name, 0) for name in present)
        # First fit: each goes into the first heat that has room for it.
        used = [0]
        for name in others:
            need = needs_bytes.get(name, 0)
            fitting = (index for index, taken in enumerate(used) if not heats[index] or taken + need <= room)
            if (index := next(fitting, None)) is None:
                heats.append([name])
                used.append(need)
            else:
                heats[index].append(name)
                used[index] += need
    dealt = [[*present, *heat] for heat in heats]
    for heat in dealt:
        rng.shuffle(heat)
    return dealt


def merge(heats: Sequence[Environment]) -> Environment:
    """The machine during all heats of a round: the worst of each figure. gpu: of the last heat."""
    first, *more = heats
    if not more:
        return first
    causes = [cause for heat in heats if heat.disturbed for cause in heat.disturbed.split("; ")]
    return Environment(
        seconds=sum(heat.seconds for heat in heats),
        steal=_largest([heat.steal for heat in heats]),
        pressure=_largest([heat.pressure for heat in heats]),
        spin_s=max(heat.spin_s for heat in heats),
        disturbed="; ".join(dict.fromkeys(causes)) or None,
        preemptions=sum(heat.preemptions for heat in heats),
        gpu=heats[-1].gpu,
    )


def _largest(figures: Sequence[float | None]) -> float | None:
    return max((figure for figure in figures if figure is not None), default=None)
