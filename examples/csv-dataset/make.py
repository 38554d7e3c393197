"""Write photos/ and three CSVs from the photos that ../onnx-from-elsewhere/make.py drew."""

import csv
import shutil
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
DRAWN = HERE.parent / "onnx-from-elsewhere" / "data"
PHOTOS = HERE / "photos"


def write(name: str, rows: list[tuple[str, str]]) -> None:
    with (HERE / name).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image_id", "farm", "label"))
        table.writerows((f"photos/{photo}", "Nashik", label) for photo, label in rows)


PHOTOS.mkdir(exist_ok=True)
drawn = sorted(DRAWN.glob("*/*/*.jpg"))
names = {path: f"IMG_{number:04}.jpg" for number, path in enumerate(drawn, start=1)}
for path, name in names.items():
    shutil.copy(path, PHOTOS / name)
for part in ("val", "calib"):
    write(f"{part}.csv", [(names[path], path.parent.name) for path in drawn if part in path.parts])

first = next(path for path in drawn if "val" in path.parts)
Image.open(first).transpose(Image.Transpose.ROTATE_90).save(PHOTOS / "IMG_9999.jpg", quality=80)
calibrating = [(names[path], path.parent.name) for path in drawn if "calib" in path.parts]
write("train.csv", [*calibrating, ("IMG_9999.jpg", first.parent.name)])
