"""The photos of a class of devices, shared out: which device answers which, and what is sent of them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.fleet.shipment import SentPixels, Shipment
from workbench.system.files import digest_of, new_file, sha256_file
from workbench.system.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Photos that a device without a share of its own answers, so that it too is checked; they do not count.
LOOK = 8


class PhotoShare(Record):
    """Photos that one device has answered, through the baseline and through every variant.

    rows: of the validation photos; none where the device only checked that all runs there. folder: of what it
    answered, beside this record. parts: processor and libraries of the device, which must be those of its
    class.
    """

    device: str
    rows: tuple[int, ...]
    folder: str
    parts: dict[str, str]


class ClassShares(Record):
    """`shares/<class>/shares.json`: which device answered which photos."""

    schema_version: Literal[1] = 1
    shares: tuple[PhotoShare, ...] = ()


def next_shares(
    count: int, answered: Sequence[PhotoShare], devices: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """What each device is to answer next, by name; empty where nothing is left to do.

    The photos that no device has answered go to all devices evenly, as they are ordered by class. A device
    that gets none, and has answered none, is asked for no photo at all: it must be checked too.
    """
    taken = {row for share in answered for row in share.rows}
    left = [row for row in range(count) if row not in taken]
    shares = {name: tuple(left[at :: len(devices)]) for at, name in enumerate(devices)}
    seen = {share.device for share in answered}
    return {name: rows for name, rows in shares.items() if rows or name not in seen}


def difference(parts: Mapping[str, str], others: Mapping[str, str], device_class: str) -> str | None:
    """The first part of a device that is not that of its class, in words; None where all are alike."""
    for what in sorted({*parts, *others}):
        there, here = parts.get(what, "not there"), others.get(what, "not there")
        if there != here:
            return f"its {what} is {there}, that of others of {device_class} is {here}"
    return None


def look_rows(count: int) -> tuple[int, ...]:
    """Photos at even distances, for a device without a share."""
    few = min(LOOK, count)
    return tuple(row * count // few for row in range(few))


def share_of(
    whole: Shipment, rows: Sequence[int], contents: Sequence[str], objects: Mapping[str, Path], scratch: Path
) -> tuple[Shipment, dict[str, Path]]:
    """A shipment of these photos alone, and the files that only it has, by digest, below `scratch`.

    contents: sha256 of every photo.
    """
    made: dict[str, Path] = {}

    def cut(content: str) -> str:
        import numpy as np

        chosen = np.load(objects[content], mmap_mode="r")[list(rows)]
        path = scratch / f"{len(made)}.npy"
        _save(path, chosen)
        made[digest := sha256_file(path)] = path
        return digest

    at = {row: place for place, row in enumerate(rows)}
    pixels = tuple(
        SentPixels(contract=p.contract, digest=digest_of([p.digest, list(rows)]), content=cut(p.content))
        for p in whole.pixels
    )
    changed = {
        "labels": tuple(whole.labels[row] for row in rows),
        "paths": tuple(whole.paths[row] for row in rows),
        "groups": tuple(whole.groups[row] for row in rows),
        "selection": tuple(at[row] for row in whole.selection if row in at),
        "certification": tuple(at[row] for row in whole.certification if row in at),
        "photo": contents[rows[0]],
        "pixels": pixels,
        "reference": cut(whole.reference),
        "share": True,
    }
    return whole.model_copy(update=changed), made


def _save(path: Path, array: "NDArray[np.generic]") -> None:
    import numpy as np

    with new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def joined(count: int, parts: Sequence[tuple[Sequence[int], "NDArray[np.float32]"]]) -> "NDArray[np.float32]":
    """(count, classes) logits of all photos from those of the shares, each with its rows."""
    import numpy as np

    logits = np.full((count, parts[0][1].shape[1]), np.nan, np.float32)
    for rows, part in parts:
        logits[list(rows)] = part
    return logits
