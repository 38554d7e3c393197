"""`python -m benchmarks.stress_sheet FILE.jpg [PHOTO]`: a photo under every field stress, at every severity.

The picture in docs/stress.md; without a photo it is one of the bundled sample's.
"""

import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from workbench.photos.contract import Preprocess
from workbench.photos.stress import SEVERITIES, STRESSES, apply_stresses
from workbench.workspace.sample import leaves

CELL, LABEL, GAP = 104, 100, 2  # pixels
CONTRACT = Preprocess(resize=CELL * 2, crop=CELL * 2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLASS_NAME = "Apple_Scab"


def sheet(data: bytes) -> Image.Image:
    """Rows are stresses; columns the photo itself and the severities."""
    width, height = LABEL + (1 + len(SEVERITIES)) * (CELL + GAP), len(STRESSES) * (CELL + GAP)
    found = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(found)
    for row, name in enumerate(STRESSES):
        pen.text((2, row * (CELL + GAP) + CELL // 2 - 6), name, "black", font_size=13)
        photos = [apply_stresses(data, [name], severity, CONTRACT)[0].image for severity in SEVERITIES]
        for column, photo in enumerate([Image.open(io.BytesIO(data)), *photos]):
            side = min(photo.size)
            square = photo.resize((CELL, CELL), Image.Resampling.LANCZOS, box=(0, 0, side, side))
            found.paste(square, (LABEL + column * (CELL + GAP), row * (CELL + GAP)))
    return found


def main() -> None:
    target, *given = map(Path, sys.argv[1:])
    data = given[0].read_bytes() if given else leaves.photo(CLASS_NAME, leaves.photo_seed("val", 3))
    sheet(data).save(target, quality=82)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
