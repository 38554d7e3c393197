"""Thumbnails of validation photos, from the files where they still are."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import plural
from workbench.photos.contract import ImageError, Preprocess
from workbench.photos.decode import decode_for
from workbench.photos.preprocess import crop_pixels
from workbench.report.page.blocks import ThumbnailPhoto
from workbench.report.page.run_data import Predictions, RunData
from workbench.results.records import PhotoFiles
from workbench.system.files import sha256_bytes

PHOTOS = 24  # at most
SIDE = 128  # pixels
QUALITY = 72  # of JPEG
SQUARE = Preprocess(resize=SIDE, crop=SIDE, mean=(0, 0, 0), std=(1, 1, 1))


def thumbnails(
    run: RunData, known: Predictions, rows: Sequence[int]
) -> tuple[tuple[ThumbnailPhoto, ...], str]:
    """The photos of these rows, and a sentence on the images that are missing."""
    files = run.folder.photos()
    if files is not None and len(files.paths) != len(known.labels):
        files = None
    photos = tuple(_photo(run, known, row, files) for row in rows)
    lost = sum(photo.image is None for photo in photos)
    if files is None:
        return photos, "This run did not record where its photos are, so that none is shown."
    where = (
        "is no longer there as it was measured" if lost == 1 else "are no longer there as they were measured"
    )
    return photos, f"{plural(lost, 'photo')} {where}." if lost else ""


def _photo(run: RunData, known: Predictions, row: int, files: PhotoFiles | None) -> ThumbnailPhoto:
    names, truth = run.info.class_names, int(known.labels[row])
    answers = []
    for variant, probabilities in known.probabilities.items():
        answer = int(known.answers(variant)[row])
        told = f"{names[answer]} {100 * probabilities[row, answer]:.0f}\u00a0%"
        answers.append((variant, told, answer == truth))
    path = Path(files.paths[row]) if files else None
    image = thumbnail(path, files.sha256[row]) if path and files else None
    name = "/".join(path.parts[-2:]) if path else f"photo {row + 1}"
    return ThumbnailPhoto(name, names[truth], image, tuple(answers))


def thumbnail(path: Path, sha256: str) -> str | None:
    """The photo as a data URL; None where it cannot be read or is another by now."""
    from PIL import Image

    try:
        data = path.read_bytes()
        if sha256_bytes(data) != sha256:
            return None
        pixels = crop_pixels(decode_for(data, SQUARE), SQUARE)
    except (OSError, ImageError):
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
