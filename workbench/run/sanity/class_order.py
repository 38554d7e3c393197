"""Class names in another order than the network's outputs, and the bounds that all of the look is held to."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.results.remarks import Remark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

DOUBT = 0.01  # of each one-sided bound: a few photos say nothing
LEAST_RELABELLED = 0.6  # right under another order, of the photos it moves


def bounds(right: int, total: int) -> tuple[float, float]:
    """Lower and upper bound of a rate, each of 99 % (C. Clopper and E. Pearson, Biometrika 26, 1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(right, total - right + 1, DOUBT)) if right else 0.0
    return low, float(betaincinv(right + 1, total - right, 1 - DOUBT)) if right < total else 1.0


def is_surely_more(other: int, right: int, total: int) -> bool:
    return other >= LEAST_RELABELLED * total and bounds(other, total)[0] > bounds(right, total)[1]


def class_order(answers: "Rows", labels: "Rows", names: Sequence[str]) -> Remark | None:
    """Another order of the class names under which far more photos would be right."""
    import numpy as np

    identity = np.arange(len(names))
    orders = {"pairs": _assigned(answers, labels, len(names)), **known_orders(names)}
    matches = {form: order[labels] == answers for form, order in orders.items()}
    # Found on the very photos that it is judged by, so it is judged on those that had no part in it.
    place = np.zeros(len(labels), dtype=np.int64)
    for label in identity:
        place[labels == label] = np.arange((labels == label).sum())
    for half in (0, 1):
        own, other = place % 2 == half, place % 2 != half
        if own.any():
            matches["pairs"][own] = (
                _assigned(answers[other], labels[other], len(names))[labels[own]] == answers[own]
            )
    best = max(matches, key=lambda form: (int(matches[form].sum()), form != "pairs"))
    moved = orders[best][labels] != labels
    right, total = int((answers == labels)[moved].sum()), int(moved.sum())
    other_right = int(matches[best][moved].sum())
    if not total or not is_surely_more(other_right, right, total):
        return None
    pairs = [
        (int((answers[labels == k] == order).sum()), f"{names[k]} -> {names[order]}")
        for k, order in enumerate(orders[best])
        if order != k
    ]
    shown = tuple(text for count, text in sorted(pairs, reverse=True) if count)
    images = len(labels)
    figures = {"accuracy": float((answers == labels).mean()), "images": images, "classes": len(shown)}
    figures["relabelled"] = (int((answers == labels)[~moved].sum()) + other_right) / images
    return Remark(kind="class_order", gravity="grave", form=best, figures=figures, names=shown)


def _assigned(answers: "Rows", labels: "Rows", classes: int) -> "Rows":
    """(classes,) outputs that the classes' photos get, one for each, most often; their own where equal."""
    import numpy as np

    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (labels, answers), 1)
    worth = confusion * (classes + 1) + np.eye(classes)
    if (worth.diagonal() == worth.max(axis=1)).all():
        return np.arange(
            classes
        )  # no class could have more; importing scipy.optimize takes longest otherwise
    from scipy.optimize import linear_sum_assignment

    order: Rows = linear_sum_assignment(worth, maximize=True)[1]
    return order


def known_orders(names: Sequence[str]) -> "dict[str, Rows]":
    """Usual mistakes: for each class the output that is its own, where the names are in the wrong order."""
    import numpy as np

    def numeric(name: str) -> list[tuple[int, str]]:
        return [(int(digits or -1), text) for digits, text in re.findall(r"(\d+)|(\D+)", name)]

    count, indices = len(names), np.arange(len(names))
    found = {
        "alphabetical": np.argsort(np.argsort(np.asarray(names))),
        "any_case": np.asarray([sorted(names, key=str.casefold).index(name) for name in names]),
        "numeric": np.asarray([sorted(names, key=numeric).index(name) for name in names]),
        "reversed": indices[::-1].copy(),
        "next": (indices + 1) % count,
        "previous": (indices - 1) % count,
    }
    return {form: order for form, order in found.items() if count > 2 and (order != indices).any()}
