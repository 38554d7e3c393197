"""What a file is, by its first bytes, whatever its name."""

import re
from codecs import getincrementaldecoder

from workbench.system.files import LFS_HEAD

HEAD = 512  # bytes that `kind_of_file` looks at
# Named where a photo is refused; everything else that is no photo is counted only.
PHOTOS = frozenset(
    {"JPEG", "PNG", "WebP", "AVIF", "HEIC", "GIF", "BMP", "TIFF or camera raw", "camera raw", "PNM"}
    | {"JPEG 2000", "JPEG XL", "Photoshop"}
)
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF or camera raw",
    b"MM\0*": "TIFF or camera raw",
    b"II+\0": "TIFF or camera raw",
    b"MM\0+": "TIFF or camera raw",
    b"IIRO": "camera raw",
    b"IIRS": "camera raw",
    b"IIU\0": "camera raw",
    b"FUJIFILMCCD-RAW": "camera raw",
    b"FOVb": "camera raw",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP archive",
    b"PK\x05\x06": "ZIP archive",
    b"\x1f\x8b": "archive",
    b"Rar!": "archive",
    b"7z\xbc\xaf\x27\x1c": "archive",
    b"PAR1": "Parquet file",
    b"\x93NUMPY": "NumPy array",
    b"\x1aE\xdf\xa3": "video",
    LFS_HEAD: "Git LFS pointer",
}
_PNM = re.compile(rb"P[4-6]\s+(?:#|\d+\s)")
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype html|html|head)\b", re.IGNORECASE | re.DOTALL)
_SVG = re.compile(rb"(?:\s*<\?xml.*?\?>)?\s*(?:<!.*?>\s*)*<svg\b", re.IGNORECASE | re.DOTALL)
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def kind_of_file(head: bytes) -> str:
    """What a file is by its first HEAD bytes, as a noun; `unknown file` where nothing fits."""
    if not head:
        return "empty file"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return "camera raw" if head[8:10] == b"CR" and "TIFF" in kind else kind
    if head[4:8] == b"ftyp":
        return _media(head)
    if head[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "video"}.get(head[8:12], "sound")
    if head[257:262] == b"ustar":
        return "archive"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "BMP"
    for pattern, kind in ((_PNM, "PNM"), (_HTML, "web page"), (_SVG, "SVG drawing")):
        if pattern.match(head):
            return kind
    return "text file" if _is_text(head) else "unknown file"


def _media(head: bytes) -> str:
    """By the brands of an ISO base media file: HEIC, AVIF, Canon's raw photos, else a video."""
    length = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(length, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIC or head[8:12] in (b"mif1", b"msf1"):
        return "HEIC"
    return "camera raw" if b"crx " in brands else "video"


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True  # UTF-16
    if any(byte < 32 and byte not in b"\t\n\v\f\r\x1b" for byte in head):
        return False
    try:
        getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return 3 * sum(byte >= 128 for byte in head) < len(head)  # a code page of Windows
    return True
