"""Picture files that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

KINDS = {"unsigned": 1, "signed": 2, "float": 3}
"""Codes of the kinds of numbers, as TIFF counts them."""


def save_png(path: Path, values: np.ndarray, colour: int, bits: int, key: Sequence[int] = ()) -> str:
    """Writes what Pillow does not: `colour` is PNG's type, `key` the transparent value."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    flat = values.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in flat]
    else:
        per_byte = 8 // bits
        shifts = 8 - bits * (1 + np.arange(per_byte))
        lines = [(row.reshape(-1, per_byte).astype(int) << shifts).sum(axis=1).astype(np.uint8).tobytes()
                 for row in flat]  # fmt: skip
    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    parts += chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    parts += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path.name


def save_tiff(
    path: Path, values: np.ndarray, kind: str = "unsigned", photometric: int = 1, order: str = "<",
    extra: Sequence[int] = (), by_plane: bool = False,
) -> str:  # fmt: skip
    """Writes an uncompressed TIFF file of any type of number; `photometric` 0 is white at 0.

    `extra` is what samples beside the colours are: 0 is nothing known, 1 opacity that colours are multiplied by, 2
    opacity. `by_plane`: all of the first colour, then all of the second.
    """
    height, width, samples = (*values.shape, 1)[:3]
    stored = np.moveaxis(values.reshape(height, width, samples), -1, 0) if by_plane else values
    data = stored.astype(values.dtype.newbyteorder("<" if order == "<" else ">")).tobytes()
    strips = samples if by_plane else 1
    bits = [8 * values.itemsize] * samples
    tags = {256: [width], 257: [height], 258: bits, 259: [1], 262: [photometric],
            273: [8 + len(data) // strips * strip for strip in range(strips)], 277: [samples], 278: [height],
            279: [len(data) // strips] * strips, 284: [1 + by_plane], 338: extra,
            339: [KINDS[kind]] * samples}  # fmt: skip
    directory, behind = b"", b""
    tags = {tag: numbers for tag, numbers in tags.items() if numbers}
    end = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, numbers in tags.items():
        type_, letter = (4, "I") if max(numbers) > 65535 else (3, "H")
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        place = struct.pack(order + "I", end + len(behind)) if len(packed) > 4 else packed.ljust(4, b"\0")
        behind += packed if len(packed) > 4 else b""
        directory += struct.pack(order + "HHI", tag, type_, len(numbers)) + place
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    path.write_bytes(start + data + struct.pack(order + "H", len(tags)) + directory + b"\0\0\0\0" + behind)
    return path.name
