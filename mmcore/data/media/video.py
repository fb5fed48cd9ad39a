"""Frames of clips, by PyAV: the wanted ones upright, and little else decoded.

The packets of a clip tell, before anything is decoded, when its frames are shown. For each wanted frame decoding
begins at the key frame before it, and leaves out the frames between that no other is made from. Where packets do not
tell (raw streams, B-frames in AVI, hidden frames), all of the clip is decoded first.

Shape legend: T frames, C channels, H and W of the stored picture, which is the whole frame resized.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mmcore.data.media.timeline import Timeline
from mmcore.data.medium import Note, decoding_errors
from mmcore.errors import DataError

if TYPE_CHECKING:
    from av import CodecContext, Packet, VideoCodecContext, VideoFrame, VideoStream
    from av.container import InputContainer

CLIP_SUFFIXES = frozenset({".mp4", ".avi", ".flv", ".webm", ".mkv", ".mov"})
MOST_MISSING_S = 2.0
"""Seconds by which pictures may end before the file's stated end; sound often goes on a little longer."""
PIXELS = {1: "gray", 3: "rgb24"}
HELD_BYTES = 2**26
"""Most bytes of a clip's packets that are kept from inspection to decoding; a larger clip is opened twice."""
GUESSED_RATE = 25.0
"""Frames a second of a stream that says nothing of its own times: FFmpeg's own guess."""
IDR = 5
"""H.264's type of unit that begins anew."""
NO_TIMES = 0x80
"""FFmpeg's mark of formats that are streams alone (AVFMT_NOTIMESTAMPS)."""
OWN_RATE = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs whose streams state their rate: it is kept where no container gives times."""
SEES_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codec -> the decoder that reads the opacity that WebM keeps beside a picture; FFmpeg's own leave it out."""
TURNED = Note("turned upright by its display matrix")
COMPOSED = Note("composed on white")
GUESSED = "at an assumed rate, since the stream holds no times"

Choose = Callable[[Timeline], Sequence[int]]


class Picture(NamedTuple):
    """A decoded frame, (size, size, C) uint8, and what was done to it."""

    array: np.ndarray
    notes: list[Note]


class PacketInfo(NamedTuple):
    """What a packet says of its frame.

    Attributes:
        pts: When it is shown, in the stream's unit.
        dts: When it is decoded.
        duration: For how long; 0: it does not say.
        is_start: Whether decoding can begin with it.
        is_shown: Whether it is shown at all.
    """

    pts: int | None
    dts: int | None
    duration: int
    is_start: bool
    is_shown: bool


class Packets(NamedTuple):
    """A clip's packets in the order of decoding.

    Attributes:
        infos: Facts about each packet that holds something.
        held: The packets themselves, unless they are too many.
        unit_s: Unit of their times, seconds.
        rate: Frames a second.
        rate_is_guessed: Whether they are FFmpeg's guess, and not the stream's own word.
        stated_s: How long the pictures go on by the file's own header; 0 if it does not say.
        tell_times: Whether their times are those at which frames are shown.
        last_until_next: Whether their durations are the steps from one to the next that is decoded, as in MP4 and
            MOV, and not how long they are shown.
        decoder: What decodes them, where the stream's own would leave something out.
        notes: What is known so far that a person should know.
    """

    infos: list[PacketInfo]
    held: list[Packet[VideoStream]] | None
    unit_s: float
    rate: float
    rate_is_guessed: bool
    stated_s: float
    tell_times: bool
    last_until_next: bool
    decoder: str | None
    notes: list[Note]

    def timeline(self) -> tuple[Timeline, list[int]]:
        """Returns when frames are shown, and their times in the stream's unit."""
        shown = sorted((info for info in self.infos if info.is_shown), key=_time)
        times = [_time(info) for info in shown]
        last_s = self._duration(shown[-1]) * self.unit_s
        return Timeline([pts * self.unit_s for pts in times], last_s, self.unit_s), times

    def _duration(self, last: PacketInfo) -> int:
        """Returns for how long the last shown frame is shown, in the stream's unit; 0: the packets do not say."""
        if not self.last_until_next:
            return last.duration
        times = sorted(_time(info) for info in self.infos)
        if _time(last) < times[-1]:  # what comes behind it is cut off by an edit list
            return next(pts for pts in times if pts > _time(last)) - _time(last)
        # Where every frame is shown as long after one is decoded, both end alike: with the last that is decoded.
        shifts = [pts - (info.dts or 0) for pts, info in zip(times, self.infos, strict=True)]
        is_steady = max(shifts) - min(shifts) <= np.median(np.diff(times)) / 2 if len(times) > 1 else True
        return self.infos[-1].duration if is_steady else 0


