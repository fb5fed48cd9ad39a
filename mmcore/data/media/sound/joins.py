"""Files joined one behind the other: decoders read the first alone, or the second's header as sound."""

from __future__ import annotations

from mmcore.data.media.sound.chunks import Source
from mmcore.data.medium import Note

BEGINNINGS = {
    0: (
        b"fLaC\0\0\0\x22", b".snd\0\0\0", b"caff\0\1\0\0", b"FLV\1", b"TTA1", b"Creative Voice File", b"2BIT",
        b"MATLAB 5.0 MAT-file", b"NIST_1A\n", b"ALawSoundFile", b"PVF1\n", b" paf", b"fap ", b"Extended Instrument: ",
        b"\xf0\x7e\0\1", b"\x64\xa3\1\0", b"\x64\xa3\2\0", b"\x64\xa3\3\0", b"\x64\xa3\4\0",
    ),
    8: (b"WAVEfmt ",),
    20: (b"samplerate\0",),
}  # fmt: skip
"""Place -> what lies there in files of formats that begin once; others, such as MPEG's, begin anew with each frame.

MATLAB 4 files name their rate first.
"""


FEWEST_BYTES = 8
"""By which a beginning is told from what lies there by chance."""


def second_file(source: Source) -> tuple[Note, ...]:
    """Returns what to say of a second file behind the first; nothing where there is none."""
    if source.head[4:8] in (b"ftyp", b"moov", b"wide", b"mdat", b"free", b"skip"):
        place = _second_movie(source)
    else:
        place = _second_beginning(source)
    return (Note("a second file begins within it", f"(at byte {place})"),) if place > 0 else ()


def _second_beginning(source: Source) -> int:
    """Returns where a file begins again as this one does; 0 if nowhere, or if the format is none of `BEGINNINGS`."""
    for at, beginnings in BEGINNINGS.items():
        for beginning in beginnings:
            if source.head.startswith(beginning, at):
                own = source.head[at : at + max(FEWEST_BYTES, len(beginning))]
                return max(0, source.find(own, at + len(own)) - at)
    return 0


def _second_movie(source: Source) -> int:
    """Returns where the second file of MP4's kind begins, by its second box `ftyp` or `moov`; 0 if there is none."""
    seen: set[bytes] = set()
    place = 0
    while place + 8 <= source.size:
        header = source.at(place, 16)
        name, length = header[4:8], int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if name in seen:
            return place
        if name in (b"ftyp", b"moov"):
            seen.add(name)
        if length < 8:  # to the file's end, or no box
            break
        place += length
    return 0
