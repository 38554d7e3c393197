"""Decode the bytes of a photo into an upright RGB image. Limits on time and memory are checked first.

Pillow's format readers are called directly: `Image.open` loads its plugins and warns of large images through
state that all threads share, and photos are decoded in many threads. Pillow is imported when a photo is read.
"""

import io
import re
import struct
import zlib
from functools import cache
from typing import cast

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from workbench.photos.contract import FORMATS, MAX_PIXELS, MAX_SIDE, ImageError, Photo, Preprocess
from workbench.photos.geometry import least_size
from workbench.photos.signatures import HEAD, PHOTOS, kind_of_file
from workbench.system.packages import install

# Real photos have 1 to 20 scans. Each may go over all pixels and take a dozen bytes in the file.
MAX_SCANS = 100
# Parts of a file: a PNG with a chunk for each of 12,000 rows stays below, floods of tiny parts do not.
MAX_READS = 100_000
MAX_EXIF_SEGMENTS = 100  # Pillow joins them one by one, copying what it has each time
ORIENTATION = 0x0112  # EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # orientations

# EXIF types that can hold a small number, as struct has them; SHORT is the standard's.
_NUMBERS = {3: "H", 4: "L", 8: "h", 9: "l"}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# A JPEG marker: not a stuffed 0xFF of the pixel data, nor one that restarts it.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Source(io.BytesIO):
    """A photo as a file for Pillow's readers, with a limit on the number of reads."""

    reads = 0
    exif_segments = 0

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.reads += 1
        self.exif_segments += part.startswith(b"Exif\0\0")
        if self.reads > MAX_READS or self.exif_segments > MAX_EXIF_SEGMENTS:
            raise ImageError("too-large", "the image is made of too many parts")
        return part


class _Jpeg(JpegImageFile):
    def getexif(self) -> Image.Exif:
        # Pillow reads all of it just to learn the dots per inch.
        return Image.Exif()


def decode(data: bytes) -> Image.Image:
    """Decode photo bytes into an upright 8-bit RGB image in full size, for any contract.

    What `readable_formats` names; the first frame of an animation; EXIF orientation applied; alpha dropped,
    as torchvision's default loader does; 16-bit grayscale scaled to 8 bits. The limits (MAX_PIXELS, MAX_SIDE,
    the number of scans of a JPEG) are checked before anything is decoded. Raises ImageError.
    """
    return _decode(data, None).image


def decode_for(data: bytes, contract: Preprocess) -> Photo:
    """Decode photo bytes for `crop_pixels`, at a fraction of the size where `Preprocess.decode` permits it.
    Raises ImageError."""
    return _decode(data, contract)


def _decode(data: bytes, contract: Preprocess | None) -> Photo:
    """contract: permits a fraction of a JPEG's size, 1/2, 1/4 or 1/8; None: decoded at its own size."""
    image = _open(data)
    width, height = image.size
    extent: tuple[float, float] = (width, height)
    try:
        if isinstance(image, _Jpeg):
            _check_scans(image, data)
            least = contract and _least(image, contract)
            if least and min(width // least[0], height // least[1]) >= 2:
                # The inverse DCT of fewer coefficients: a reduced photo for less work than a whole one.
                drafted = image.draft(None, least)
                extent = (drafted[1][2], drafted[1][3]) if drafted else extent
        image.load()
        return _turn_upright(image, (width, height), extent)
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, KeyError, ZeroDivisionError) as error:
        # Pillow's plugins raise all of these for damaged files.
        raise ImageError("broken", f"the image is damaged: {error}") from error