def read_frames(
    path: Path, choose: Choose, size: int, channels: Literal[1, 3], *, check_end: bool = True
) -> tuple[np.ndarray, list[Note]]:
    """Reads chosen frames of a clip, each resized as a whole and upright.

    Args:
        path: The clip.
        choose: Returns the numbers of the wanted frames, in the order they are shown in; one may come twice.
        size: Height and width, pixels.
        channels: 3 for colour, 1 for brightness.
        check_end: Whether a clip that ends long before its header says is refused.

    Returns:
        (T, C, size, size) uint8, and what was done.

    Raises:
        DataError: The clip is damaged, ends before its own stated end, or has no frame; the message names it.
    """
    packets = _read_packets(path)
    notes = list(packets.notes)
    found: dict[int, Picture] | None = None
    if packets.tell_times:
        timeline, times = packets.timeline()
        if check_end:
            _check_end(path, packets, times[-1] * packets.unit_s, timeline)
        wanted = [times[number] for number in choose(timeline)]
        found = _decode_wanted(path, packets, frozenset(wanted), size, PIXELS[channels])
    if found is None or not found.keys() >= set(wanted):  # a packet that makes no frame: what is shown is not known yet
        timeline = _decoded_timeline(path, packets, notes)
        if check_end:
            _check_end(path, packets, timeline.end_s, timeline)
        wanted = list(choose(timeline))
        found = _decode_numbers(path, packets, frozenset(wanted), size, PIXELS[channels])
    pictures = [found[key] for key in wanted]
    array = np.stack([picture.array for picture in pictures]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array), list(dict.fromkeys([*notes, *(note for one in pictures for note in one.notes)]))


def _check_end(path: Path, packets: Packets, last_s: float, timeline: Timeline) -> None:
    # The header may count from the clip's first frame or from 0.
    there_s = max(last_s, timeline.end_s)
    if there_s < packets.stated_s - MOST_MISSING_S:
        raise DataError(f"{path} is truncated: pictures for {there_s:.1f} s, its header says {packets.stated_s:.1f} s")


def _read_packets(path: Path) -> Packets:
    """Looks at a clip's packets.

    Raises:
        DataError: It is no clip, or has no pictures.
    """
    infos: list[PacketInfo] = []
    held: list[Packet[VideoStream]] | None = []
    num_bytes = 0
    with _pictures(path) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        for packet in container.demux(stream):
            if not packet.size:
                continue  # a frame that was dropped, or the end
            infos.append(_info(packet, codec))
            num_bytes += packet.size
            if held is not None:
                held.append(packet)
            if num_bytes > HELD_BYTES:
                held = None
        times = [info.pts for info in infos if info.is_shown]
        is_timeless = bool(container.format.flags & NO_TIMES)
        rate = float(stream.average_rate or GUESSED_RATE)
        notes = [_guessed(rate)] if is_timeless and codec.name not in OWN_RATE else []
        has_alpha = stream.metadata.get("alpha_mode") == "1"
        reordered_in_avi = container.format.name == "avi" and codec.has_b_frames
        return Packets(
            infos,
            held,
            float(stream.time_base or 0),
            rate,
            is_timeless or not stream.average_rate,
            _stated_seconds(container),
            bool(times) and None not in times and len(set(times)) == len(times) and not reordered_in_avi,
            "mp4" in container.format.name,
            SEES_ALPHA.get(codec.name) if has_alpha else None,
            notes,
        )


