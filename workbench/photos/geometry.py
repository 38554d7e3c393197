"""The size that a photo is resized to, and the place of the crop: libraries differ by a pixel."""

from workbench.photos.contract import Preprocess, sides


def resized_size(width: int, height: int, contract: Preprocess) -> tuple[int, int]:
    """(width, height) that a photo of that size is resized to."""
    high, wide = sides(contract.resize)
    if contract.resize_mode == "squeeze":
        return wide, high
    # Scaled by the side that decides, the photo covers the target, or fits into it.
    taller = high * width > wide * height
    by_height = taller == (contract.resize_mode == "shorter")
    match contract.rounding:
        case "torchvision" | "transformers":
            exact = (high * width / height, high) if by_height else (wide, wide * height / width)
            size = int(exact[0]), int(exact[1])
        case "albumentations":
            scale = high / height if by_height else wide / width
            size = round(width * scale), round(height * scale)
        case "timm":
            ratio = height / high if by_height else width / wide
            size = round(width / ratio), round(height / ratio)
    return max(1, size[0]), max(1, size[1])


def crop_start(side: int, kept: int, contract: Preprocess) -> int:
    """First pixel of the centre of `kept` pixels; below 0 where the side is shorter: so many are padded."""
    if contract.rounding == "transformers":
        return (side - kept) // 2
    if side < kept:
        return -((kept - side) // 2)
    return (side - kept) // 2 if contract.rounding == "albumentations" else round((side - kept) / 2)


def crop_area(width: int, height: int, contract: Preprocess) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of what the network sees, in pixels of a photo of that size.

    It ends beyond the photo where that is padded.
    """
    across, down = resized_size(width, height, contract)
    tall, wide = contract.size
    left, top = crop_start(across, wide, contract), crop_start(down, tall, contract)
    x, y = width / across, height / down
    return left * x, top * y, (left + wide) * x, (top + tall) * y


def least_size(width: int, height: int, contract: Preprocess) -> tuple[int, int] | None:
    """(width, height) that a JPEG of that size keeps where it is decoded at a fraction; None: all of it."""
    # A network trained with `nearest`, OpenCV or no antialiasing saw single pixels, not means of several.
    if contract.decode == "full" or contract.interpolation == "nearest" or not contract.antialias:
        return None
    if contract.resize_mode == "shorter" and isinstance(contract.resize, int):
        return 2 * contract.resize, 2 * contract.resize
    across, down = resized_size(width, height, contract)
    return 2 * across, 2 * down
