"""What the header of a sound file states of its length, against what is there: decoders take what is there in silence.

What is stated beyond the end of the file is damage, but for the numbers of writers to a pipe, who know no length.
Formats that state none (IRCAM, PAF, ADTS …) cannot be told from a truncated file by anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from mmcore.data.media.sound import flac
from mmcore.data.media.sound.chunks import Chunk, Source, chunks_of, long_chunks_of
from mmcore.data.media.sound.joins import second_file
from mmcore.data.medium import Note
from mmcore.errors import DataError

UNKNOWN_LENGTH = 0x7FFF0000
"""From here on, a 32-bit size that the file has not is a placeholder (0x7FFFF000, 0x80000000, 0xFFFFFFFF …)."""


PLAIN_TAGS = frozenset({1, 3, 6, 7, 0xFFFE})
"""Format tags of wav files whose blocks are the samples of one moment."""


NUMBER_TAGS = frozenset({1, 3, 0xFFFE})
"""Those of plain numbers: whole, floating, and either with a longer header."""


MPEG_TAGS = frozenset({0x50, 0x55})


W64_BEGINNING = b"riff\x2e\x91\xcf\x11"


W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


OGG_PAGE = b"OggS\0"


LARGEST_OGG_PAGE = 65307


FIRST_PAGE, LAST_PAGE = 2, 4


class Plain(NamedTuple):
    """Where a wav file of 16-bit samples has them.

    Attributes:
        begin: Bytes from the file's start to the first sample.
        num_bytes: Bytes of whole samples.
        channels: Number of channels, whose samples alternate.
        rate_hz: Sample rate of the file, Hz.
        order: Order of a sample's two bytes.
    """

    begin: int
    num_bytes: int
    channels: int
    rate_hz: int
    order: Literal["little", "big"]


class Finding(NamedTuple):
    """What a look at the header gives.

    Attributes:
        notes: For people.
        repaired: The file with a header that soundfile reads rightly; None: its own will do.
        needs_av: Whether soundfile would read it wrongly.
        plain: Set if the samples need no decoder.
        links: Begin and end of each of the files in a row of which this one consists, if they are several.
        stated_samples: By the header; 0: not looked at. A decoder may give more.
    """

    notes: tuple[Note, ...] = ()
    repaired: bytes | None = None
    needs_av: bool = False
    plain: Plain | None = None
    links: tuple[tuple[int, int], ...] = ()
    stated_samples: int = 0


def look_at(source: Source) -> Finding:
    """Returns what is to be known of a file before it is decoded, by its content.

    Raises:
        DataError: It is shorter than its header says, or what the header says makes no sense.
    """
    head = source.head
    kind = head[8:12]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and kind == b"WAVE":
        return _look_at_wave(source)
    if head[:4] == b"RIFF" and kind == b"AVI ":
        return _not_cut(source, "little")  # behind the length that it states are more parts of it
    if head[:4] == b"OggS":
        return _look_at_ogg(source)
    if head[:4] == b"FORM" and kind in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return _compared(source, *chunks_of(source, "big"), (b"SSND", b"BODY"))
    if head[:4] == b"caff":
        return _compared(source, *long_chunks_of(source, 8, b"data", order="big", counted=0, unit=1), (b"data",))
    if head[:8] == W64_BEGINNING:
        chunks, end = long_chunks_of(source, 40, W64_DATA, order="little", counted=24, unit=8)
        return _compared(source, chunks, end, (W64_DATA,), reads_on=True)
    if head[:4] == b".snd":
        begin, stated = (int.from_bytes(head[place : place + 4], "big") for place in (4, 8))
        return _compared_alone(source, begin, -1 if stated == 0xFFFFFFFF else stated)
    if head[:7] == b"NIST_1A":
        return _look_at_nist(source)
    return _look_at_flac(source) if head.startswith(flac.BEGINNING) else Finding(second_file(source))


def _look_at_flac(source: Source) -> Finding:
    """FFmpeg reads on where libsndfile stops, at the stated length; but where two files meet it loses some samples."""
    notes = second_file(source)
    return Finding(notes, needs_av=not notes and flac.goes_on(source), stated_samples=flac.stated_samples(source))


def _compared_alone(source: Source, begin: int, stated: int) -> Finding:
    """Compares the sound of a format of a header and sound alone with the file."""
    return _compared(source, [Chunk(b"data", begin, stated)], begin + stated, (b"data",), reads_on=True)


def _compared(
    source: Source, chunks: Sequence[Chunk], end: int, names: tuple[bytes, ...], *, reads_on: bool = False
) -> Finding:
    """Compares the chunk with the sound with the file; one of a negative size goes on to the file's end.

    Args:
        source: The file.
        chunks: Its chunks.
        end: Where they end.
        names: Names the chunk with the sound may have.
        reads_on: Whether soundfile takes what is behind the sound for sound.
    """
    data = next((chunk for chunk in chunks if chunk.name in names), None)
    if data is None or data.stated < 0:
        return Finding(second_file(source))
    there = source.size - data.begin
    if data.stated > there:
        raise source.truncated(data.begin + data.stated)
    if data.stated == 0 and there and chunks[-1] is data:
        raise DataError(
            f"{source.path} is damaged: its header states no sound, but {there} bytes follow; write its header anew"
        )
    repaired = source.at(0, data.begin + data.stated) if reads_on and data.stated < there else None
    return Finding(_behind_notes(source.size - end), repaired)


def _look_at_wave(source: Source) -> Finding:
    order: Literal["little", "big"] = "big" if source.head[:4] == b"RIFX" else "little"
    chunks, end = chunks_of(source, order)
    form = next((chunk for chunk in chunks if chunk.name == b"fmt "), None)
    sounds = [chunk for chunk in chunks if chunk.name == b"data"]
    if form is None or not sounds:
        return _not_cut(source, order)
    if len(sounds) > 1:
        raise DataError(f"{source.path} is damaged: it has {len(sounds)} data chunks; write it anew as one")
    (data,) = sounds
    there, stated = source.size - data.begin, data.stated
    is_unknown = stated > max(there, UNKNOWN_LENGTH) or (stated == 0 and end == data.begin)
    if stated > there and not is_unknown:
        raise source.truncated(data.begin + stated)
    content = source.at(form.begin, 16)
    tag, channels, align, bits = (int.from_bytes(content[place : place + 2], order) for place in (0, 2, 12, 14))
    rate_hz = int.from_bytes(content[4:8], order)
    _refuse_contradictions(source, channels, rate_hz, align, bits if tag in NUMBER_TAGS else 0)
    number = there if is_unknown else stated
    cut = number % align if align and tag in PLAIN_TAGS else 0
    notes = (*_wave_notes(cut, 0 if is_unknown else source.size - end), *(second_file(source) if is_unknown else ()))
    if tag == 1 and bits == 16 and align == 2 * channels:
        return Finding(notes, plain=Plain(data.begin, number - cut, channels, rate_hz, order))
    is_confusing = stated == 0 or not _are_in_place(chunks, form, data)
    repaired = _rewritten(source, form, data, number, order) if is_confusing and number else None
    return Finding(notes, repaired, needs_av=tag in MPEG_TAGS)


def _refuse_contradictions(source: Source, channels: int, rate_hz: int, align: int, bits: int) -> None:
    """Refuses a wav header with which the samples could be taken in two ways; `bits` is 0 of a coded sound."""
    if not channels or not rate_hz:
        said = f"{channels} channels and {rate_hz} samples a second"
        raise DataError(f"{source.path} is damaged: its header says {said}; write its header anew")
    if bits and align not in (0, channels * -(-bits // 8)):
        said = f"{channels} channels of {bits} bits, but {align} bytes for the samples of one moment"
        raise DataError(f"{source.path} is damaged: its header says {said}; write its header anew")


def _not_cut(source: Source, order: Literal["little", "big"]) -> Finding:
    """Refuses a file that is shorter than its first chunk; what else may be wrong is left to the decoders to refuse."""
    stated = 8 + int.from_bytes(source.head[4:8], order)
    if source.size < stated < UNKNOWN_LENGTH:
        raise source.truncated(stated)
    return Finding()


def _wave_notes(cut: int, behind: int) -> tuple[Note, ...]:
    notes = _behind_notes(behind)
    return (Note("ends within a sample", f"({cut} bytes left out)"), *notes) if cut else notes


def _behind_notes(behind: int) -> tuple[Note, ...]:
    """Returns what to say of bytes behind all that the header tells of; a single one is padding."""
    if behind <= 1:
        return ()
    return (Note("left out what is behind the length its header states", f"({behind} bytes)"),)


def _are_in_place(chunks: Sequence[Chunk], form: Chunk, data: Chunk) -> bool:
    """Returns whether soundfile finds the sound: `fmt ` first, and a pad byte behind each odd chunk before it."""
    before = chunks[: chunks.index(data)]
    ends = [12, *(chunk.begin + chunk.stated + chunk.stated % 2 for chunk in before)]
    return form in before and all(chunk.begin - 8 == end for chunk, end in zip([*before, data], ends, strict=True))


def _rewritten(source: Source, form: Chunk, data: Chunk, number: int, order: Literal["little", "big"]) -> bytes:
    """Returns a wav file of the same form and the same sound alone."""
    content = source.at(form.begin, form.stated) + bytes(form.stated % 2)
    parts = [b"WAVEfmt ", len(content).to_bytes(4, order), content, b"data", number.to_bytes(4, order)]
    body = b"".join([*parts, source.at(data.begin, number)])
    return (b"RIFX" if order == "big" else b"RIFF") + len(body).to_bytes(4, order) + body


def _look_at_ogg(source: Source) -> Finding:
    """Looks at the last page: it must be whole, and say that it is the last."""
    start = max(0, source.size - 2 * LARGEST_OGG_PAGE)
    tail = source.at(start, source.size - start)
    place = tail.rfind(OGG_PAGE)
    header = tail[place : place + 27]
    table = tail[place + 27 : place + 27 + (header[26] if len(header) == 27 else 0)]
    if place < 0 or len(header) < 27 or len(table) < header[26] or place + 27 + len(table) + sum(table) > len(tail):
        raise DataError(f"{source.path} is truncated: its last Ogg page is not whole; fetch it anew")
    links = _links(source)
    if len(links) > 1:
        return Finding(links=links)
    if not header[5] & LAST_PAGE:
        return Finding((Note("may be cut off", "(its last Ogg page is not marked as such)"),), needs_av=True)
    return Finding()


def _links(source: Source) -> tuple[tuple[int, int], ...]:
    """Returns where each of the Ogg files in a row begins and ends: with the first pages of all of its streams.

    Of several, libsndfile reads the first alone, and FFmpeg loses some of the others.
    """
    content = source.at(0, source.size)
    begins, place, behind = [], 0, -1
    while (place := content.find(OGG_PAGE + bytes([FIRST_PAGE]), place)) >= 0:
        if place != behind:
            begins.append(place)
        table = content[place + 27 : place + 27 + content[place + 26]]
        place = behind = place + 27 + len(table) + sum(table)
    return tuple(pairwise([*begins, source.size]))


def _look_at_nist(source: Source) -> Finding:
    fields = dict(re.findall(rb"^(\S+) -\S+ (.+?)\s*$", source.head, re.MULTILINE))
    try:
        header = int(source.head[8:16])
        sizes = [int(fields[name]) for name in (b"sample_count", b"sample_n_bytes", b"channel_count")]
    except (ValueError, KeyError):
        return Finding()
    if b"shorten" in fields.get(b"sample_coding", b""):
        return Finding()
    return _compared_alone(source, header, sizes[0] * sizes[1] * sizes[2])
