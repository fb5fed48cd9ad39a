"""How many samples a FLAC file holds by its last frame, whatever its header says: libsndfile goes by the header."""

from __future__ import annotations

import re

from mmcore.data.media.sound.chunks import Source

BEGINNING = b"fLaC\0\0\0\x22"


HEADER_BYTES = 42


SIZES = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
"""Code in a frame's header -> bits of a sample; others take those of the file."""


MOST_BEHIND = 4096
"""Bytes of tags behind the last frame in spite of which it is found."""


def stated_samples(source: Source) -> int:
    """Returns how many samples a FLAC file has by its header; 0: it does not say."""
    return int.from_bytes(source.head[21:26], "big") & (1 << 36) - 1


def goes_on(source: Source) -> bool:
    """Returns whether frames seem to lie behind the last sample of which the header tells.

    Frames begin with 15 bits and a checksum of 8; that other bytes look like one happens once in some 10,000 files.
    """
    head = source.head
    if len(head) < HEADER_BYTES:
        return False
    stated, block = stated_samples(source), int.from_bytes(head[10:12], "big")
    channels, bits = (head[20] >> 1 & 7) + 1, ((head[20] & 1) << 4 | head[21] >> 4) + 1
    largest_frame = block * channels * (bits + 1) // 8 + 64
    start = max(0, source.size - largest_frame - MOST_BEHIND)
    tail = source.at(start, source.size - start)
    begins = (match.start() for match in re.finditer(rb"\xff[\xf8\xf9]", tail))
    return stated > 0 and any(_end(tail[begin : begin + 16], block, bits) > stated for begin in begins)


def _end(header: bytes, block: int, bits: int) -> int:
    """Returns behind which sample the frame ends that begins so; 0 if it is none."""
    if len(header) < 16 or header[1] & 0xFE != 0xF8 or header[3] & 1 or SIZES.get(header[3] >> 1 & 7, bits) != bits:
        return 0
    number, length = _number(header[4:])
    code, rate_code = header[2] >> 4, header[2] & 15
    size_bytes, rate_bytes = {6: 1, 7: 2}.get(code, 0), {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    behind = 4 + length
    checksum = behind + size_bytes + rate_bytes
    if not length or not code or checksum >= len(header) or _crc8(header[:checksum]) != header[checksum]:
        return 0
    if size_bytes:
        samples = int.from_bytes(header[behind : behind + size_bytes], "big") + 1
    else:
        samples = 192 if code == 1 else 144 << code if code < 6 else 1 << code
    return (number if header[1] & 1 else number * block) + samples


def _number(data: bytes) -> tuple[int, int]:
    """Returns a number as UTF-8 writes one, and how many bytes it takes; (0, 0) if there is none."""
    ones = 8 - (~data[0] & 0xFF).bit_length()
    if ones == 0:
        return data[0], 1
    rest = data[1:ones]
    if not 2 <= ones <= 7 or any(byte >> 6 != 2 for byte in rest):
        return 0, 0
    number = data[0] & 0x7F >> ones
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, ones


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 7) & 0xFF if crc & 0x80 else crc << 1
    return crc
