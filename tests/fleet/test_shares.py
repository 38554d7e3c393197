"""The photos of a class, shared out over its devices."""

import numpy as np
import pytest

from workbench.fleet.shares import PhotoShare, difference, joined, look_rows, next_shares


def share(device: str, *rows: int) -> PhotoShare:
    return PhotoShare(device=device, rows=rows, folder=f"{device}-1", parts={})


def test_photos_are_shared_out_evenly_whatever_their_order() -> None:
    assert next_shares(7, [], ["a", "b", "c"]) == {"a": (0, 3, 6), "b": (1, 4), "c": (2, 5)}


@pytest.mark.parametrize("there", [["a"], ["a", "c"]])
def test_the_photos_of_a_device_that_went_away_go_to_the_others(there: list[str]) -> None:
    answered = [share("a", 0, 3, 6), share("c", 2, 5)]
    found = next_shares(7, answered, there)
    assert sorted(row for rows in found.values() for row in rows) == [1, 4]
    assert next_shares(7, [*answered, *(share(name, *rows) for name, rows in found.items())], there) == {}


def test_what_a_device_answered_to_the_end_stays_when_it_goes_away() -> None:
    assert next_shares(4, [share("gone", 0, 2)], ["a"]) == {"a": (1, 3)}


def test_a_device_that_comes_late_is_checked_without_photos_of_its_own() -> None:
    answered = [share("a", 0, 1, 2, 3)]
    assert next_shares(4, answered, ["a", "late"]) == {"late": ()}
    assert next_shares(4, [*answered, share("late")], ["a", "late"]) == {}
    assert look_rows(100) == (0, 12, 25, 37, 50, 62, 75, 87)
    assert look_rows(3) == (0, 1, 2)


def test_devices_of_other_processors_or_libraries_do_not_share() -> None:
    own = {"processor": "A76 (asimd)", "onnxruntime": "1.27.0"}
    assert difference(own, own, "pi5") is None
    newer = difference({**own, "onnxruntime": "1.28.0"}, own, "pi5")
    assert newer == "its onnxruntime is 1.28.0, that of others of pi5 is 1.27.0"
    lacking = difference({"processor": "A76 (asimd)"}, own, "pi5")
    assert lacking == "its onnxruntime is not there, that of others of pi5 is 1.27.0"


def test_without_a_device_nothing_is_asked() -> None:
    assert next_shares(4, [], []) == {}


def test_the_answers_are_put_together_by_the_photos() -> None:
    whole = np.arange(15, dtype=np.float32).reshape(5, 3)
    rows = ((3, 0), (1, 2, 4))
    assert np.array_equal(joined(5, [(chosen, whole[list(chosen)]) for chosen in rows]), whole)
