"""The parts a sound file consists of, by its bytes: RIFF, RF64, AIFF, CAF, W64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Literal, NamedTuple

from mmcore.errors import DataError

HEAD = 4096
"""Bytes that are read at once: nearly always the whole header."""


BLOCK = 2**18
"""Bytes that are searched at once."""


KNOWN = frozenset(
    {b"fmt ", b"data", b"fact", b"LIST", b"bext", b"cue ", b"id3 ", b"COMM", b"SSND", b"BODY", b"MARK", b"INST"}
)


class Content(BytesIO):
    """Bytes as a file, for libsndfile: what it seeks in damaged files, soundfile would print as an error."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Goes to a place; one in front of the file is left alone, which libsndfile notices by itself."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@dataclass
class Source:
    """A file's bytes by place, of which the first are read already."""

    path: Path
    file: FileIO | BytesIO
    head: bytes
    size: int

    def at(self, place: int, number: int) -> bytes:
        """Returns up to `number` bytes from a place."""
        if place + number <= len(self.head):
            return self.head[place : place + number]
        self.file.seek(place)
        return self.file.read(number)

    def find(self, wanted: bytes, place: int) -> int:
        """Returns where some bytes lie, from a place on; -1 if nowhere. Large clips are not held in memory for it."""
        while place < self.size:
            block = self.at(place, BLOCK + len(wanted) - 1)
            if block.rfind(wanted) >= 0:  # takes half the time of `find`
                return place + block.find(wanted)
            place += BLOCK
        return -1

    def part(self, begin: int, stop: int) -> Source:
        """Returns what lies from one place to another as if it were a file."""
        content = self.at(begin, stop - begin)
        return Source(self.path, Content(content), content[:HEAD], len(content))

    def to_open(self) -> str | BytesIO:
        """Returns what FFmpeg opens."""
        if isinstance(self.file, FileIO):
            return str(self.path)
        self.file.seek(0)
        return self.file

    def truncated(self, stated: int) -> DataError:
        """Returns the error for a file that should have `stated` bytes."""
        return DataError(f"{self.path} is truncated: {self.size} bytes, its header says {stated}; fetch it anew")


BEGINNINGS = frozenset(
    {b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"}
)
"""What a file begins with; within one it is no chunk, but a second file joined to it."""


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
        if stated == 0xFFFFFFFF and name == b"data":
            stated = _long_size(source, found) or stated
        if name in BEGINNINGS or (name not in KNOWN and (not _is_name(name) or place + 8 + stated > source.size)):
            break
        found.append(Chunk(name, place + 8, stated))
        place += 8 + stated + stated % 2
    return found, min(place, source.size)


def _long_size(source: Source, chunks: Sequence[Chunk]) -> int:
    """Returns the bytes of sound of an RF64 file, which has a chunk for what 32 bits cannot hold; 0: not said."""
    return next(
        (int.from_bytes(source.at(chunk.begin + 8, 8), "little") for chunk in chunks if chunk.name == b"ds64"), 0
    )


def long_chunks_of(
    source: Source, place: int, sound: bytes, *, order: Literal["little", "big"], counted: int, unit: int
) -> tuple[list[Chunk], int]:
    """Returns the chunks of a file whose sizes have 64 bits, and where they end, as `chunks_of` does.

    Args:
        source: The file.
        place: Place of the first chunk, in bytes.
        sound: Name of the chunk with the sound, as long as every name. No other chunk's size may reach
            beyond the file.
        order: Order of a size's bytes.
        counted: Bytes of a chunk's header that its size counts too.
        unit: To whose multiple a chunk is padded.
    """
    found: list[Chunk] = []
    header_bytes = len(sound) + 8
    while place + header_bytes <= source.size:
        header = source.at(place, header_bytes)
        name, begin = header[: len(sound)], place + header_bytes
        stated = int.from_bytes(header[len(sound) :], order, signed=True) - counted
        if name != sound and (name in BEGINNINGS or not 0 <= stated <= source.size - begin):
            break
        found.append(Chunk(name, begin, stated))
        if stated < 0:
            return found, source.size
        place = begin + -(-stated // unit) * unit
    return found, min(place, source.size)


def _lacks_pad(at_pad: bytes) -> bool:
    return at_pad[0] != 0 and _is_name(at_pad[:4]) and at_pad[1:5] not in KNOWN


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)