def _least(image: Image.Image, contract: Preprocess) -> tuple[int, int] | None:
    """`least_size` for the photo as it is stored, which may lie on its side."""
    if _orientation(image) not in SIDEWAYS:
        return least_size(*image.size, contract)
    turned = least_size(image.height, image.width, contract)
    return turned and (turned[1], turned[0])


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header and check the limits; no pixel is decoded."""
    if not data:
        raise ImageError("empty", "the image is empty (0 bytes)")
    kind = kind_of_file(data[:HEAD])
    try:
        image = _reader(data, kind)
    except ImageError:
        raise
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        if kind.upper() in FORMATS or kind in _optional_readers():
            raise ImageError("broken", "the image is damaged: its header cannot be read") from error
        raise ImageError("unsupported", _what_it_is(kind)) from None
    except Image.DecompressionBombError:  # where Pillow's own limit was lowered
        raise ImageError("too-large", "the image has more pixels than Pillow may decode") from None
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise ImageError("broken", f"the image cannot be read: {error}") from error
    _check_size(*image.size)
    return image


def _reader(data: bytes, kind: str) -> ImageFile.ImageFile:
    match kind:
        case "JPEG":
            return _Jpeg(_Source(data))
        case "PNG":
            return PngImageFile(_Source(_without_profiles(data)))
        case "WebP":
            # Before the reader runs: it allocates the canvas at once.
            _check_size(*_webp_size(data))
            return WebPImageFile(_Source(data))
        case "AVIF" | "HEIC" if (reader := _optional_readers().get(kind)) is not None:
            return reader(_Source(data))
    raise SyntaxError("no signature we know")


@cache
def _optional_readers() -> dict[str, type[ImageFile.ImageFile]]:
    """Readers of formats that depend on how Pillow was built, and on pillow-heif. They parse the header, and
    decode when they load."""
    found: dict[str, type[ImageFile.ImageFile]] = {}
    try:
        from PIL import AvifImagePlugin

        if AvifImagePlugin.SUPPORTED:
            found["AVIF"] = AvifImagePlugin.AvifImageFile
    except ImportError:
        pass  # Pillow before 11.3
    try:
        from pillow_heif import HeifImageFile

        found["HEIC"] = HeifImageFile
    except ImportError:
        pass
    return found


def readable_formats() -> tuple[str, ...]:
    """The formats of photos that are read here."""
    return (*FORMATS, *_optional_readers())


def _what_it_is(kind: str) -> str:
    known = "not a JPEG, PNG or WebP image"
    if kind == "unknown file":
        return known
    remedies = {
        "HEIC": f" ({install('pillow-heif')} reads it)",
        "Git LFS pointer": " (`git lfs pull` fetches it)",
    }
    noun = f"{kind} image" if kind in PHOTOS else kind
    article = "an" if kind[0] in "aeiouA" or kind.startswith("SVG") else "a"
    return f"{known} but {article} {noun}{remedies.get(kind, '')}"


def _without_profiles(data: bytes) -> bytes:
    """A PNG without its colour profile and texts: the pixels do not depend on them, and Pillow refuses those
    above 1 MB. Texts that may tell the orientation stay, unless they are so large."""
    view, parts, at = memoryview(data), [memoryview(data)[:8]], 8
    for _ in range(MAX_READS):
        if len(head := data[at : at + 8]) < 8:
            break
        length, kind = struct.unpack(">L4s", head)
        chunk = view[at : at + 12 + length]
        at += len(chunk)
        if kind != b"iCCP" and (kind not in _TEXTS or _tells_orientation(kind, bytes(chunk[8:-4]))):
            parts.append(chunk)
    parts.append(view[at:])
    return data if sum(map(len, parts)) == len(data) else b"".join(parts)


def _tells_orientation(kind: bytes, text: bytes) -> bool:
    key, _, rest = text.partition(b"\0")
    if key not in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
        return False
    if kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    elif kind == b"zTXt":
        packed = rest[1:]
    else:
        return True
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed, MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return not inflater.unconsumed_tail


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, by RFC 9649. Raises struct.error where the header is cut short."""
    match data[12:16]:
        case b"VP8X":
            _, low, high, low2, high2 = struct.unpack_from("<LHBHB", data, 20)
            return (low | high << 16) + 1, (low2 | high2 << 16) + 1
        case b"VP8L":
            (bits,) = struct.unpack_from("<L", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case _:
            raise SyntaxError("no kind of WebP we know")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS / 1e6:g} megapixels"
    elif max(width, height) > MAX_SIDE:
        limit = f"{MAX_SIDE} pixels a side"
    else:
        return
    raise ImageError("too-large", f"the image has {width} x {height} pixels, more than {limit}")


