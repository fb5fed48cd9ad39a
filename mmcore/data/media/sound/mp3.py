"""MP3 by its frames: libmpg123, which soundfile uses, reads a part of some files and prints of damage to the terminal.

All frames go to FFmpeg's decoder as one packet, which takes no longer than libmpg123 does.

Shape legend: T samples, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mmcore.data.media.sound.samples import Samples, chained, joined
from mmcore.data.medium import Note
from mmcore.errors import DataError

KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}


RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


DECODER_DELAY = 529
"""Samples by which every layer III decoder is late."""


FEWEST_FRAMES = 3
"""In a row; what looks like fewer, behind other bytes, may be chance."""


V1_BYTES, LONG_V1_BYTES = 128, 227
"""Lengths of an ID3v1 tag, and of the longer one that may lie in front of it."""


class _Stream(NamedTuple):
    """Where the frames lie.

    Attributes:
        start: Place of the first frame with sound, in bytes.
        stop: Place behind the last one, in bytes.
        num_frames: How many.
        stated: Frames by the header that encoders write in front (Xing's), or None.
        delay: Samples in front that are the encoder's, not the sound's.
        padding: Those behind.
        notes: What was met.
    """

    start: int
    stop: int
    num_frames: int
    stated: int | None
    delay: int
    padding: int
    notes: tuple[Note, ...]


def is_mpeg(data: bytes) -> bool:
    """Returns whether a file that begins so is MPEG audio of any layer, or has an ID3 tag in front of what it is."""
    start = after_front_tags(data)
    header = data[start : start + 2]
    return start > 0 or (len(header) == 2 and header[0] == 0xFF and header[1] & 0xE0 == 0xE0 and header[1] & 6 != 0)


def read_mp3(path: Path, data: bytes) -> Samples | None:
    """Decodes layer III; None if it is something else with a tag in front, for another decoder.

    Args:
        path: The file, for messages.
        data: All of it.

    Raises:
        DataError: It ends within a frame or before its stated end, or something in it is no frame.
    """
    streams = _find(path, data)
    if len(streams) < 2:
        return _decoded(path, data, streams[0]) if streams else None
    samples = chained(path, [_decoded(path, data, stream) for stream in streams])
    note = Note("consists of several files, all of which are read", f"({len(streams)} with tags between them)")
    return samples._replace(notes=(note, *samples.notes))


def _decoded(path: Path, data: bytes, stream: _Stream) -> Samples:
    import av

    decoder: Any = av.CodecContext.create("mp3float", "r")
    decoder.thread_count = 1
    try:
        frames = decoder.decode(av.Packet(data[stream.start : stream.stop]))
    except av.FFmpegError as error:
        raise DataError(f"{path} is damaged: {error.strerror or error}; fetch it anew") from None
    if len(frames) != stream.num_frames:
        lost = stream.num_frames - len(frames)
        raise DataError(f"{path} is damaged: {lost} of its {stream.num_frames} MP3 frames can not be decoded")
    return _trimmed(joined(path, frames)._replace(notes=stream.notes), stream)


def _trimmed(samples: Samples, stream: _Stream) -> Samples:
    """Takes away what the encoder put in front and behind."""
    if stream.stated is not None and stream.stated + 1 < stream.num_frames:
        note = Note(
            "read beyond the length its header states", f"({stream.num_frames} MP3 frames, not {stream.stated})"
        )
        return samples._replace(data=samples.data[stream.delay :], notes=(*samples.notes, note))
    return samples._replace(data=samples.data[stream.delay : len(samples.data) - stream.padding])


def _find(path: Path, data: bytes) -> list[_Stream]:
    """Returns the streams of a file: several if others were joined to it, each with its tags."""
    spans: list[tuple[int, int, int]] = []
    place = after_front_tags(data)
    while True:
        stop, count = _walk(data, place)
        if count == 0 or (spans and count < FEWEST_FRAMES):
            break
        if stop > len(data):
            raise DataError(f"{path} is truncated: its last MP3 frame lacks {stop - len(data)} bytes; fetch it anew")
        spans.append((place, stop, count))
        place = _after_tags(data, stop)
        if place == stop:
            break
    notes = _junk_notes(path, data, place) if spans else ()
    streams = [_stream(path, data, *span) for span in spans]
    return [*streams[:-1], *(stream._replace(notes=notes) for stream in streams[-1:])]


def _junk_notes(path: Path, data: bytes, place: int) -> tuple[Note, ...]:
    rest = data[place:]
    if not rest.strip(b"\0"):
        return ()
    if _has_frames(rest):
        raise DataError(f"{path} is damaged: what is at byte {place} is no MP3 frame; fetch it anew")
    return (Note("left out what is behind the last MP3 frame", f"({len(rest)} bytes)"),)


def _stream(path: Path, data: bytes, start: int, stop: int, count: int) -> _Stream:
    first = _frame_length(data[start : start + 3])
    tag = _encoder_header(data[start : start + first])
    if tag is None:
        return _Stream(start, stop, count, None, 0, 0, ())
    stated, delay, padding = tag
    if stated is not None and count < stated:  # some encoders count their header as a frame
        raise DataError(f"{path} is truncated: {count - 1} MP3 frames, its header says {stated}; fetch it anew")
    return _Stream(start + first, stop, count - 1, stated, delay, padding, ())


def after_front_tags(data: bytes) -> int:
    """Returns where the ID3 tags end that a file begins with; it may be beyond `data`."""
    start = 0
    while data[start : start + 3] == b"ID3":
        start += _tag_bytes(data, start)
    return start


def _after_tags(data: bytes, place: int) -> int:
    """Returns where the whole tags end that begin at a place: ID3 of both kinds, APE, Lyrics3."""
    while (length := _tag_bytes(data, place)) and place + length <= len(data):
        place += length
    return place


def _tag_bytes(data: bytes, place: int) -> int:
    """Returns the length of the tag at a place; 0 if there is none."""
    head = data[place : place + 32]
    if head.startswith(b"ID3"):
        size = head[6:10]
        footer = 10 * (head[5] >> 4 & 1) if len(size) == 4 else 0
        return 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) + footer if len(size) == 4 else len(data)
    if head.startswith(b"TAG"):
        return LONG_V1_BYTES if head.startswith(b"TAG+") else V1_BYTES
    if head.startswith(b"APETAGEX"):
        is_header = len(head) == 32 and head[23] & 0x20
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    if head.startswith(b"LYRICSBEGIN"):
        ends = [at + 9 for end in (b"LYRICS200", b"LYRICSEND") if (at := data.find(end, place)) >= 0]
        return min(ends) - place if ends else len(data)
    return 0


def _has_frames(data: bytes) -> bool:
    """Returns whether three frames in a row lie somewhere in bytes that begin with none."""
    place = data.find(b"\xff")
    while place >= 0:
        if _walk(data[place : place + 8192], place=0)[1] >= FEWEST_FRAMES:
            return True
        place = data.find(b"\xff", place + 1)
    return False


def _walk(data: bytes, place: int) -> tuple[int, int]:
    """Returns where the frames end that follow one another from a position, and how many they are."""
    lengths: dict[bytes, int] = {}
    count = 0
    while place < len(data):
        header = data[place : place + 3]
        length = lengths.get(header)
        if length is None:
            length = lengths[header] = _frame_length(header)
        if not length:
            break
        place += length
        count += 1
    return place, count


def _frame_length(header: bytes) -> int:
    """Returns the bytes of a layer III frame whose header begins so; 0 if it is none."""
    if len(header) < 3 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, kbits = header[1] >> 3 & 3, header[2] >> 4
    rate_hz = _rate_hz(header)
    if not rate_hz:
        return 0
    bits = KBITS[3 if version == 3 else 2][kbits] * 1000
    return (144 if version == 3 else 72) * bits // rate_hz + (header[2] >> 1 & 1) if bits else 0


def _rate_hz(header: bytes) -> int:
    version, rate = header[1] >> 3 & 3, header[2] >> 2 & 3
    return RATES_HZ[version][rate] if version in RATES_HZ and rate < 3 else 0


def _encoder_header(frame: bytes) -> tuple[int | None, int, int] | None:
    """Returns what a first frame without sound tells: frames (None: not said), and samples in front and behind.

    None: the frame is no such header. The samples are those that the encoder added.
    """
    place = max(frame.find(b"Xing", 4, 44), frame.find(b"Info", 4, 44))
    if place < 0:
        return None
    flags = int.from_bytes(frame[place + 4 : place + 8], "big")
    stated = int.from_bytes(frame[place + 8 : place + 12], "big") if flags & 1 else None
    lame = place + 8 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
    delays = int.from_bytes(frame[lame + 21 : lame + 24], "big")
    if not frame[lame : lame + 4].strip(b"\0") or not delays:
        return stated, 0, 0
    return stated, (delays >> 12) + DECODER_DELAY, max(0, (delays & 4095) - DECODER_DELAY)
