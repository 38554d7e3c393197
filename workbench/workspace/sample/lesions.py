"""Where the lesions are in a photo of the sample: what a heat map is judged by."""

import hashlib

import numpy as np
from numpy.random import default_rng

from workbench.workspace.sample.leaves import (
    DISEASES,
    PLANTS,
    SHAPES,
    Mask,
    grow_leaf,
    paint_ground,
    paint_leaf,
    spots,
    weather,
)

SEEN = 0.08  # a change of colour, of 1, that a person sees


def lesions(class_name: str, seed: int) -> Mask:
    """The (height, width) pixels of `photo(class_name, seed)` that show the disease, if any.

    It draws as `photo` does, up to the camera. KeyError for a name not in CLASS_NAMES.
    """
    disease, plant = DISEASES[class_name], PLANTS[class_name.partition("_")[0]]
    rng = default_rng(int.from_bytes(hashlib.sha256(f"{class_name}/{seed}".encode()).digest()))
    leaf = grow_leaf(rng, plant, SHAPES[rng.integers(len(SHAPES))])
    blade = np.empty_like(paint_ground(rng, leaf))
    paint_leaf(rng, blade, leaf, plant.green)
    before = blade.copy()
    disease(rng, blade, leaf, 0.1 + 0.9 * rng.beta(1.3, 1.2))
    changed = np.abs(blade - before).max(axis=2) > SEEN
    weather(rng, blade, leaf)
    there = leaf.mask > 0.5
    if rng.uniform() >= 0.75:  # insects ate holes
        there &= spots(rng, leaf, int(rng.integers(1, 5)), (0.03, 0.10), 0.25) > 1
    found: Mask = changed & there
    return found
