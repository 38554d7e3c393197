"""Photos that stand in two parts of the data, side by side."""

from pathlib import Path

from workbench.errors import plural, some
from workbench.photos.overlap import Overlap, PhotoPair
from workbench.report.page.blocks import PageSection, PhotoPairs, TwoPhotos, lines
from workbench.report.page.gallery import PHOTOS, thumbnail
from workbench.report.page.run_data import RunData


def separation(run: RunData) -> PageSection:
    """What the validation photos share with those of training and calibration; nothing of older runs."""
    key, title = "separation", "Photos in more than one part of the data"
    if (found := run.info.separation) is None:
        return PageSection(key, title, ())
    clean = [_named(part) for part in found.parts if not part.images]
    photos = plural(run.info.validation_images, "validation photo")
    none = f"Of {photos} none is in {some(clean, quote='')}"
    how = "compared by content and by look, turned and mirrored too."
    unnamed = "" if any(part.part == "train" for part in found.parts) else UNNAMED
    looks = f"{plural(found.alike, 'validation photo')} look like others of them and count once." * bool(
        found.alike
    )
    shared = [_sentence(part, allowed=found.allowed) for part in found.overlaps]
    pairs = [(part, pair) for part in found.overlaps for pair in part.pairs]
    shown = PhotoPairs(tuple(_two(part, pair) for part, pair in pairs[:PHOTOS]))
    return PageSection(
        key,
        title,
        (
            *lines(*shared, tone="warning"),
            *lines(f"{none}, {how}" if clean else "", looks, unnamed),
            *((shown,) if pairs else ()),
        ),
    )


UNNAMED = "The training photos are not named (`data.train`): whether some are among these is unknown."


def _named(part: Overlap) -> str:
    return f"data.{part.part} ({plural(part.photos, 'photo')})"


def _sentence(part: Overlap, *, allowed: bool) -> str:
    counts = f"{part.same:,} by content, {part.alike:,} by look"
    after = "allowed by `data.allow_overlap`" if allowed else "nothing is certified"
    return f"{plural(part.images, 'validation photo')} in {_named(part)} too ({counts}): {after}."


def _two(part: Overlap, pair: PhotoPair) -> TwoPhotos:
    how = (
        "the same file"
        if pair.bits is None
        else f"{pair.bits} bits apart{', ' if pair.turn else ''}{pair.turn}"
    )
    return TwoPhotos(
        (thumbnail(Path(pair.photo), pair.photo_sha256), thumbnail(Path(pair.other), pair.other_sha256)),
        ("/".join(Path(pair.photo).parts[-2:]), f"{part.part}: {'/'.join(Path(pair.other).parts[-2:])}"),
        how,
    )