def _check_scans(image: JpegImageFile, data: bytes) -> None:
    """Raise ImageError for a JPEG of so many scans that decoding takes minutes."""
    fp = image.fp
    assert fp is not None
    start = fp.tell()  # behind the header of the first scan
    length = 6 + 2 * image.layers
    first = b"\xff\xda" + struct.pack(">HB", length, image.layers)
    if "progressive" not in image.info and data.startswith(first, start - length - 2):
        return  # all components in one scan: libjpeg reads no other
    # Bytes that only look like scans (a film behind the photo) are excluded by the slow count below.
    if data.count(b"\xff\xda", start) >= MAX_SCANS and _scans(data, start) > MAX_SCANS:
        raise ImageError("too-large", f"the image has more than {MAX_SCANS} scans")


def _scans(data: bytes, start: int) -> int:
    """Count the scans that libjpeg would read, up to MAX_SCANS + 1. start: behind the header of the first."""
    scans = 1
    for _ in range(10 * MAX_SCANS):  # tables between the scans
        found = _MARKER.search(data, start)
        if found is None or found[1] == b"\xd9":
            return scans
        scans += found[1] == b"\xda"
        start = found.end()
        if found[1] >= b"\xc0" and found[1] != b"\xd8":  # has a length; others stand alone
            start += int.from_bytes(data[start : start + 2], "big")
    return MAX_SCANS + 1


def _turn_upright(image: ImageFile.ImageFile, size: tuple[int, int], extent: tuple[float, float]) -> Photo:
    """Convert to 8-bit RGB and apply the EXIF orientation. extent: of the photo in pixels of `image`."""
    orientation = _orientation(image)
    (width, height), (across, down) = image.size, extent
    if orientation in SIDEWAYS:
        width, height, across, down, size = height, width, down, across, (size[1], size[0])
    # The padding of the last column and row has turned with the photo.
    left = width - across if orientation in (2, 3, 6, 7) else 0.0
    top = height - down if orientation in (3, 4, 7, 8) else 0.0
    turn = _TURNS.get(orientation)
    turned = image if turn is None else image.transpose(turn)
    return Photo(_as_rgb(turned), size, (left, top, left + across, top + down))


def _orientation(image: Image.Image) -> int:
    """The orientation, 1 to 8, from EXIF, else from XMP; 1 for damaged tags."""
    # Pillow's reader would take in all tags, which may be many and large, and warn of damaged ones.
    exif = image.info.get("exif")
    if exif is None and (text := image.info.get("Raw profile type exif")):
        try:
            exif = bytes.fromhex("".join(text.split("\n")[3:]))  # as ImageMagick puts it into a PNG
        except ValueError:
            exif = None
    if exif and (found := _exif_orientation(exif)) is not None:
        return found
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    match = _XMP.search(xmp.encode(errors="replace") if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else 1


def _exif_orientation(exif: bytes) -> int | None:
    """The first orientation tag in the first directory of a TIFF header; None where there is none."""
    for _ in range(2):  # some writers put it there twice
        exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or exif[2:4] not in (b"\0*", b"*\0"):
        return None
    try:
        (at,) = struct.unpack_from(f"{order}L", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        head = f"{order}HHL"
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(head, exif, entry)
            if tag == ORIENTATION and kind in _NUMBERS and count > 0:
                form = order + _NUMBERS[kind]
                inside = count * struct.calcsize(form) <= 4
                where = entry + 8 if inside else struct.unpack_from(f"{order}L", exif, entry + 8)[0]
                return cast(int, struct.unpack_from(form, exif, where)[0])
    except struct.error:
        pass  # it ends before the tag
    return None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit gray to 255 instead of scaling it: a normal photo would turn white.
        import numpy as np

        wide = np.asarray(image)
        if wide.dtype != np.uint16:  # a copy of up to 50 megapixels
            wide = wide.clip(0, 65535)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")