def _guessed(rate: float) -> Note:
    return Note(GUESSED, f"({rate:.10g} frames a second)")


def _info(packet: Packet[VideoStream], codec: CodecContext) -> PacketInfo:
    # VP8 keeps frames that are never shown in packets of their own: a bit of the first byte says so.
    is_hidden = codec.name in ("vp8", "libvpx") and not memoryview(packet)[0] >> 4 & 1
    is_start = packet.is_keyframe and (codec.name != "h264" or _holds_idr(bytes(packet), codec.extradata))
    return PacketInfo(packet.pts, packet.dts, packet.duration or 0, is_start, not (is_hidden or packet.is_discard))


def _holds_idr(data: bytes, extradata: bytes | None) -> bool:
    """Returns whether a packet of H.264 makes what follows independent of what came before.

    Others are called key frames, too, from which a decoder recovers only frame by frame, or not (intra refresh).
    """
    if not extradata or extradata[0] != 1:  # units behind start codes
        return re.search(rb"\x00\x00\x01[\x05\x25\x45\x65]", data) is not None
    size = (extradata[4] & 3) + 1  # of the length in front of each unit
    place = 0
    while place + size < len(data):
        if data[place + size] & 31 == IDR:
            return True
        place += size + int.from_bytes(data[place : place + size])
    return False


def _again(path: Path, packets: Packets) -> Iterator[Packet[VideoStream]]:
    """Yields the packets once more."""
    if packets.held is not None:
        yield from packets.held
        return
    with _pictures(path) as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _decode_wanted(path: Path, packets: Packets, wanted: frozenset[int], size: int, pixels: str) -> dict[int, Picture]:
    """Returns time -> frame of the wanted times, of those that decoding gives."""
    found: dict[int, Picture] = {}
    runs = _runs(packets.infos, wanted)
    codec: VideoCodecContext | None = None
    with _damage_named(path):
        for number, packet in enumerate(_again(path, packets)):
            if not runs:
                break
            start, stop = runs[0]
            if number < start:
                continue
            codec = codec or _decoder(packets, packet.stream.codec_context)
            codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            frames = _decoded(path, number, packet, codec)
            if number == stop:
                frames += codec.decode(None)
                codec.flush_buffers()
                runs.pop(0)
            found |= {
                frame.pts: _picture(path, frame, size, pixels)
                for frame in frames
                if frame.pts in wanted and frame.pts not in found
            }
    return found


def _runs(infos: Sequence[PacketInfo], wanted: frozenset[int]) -> list[tuple[int, int]]:
    """Returns the runs of packets, first and last, that the wanted frames are made from."""
    runs: list[tuple[int, int]] = []
    starts: list[int] = []
    for number, info in enumerate(infos):
        if info.is_start:
            starts.append(number)
        if info.pts not in wanted or not info.is_shown:
            continue
        # Frames that come behind a key frame and are shown before it are made from what lies before it.
        start = next((start for start in reversed(starts) if _time(infos[start]) <= _time(info)), 0)
        if runs and start <= runs[-1][1] + 1:
            runs[-1] = (min(start, runs[-1][0]), number)
        else:
            runs.append((start, number))
    return runs


def _time(info: PacketInfo) -> int:
    return info.pts or 0


def _decoded_timeline(path: Path, packets: Packets, notes: list[Note]) -> Timeline:
    """Decodes all of a clip for the times of its frames alone; notes a rate that nobody stated."""
    times: list[int | None] = []
    with _damage_named(path):
        for _, frame in _all_frames(path, packets):
            times.append(frame.pts)
    if not times:
        raise DataError(f"{path} holds no pictures")
    known = sorted(time for time in times if time is not None)
    if len(set(known)) < len(times):  # no times, or not one for each
        if packets.rate_is_guessed and _guessed(packets.rate) not in notes:
            notes.append(_guessed(packets.rate))
        return Timeline(np.arange(len(times)) / packets.rate)
    return Timeline([time * packets.unit_s for time in known], unit_s=packets.unit_s)


