"""The sound of clips, and of files that soundfile does not know, by PyAV, on the file's own clock.

Shape legend: T samples, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcore.data.media.sound.samples import Samples, joined
from mmcore.data.medium import MissingMedium, Note, decoding_errors
from mmcore.errors import DataError

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, VideoStream
    from av.container import InputContainer

SMALLEST_GAP_S = 0.015
"""Shorter ones are rounded or uneven time stamps; the shortest packets in use are of 20 ms."""


LATEST_START_S = 0.1
"""By which sound may begin behind the pictures without silence in front: encoders shift both by some packets."""


LONGEST_GAP_S = 600.0
"""Beyond it, time stamps are wrong."""


MOST_MISSING_S, MOST_MISSING_WITH_PICTURES_S = 0.25, 2.0
"""By which sound may end before its stated end; that of clips may have been cut with the pictures."""


UNKNOWN = "it is damaged, of no format known here, or has no header; fetch it anew, or convert it to flac"


PICTURES = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
"""Pillow's names of formats that begin with something of their own; FFmpeg takes some for pictures by their names."""


STATE_LENGTH = frozenset({"mov", "matroska", "flv", "avi", "asf", "wav", "w64", "caf", "tta", "ape", "flac"})
"""Formats whose headers say how long they are; of the others FFmpeg guesses."""


def read_track(path: Path, content: str | BytesIO) -> Samples:
    """Decodes the first sound track of a file, whatever format it has.

    A gap in its time stamps is filled with silence, and so is the time by which it begins behind the pictures.

    Args:
        path: The file, for messages.
        content: Its path, or what of it is to be decoded.

    Raises:
        DataError: The file is of no known format, damaged or truncated; the message names it.
        MissingMedium: It is whole and has no sound.
    """
    import av

    try:
        with av.open(content, "r") as container:
            return _read(path, container)
    except av.InvalidDataError:
        raise DataError(f"{path} can not be read as audio: {UNKNOWN}") from None
    except decoding_errors() as error:
        raise DataError(f"{path} can not be read as audio: {getattr(error, 'strerror', None) or error}") from None


def _read(path: Path, container: InputContainer) -> Samples:
    tracks = container.streams.audio
    if container.format.name.startswith("image2") or container.format.name.endswith("_pipe"):
        raise DataError(f"{path} can not be read as audio: {'it is a picture' if _is_picture(path) else UNKNOWN}")
    frames = _decoded(path, container, tracks[0]) if tracks else []
    if not frames:
        kind = MissingMedium if _pictures(container) else DataError  # no clip: damage, or no sound file at all
        raise kind(f"{path} holds no sound: its sound track is empty" if tracks else f"{path} holds no sound track")
    runs = _runs(path, frames, _start_of_pictures(container))
    samples = joined(path, frames)
    notes = [Note("first of several sound tracks taken", f"(of {len(tracks)})")] if len(tracks) > 1 else []
    if any(gap for gap, _ in runs):
        samples = _with_silence(samples, runs)
        filled_s = sum(gap for gap, _ in runs) / samples.rate_hz
        notes.append(Note("silence put where the sound track has a gap", f"({filled_s:.2f} s)"))
    return samples._replace(notes=tuple(notes))


def _is_picture(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=PICTURES):
            return True
    except UnidentifiedImageError:
        return False


def _decoded(path: Path, container: InputContainer, track: AudioStream) -> list[AudioFrame]:
    """Decodes all frames of a track, and refuses it where it ends before its header says."""
    if track.codec_context is None:
        raise DataError(f"{path} can not be read as audio: there is no decoder for its sound; convert it to flac")
    track.codec_context.thread_count = 1  # parts are prepared side by side, each on one core
    stated_s = _stated_end(container, track)
    frames: list[AudioFrame] = []
    last_s = 0.0
    for packet in container.demux(track):
        if packet.is_corrupt:
            raise DataError(f"{path} is truncated or damaged at {last_s:.1f} s of its sound; fetch it anew")
        if packet.pts is not None and packet.time_base is not None:
            last_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        frames += packet.decode()
    most_s = MOST_MISSING_WITH_PICTURES_S if _pictures(container) else MOST_MISSING_S
    if last_s < stated_s - most_s:
        raise DataError(
            f"{path} is truncated: sound to {last_s:.1f} s, its header says {stated_s:.1f} s; fetch it anew"
        )
    return frames


def _stated_end(container: InputContainer, track: AudioStream) -> float:
    """Returns where a track ends by the file's header, in seconds on its own clock; 0 if it does not say."""
    if container.format.name.split(",")[0] not in STATE_LENGTH:
        return 0.0
    start_s = float((track.start_time or 0) * (track.time_base or 0))
    if track.duration is not None and track.time_base is not None:
        return start_s + float(track.duration * track.time_base)
    clock = track.metadata.get("DURATION", "").split(":")
    if len(clock) == 3:
        return int(clock[0]) * 3600 + int(clock[1]) * 60 + float(clock[2])
    return 0.0 if _pictures(container) else start_s + (container.duration or 0) / 1e6


def _pictures(container: InputContainer) -> list[VideoStream]:
    """Returns the streams of moving pictures; the cover of a song is none."""
    from av.stream import Disposition

    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _start_of_pictures(container: InputContainer) -> float | None:
    for stream in _pictures(container):
        if stream.start_time is not None and stream.time_base is not None:
            return float(stream.start_time * stream.time_base)
    return None


def _runs(path: Path, frames: Sequence[AudioFrame], start_s: float | None) -> list[tuple[int, int]]:
    """Returns (samples of silence, samples of sound behind it), in order, by the frames' time stamps."""
    runs = [(0, 0)]
    rate_hz, place, origin_s = frames[0].sample_rate, 0, start_s
    for frame in frames:
        if frame.time is not None:
            origin_s = frame.time if origin_s is None else origin_s
            gap = round((frame.time - origin_s) * rate_hz) - place
            if gap > LONGEST_GAP_S * rate_hz:
                raise DataError(f"{path} is damaged: the time stamps of its sound jump by {gap / rate_hz:.0f} s")
            if gap >= (SMALLEST_GAP_S if place else LATEST_START_S) * rate_hz:
                runs.append((gap, 0))
                place += gap
            elif not place:
                origin_s = frame.time
        runs[-1] = (runs[-1][0], runs[-1][1] + frame.samples)
        place += frame.samples
    return runs


def _with_silence(samples: Samples, runs: Sequence[tuple[int, int]]) -> Samples:
    parts, place = [], 0
    for gap, number in runs:
        parts.append(np.zeros((gap, samples.data.shape[1]), dtype=samples.data.dtype))
        parts.append(samples.data[place : place + number])
        place += number
    return samples._replace(data=np.concatenate(parts))
