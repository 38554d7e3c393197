"""What the photos and their labels show, whatever the network answers."""

from collections.abc import Sequence

from workbench.photos.dataset import Dataset, Images
from workbench.photos.overlap import Separation
from workbench.results.remarks import Gravity, Remark, RemarkKind

FEW = 5  # files named, and photos that are more than a slip


def same_pixels(photos: Images) -> list[str]:
    """A digest of each photo as the network sees it: the same for a copy in another format."""
    from hashlib import blake2b

    return [blake2b(row.tobytes(), digest_size=16).hexdigest() for row in photos.pixels()]


def of_photos(
    validation: Dataset,
    calibration: Dataset | None,
    separation: Separation,
    names: Sequence[str],
    accuracy: float,
    seen: Sequence[str],
) -> list[Remark]:
    """seen: a digest of each validation photo as the network sees it."""
    found, total, paths = (
        of_overlaps(separation, len(validation)),
        len(validation),
        list(map(str, validation.paths)),
    )

    def remark(kind: RemarkKind, chosen: Sequence[str], gravity: Gravity = "note", **figures: float) -> None:
        counts = {"images": len(chosen), "total": total, **figures}
        found.append(Remark(kind=kind, gravity=gravity, figures=counts, names=tuple(chosen[:FEW])))

    if calibration is not None:
        # Labels are not read there; folders may be called like classes all the same.
        folders = {part for path in calibration.paths for part in path.parts[:-1]}
        absent = [name for name in names if name not in folders]
        if absent and len(absent) < len(names):
            found.append(_no_photos(absent, names))
    labels: dict[str, set[int]] = {}
    for digest, label in zip(seen, validation.labels, strict=True):
        labels.setdefault(digest, set()).add(label)
    if doubtful := [path for path, digest in zip(paths, seen, strict=True) if len(labels[digest]) > 1]:
        remark("contradictory", doubtful, "grave" if len(doubtful) >= max(FEW, 0.05 * total) else "note")
    first = dict(zip(reversed(seen), reversed(paths), strict=True))
    copied = [path for path, digest in zip(paths, seen, strict=True) if first[digest] != path]
    if total >= 2 * FEW and accuracy >= 0.995 and len(copied) >= 0.2 * total:
        remark("copies", copied, accuracy=accuracy)
    return found


def of_overlaps(separation: Separation, total: int) -> list[Remark]:
    """Of photos that are in other parts too: grave where the network was trained on them."""
    found = []
    for part in separation.overlaps:
        grave = part.part == "train" and not separation.allowed
        form = f"{part.part}_allowed" if separation.allowed else part.part
        figures: dict[str, float] = {
            "images": part.images,
            "total": total,
            "same": part.same,
            "alike": part.alike,
        }
        names = tuple(pair.words() for pair in part.pairs[:FEW])
        found.append(
            Remark(
                kind="shared_photos",
                gravity="grave" if grave else "note",
                form=form,
                figures=figures,
                names=names,
            )
        )
    return found


def _no_photos(absent: Sequence[str], names: Sequence[str]) -> Remark:
    """Of data.calibration; a class without validation photos is named when they are listed."""
    figures: dict[str, float] = {"classes": len(absent), "total": len(names)}
    return Remark(kind="no_photos", gravity="note", form="calibration", figures=figures, names=tuple(absent))
