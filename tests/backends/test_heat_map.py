"""Heat maps from the answers of a network, without a network."""

from typing import Any

import numpy as np
import pytest

from workbench.backends.heat_map import CALLS, CELLS, class_heat, occlusion_heat, split_maps
from workbench.photos.contract import Preprocess

CONTRACT = Preprocess(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_the_maps_follow_the_answers_and_a_step_is_taken_back() -> None:
    maps = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    near = maps.mean((2, 3), keepdims=True) + (maps - maps.mean((2, 3), keepdims=True)) / 8
    outputs = np.concatenate([[[7, 8]], near.reshape(1, 12)], axis=1, dtype=np.float32)
    answers, found = split_maps(outputs, 2, (2, 3), 1 / 8)
    assert answers.tolist() == [[7, 8]]
    np.testing.assert_allclose(found, maps, atol=1e-5)


def test_what_speaks_for_every_class_alike_is_not_hot() -> None:
    maps = np.zeros((3, 2, 2), np.float32)
    maps[:, 0, 0] = 50
    maps[1, 1, 1] = 3
    assert class_heat(maps, 1).tolist() == [[0, 0], [0, 1]]
    assert class_heat(np.zeros((3, 2, 2), np.float32), 1).max() == 0


def corner(batch: Any) -> Any:
    """Two logits; the second grows with the brightness of a square."""
    bright = batch[:, :, 4:8, 20:24].mean((1, 2, 3))
    return np.stack([np.zeros_like(bright), 3 * bright], axis=1).astype(np.float32)


def probabilities(batch: Any) -> Any:
    powers = np.exp(corner(batch))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("infer", "outputs"), [(corner, "logits"), (probabilities, "probabilities")])
def test_the_part_that_the_answer_hangs_on_is_the_hottest(infer: Any, outputs: Any) -> None:
    pixels = np.full((32, 32, 3), 40, np.uint8)
    pixels[4:8, 20:24] = 255
    calls: list[int] = []
    heat = occlusion_heat(
        infer, pixels, CONTRACT, 1, raw=False, outputs=outputs, before_call=lambda: calls.append(1)
    )
    assert heat.shape == (CELLS, CELLS) and len(calls) == CALLS
    assert np.argwhere(heat == 1).tolist() == [[1, 5]]
    assert heat[4:].max() == 0


def test_a_map_can_be_stopped_between_two_calls() -> None:
    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        occlusion_heat(
            corner,
            np.zeros((32, 32, 3), np.uint8),
            CONTRACT,
            1,
            raw=False,
            outputs="logits",
            before_call=stop,
        )