def _decode_numbers(path: Path, packets: Packets, wanted: frozenset[int], size: int, pixels: str) -> dict[int, Picture]:
    """Returns number -> frame of the wanted numbers, decoding all up to the last."""
    found: dict[int, Picture] = {}
    with _damage_named(path):
        for number, frame in _all_frames(path, packets):
            if number in wanted:
                found[number] = _picture(path, frame, size, pixels)
            if len(found) == len(wanted):
                break
    return found


def _all_frames(path: Path, packets: Packets) -> Iterator[tuple[int, VideoFrame]]:
    """Yields a clip's frames and their numbers."""
    with _pictures(path) as container:
        codec = _decoder(packets, container.streams.video[0].codec_context)
        number = 0
        for packet in container.demux(video=0):
            for frame in _decoded(path, number, packet, codec) if packet.size else []:
                yield number, frame
                number += 1
        for frame in codec.decode(None):
            yield number, frame
            number += 1


def _decoder(packets: Packets, codec: VideoCodecContext) -> VideoCodecContext:
    """Returns what decodes a clip: the stream's own `codec`, or a new one."""
    import av

    if packets.decoder is None:
        return codec
    decoder = av.CodecContext.create(packets.decoder, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = codec.extradata
    return decoder


def _decoded(path: Path, number: int, packet: Packet[VideoStream], codec: VideoCodecContext) -> list[VideoFrame]:
    """Decodes a packet; one whose data are cut off is refused, since decoders patch it with what came before."""
    if packet.is_corrupt:
        raise DataError(f"{path} is truncated in frame {number}")
    return codec.decode(packet)


def _picture(path: Path, frame: VideoFrame, size: int, pixels: str) -> Picture:
    """Returns a frame resized as a whole, then turned as its file says: a square's sides are alike."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data  # PyAV's types know names alone for keys
    data = side_data.get(Type.DISPLAYMATRIX)
    frame, notes = _opaque(frame)
    array = frame.reformat(size, size, pixels, interpolation="BILINEAR").to_ndarray().reshape(size, size, -1)
    if data is None:
        return Picture(array, notes)
    # Where a step to the right and a step down lead, each to the right and down.
    (a, b), (c, d) = np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)[:2, :2].tolist()
    if a and d and not (b or c):
        return Picture(array[:: _sign(d), :: _sign(a)], [*notes, TURNED] if a < 0 or d < 0 else notes)
    if b and c and not (a or d):
        return Picture(array.swapaxes(0, 1)[:: _sign(b), :: _sign(c)], [*notes, TURNED])
    raise DataError(f"{path} is turned by a display matrix of no right angle: save its pictures upright")


def _opaque(frame: VideoFrame) -> tuple[VideoFrame, list[Note]]:
    """Returns a frame on white where it is transparent, and notes it."""
    if not (frame.format.has_palette or any(component.is_alpha for component in frame.format.components)):
        return frame, []
    pixels = frame.to_ndarray(format="rgba")
    colours, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
    if alpha.min() == 255:
        return frame, []
    composed = (colours * alpha + 255 * (255 - alpha) + 127) // 255
    return type(frame).from_ndarray(composed.astype(np.uint8), format="rgb24"), [COMPOSED]


def _sign(number: int) -> int:
    return 1 if number > 0 else -1


@contextmanager
def _pictures(path: Path) -> Iterator[InputContainer]:
    """Opens a clip that has pictures; what decoding raises names it."""
    with opened(path) as container:
        if not container.streams.video:
            raise DataError(f"{path} holds no pictures")
        with _damage_named(path):
            yield container


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except decoding_errors() as error:
        raise DataError(f"{path} can not be read as a clip: {error}") from None


def _stated_seconds(container: InputContainer) -> float:
    """Returns how long the pictures go on by the file's own header; 0 if it does not say."""
    stream = container.streams.video[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def opened(path: Path) -> InputContainer:
    """Opens a clip.

    Raises:
        DataError: It is no clip; the message names it.
    """
    import av

    try:
        return av.open(str(path))
    except decoding_errors() as error:
        raise DataError(f"{path} can not be read as a clip: {error}") from None
