"""What a file is that is not read as a picture, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from mmcore.data.media.depth import BITS

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
LOOKED_AT = 1024
"""Bytes at a file's beginning."""
LONGEST_QUOTE = 40


def what_is_not_read(path: Path) -> str:
    """Returns what a file is that Pillow does not open, as far as its beginning tells, and what to do."""
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
    if start[:4] in TIFF_STARTS:
        return _of_tiff(path)
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS:
        return "it is a HEIC picture: save it as JPEG or PNG"
    if start.startswith(b"%PDF"):
        return "it is a PDF: save it as PNG"
    if b"<svg" in start:
        return "it is an SVG drawing: save it as PNG"
    words = _words(start)
    if words:
        return f"it is text ({words!r}), as a failed download leaves: get it again, or leave its row out"
    return "it is damaged, or of no format that Pillow reads: save it as JPEG or PNG"


def _of_tiff(path: Path) -> str:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        with path.open("rb") as file:
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        bits = tags[BITS]
    except (KeyError, ValueError, SyntaxError, OSError, RuntimeError):
        return "a TIFF file of a kind Pillow does not know: save it as PNG"
    cure = "PNG" if max(bits) <= 16 else "8- or 16-bit integers or 32-bit floats"
    return f"Pillow reads no TIFF file with pixels of {', '.join(map(str, bits))} bits: save it as {cure}"


def _words(start: bytes) -> str:
    """Returns the first line of a text; nothing if it is none."""
    text = start.decode("utf-8-sig", errors="ignore").strip()
    if not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable() or len(text) < len(start) / 4:
        return ""
    return text.splitlines()[0][:LONGEST_QUOTE] if text else ""
