"""The parts a sound file consists of, by its bytes: RIFF, RF64, AIFF, CAF, W64."""

from __future__ import annotations

from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, NamedTuple

from mmcore.errors import DataError

HEAD = 4096
"""Bytes that are read at once: nearly always the whole header."""


KNOWN = frozenset(
    {b"fmt ", b"data", b"fact", b"LIST", b"bext", b"cue ", b"id3 ", b"COMM", b"SSND", b"BODY", b"MARK", b"INST"}
)


@dataclass
class Source:
    """A file's bytes by place, of which the first are read already."""

    path: Path
    file: FileIO
    head: bytes
    size: int

    def at(self, place: int, number: int) -> bytes:
        """Returns up to `number` bytes from a place."""
        if place + number <= len(self.head):
            return self.head[place : place + number]
        self.file.seek(place)
        return self.file.read(number)

    def truncated(self, stated: int) -> DataError:
        """Returns the error for a file that should have `stated` bytes."""
        return DataError(f"{self.path} is truncated: {self.size} bytes, its header says {stated}; fetch it anew")


class Chunk(NamedTuple):
    """One part of a file.

    Attributes:
        name: Its four characters, or sixteen bytes.
        begin: Where its content begins, in bytes from the file's start.
        stated: Bytes of content by its header.
    """

    name: bytes
    begin: int
    stated: int


def chunks_of(source: Source, order: Literal["little", "big"]) -> tuple[list[Chunk], int]:
    """Returns the chunks of a RIFF or AIFF file, and where they end: at the file's end, or where no chunk begins.

    A pad byte that is missing behind an odd chunk is no obstacle.
    """
    found: list[Chunk] = []
    place = 12
    while place + 8 <= source.size:
        if found and found[-1].stated % 2 and _lacks_pad(source.at(place - 1, 5)):
            place -= 1
        header = source.at(place, 8)
        name, stated = header[:4], int.from_bytes(header[4:], order)
        if name not in KNOWN and (not _is_name(name) or place + 8 + stated > source.size):
            break
        found.append(Chunk(name, place + 8, stated))
        place += 8 + stated + stated % 2
    return found, min(place, source.size)


def long_chunks_of(
    source: Source, place: int, name_bytes: int, order: Literal["little", "big"], counted: int, unit: int
) -> list[Chunk]:
    """Returns the chunks of a file whose sizes have 64 bits.

    Args:
        source: The file.
        place: Of the first chunk.
        name_bytes: Length of a name.
        order: Of the bytes of a size.
        counted: Bytes of a chunk's header that its size counts too.
        unit: To whose multiple a chunk is padded.
    """
    found = []
    header_bytes = name_bytes + 8
    while place + header_bytes <= source.size:
        header = source.at(place, header_bytes)
        stated = int.from_bytes(header[name_bytes:], order, signed=True) - counted
        found.append(Chunk(header[:name_bytes], place + header_bytes, stated))
        if stated < 0:
            break
        place += header_bytes + -(-stated // unit) * unit
    return found


def _lacks_pad(at_pad: bytes) -> bool:
    return at_pad[0] != 0 and _is_name(at_pad[:4]) and at_pad[1:5] not in KNOWN


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)
