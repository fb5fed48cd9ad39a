"""Clips, by PyAV: frames at one a second.

Shape legend: T frames, C = 3 channels, H and W of the stored picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmcore.data.media.base import Decoded, Medium, Note, RawFolder, padded
from mmcore.data.media.image import read_image
from mmcore.data.spec import Modality
from mmcore.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

CLIP_SUFFIXES = frozenset({".mp4", ".avi", ".flv", ".webm", ".mkv", ".mov"})
MOST_MISSING_S = 2.0
"""Seconds by which pictures may end before the file's stated end; sound often goes on a little longer."""


class Frames(Medium):
    """Frames of a clip as (T, 3, size, size) uint8; a clip may have fewer, and its length says so.

    The value is the path of a clip, of which the first frame of each second is taken, or the paths of pictures
    that somebody took of it that way, in order.

    Args:
        name: Of the modality.
        num_frames: T.
        size: Height and width, pixels.
        pick: Which of a clip's frames: the first T, or T spread evenly over it.
    """

    def __init__(self, name: str, num_frames: int, size: int, pick: Literal["first", "spread"] = "first"):
        self._num_frames = num_frames
        self._size = size
        self._pick = pick
        self.modality = Modality(name, "image", (num_frames, 3, size, size), "uint8", variable_length=True)

    def files(self, value: str | Sequence[str]) -> Iterator[str]:
        """Yields the clip, or the pictures that are taken."""
        yield from [value] if isinstance(value, str) else self._picked(value)

    def read(self, folder: RawFolder, value: str | Sequence[str]) -> Decoded:
        """Decodes a clip's frames."""
        if isinstance(value, str):
            frames = self._picked(read_seconds(folder.path(value), self._size))
        else:
            frames = [read_image(folder.path(path), self._size) for path in self._picked(value)]
        is_short = len(frames) < self._num_frames
        notes = (Note("short:", f"{len(frames)} of {self._num_frames} frames"),) if is_short else ()
        return Decoded(padded(np.stack(frames), self._num_frames), len(frames), notes)

    def _picked(self, frames: Sequence[Any]) -> list[Any]:
        if self._pick == "first" or len(frames) <= self._num_frames:
            return list(frames[: self._num_frames])
        places = np.linspace(0, len(frames) - 1, self._num_frames + 2)[1:-1]
        return [frames[round(place)] for place in places]


def read_seconds(path: Path, size: int) -> list[np.ndarray]:
    """Reads the first frame of each second of a clip, resized as a whole, each (3, size, size) uint8.

    Raises:
        DataError: The clip is damaged, ends before its own stated end, or has no frame; the message names it.
    """
    frames: list[np.ndarray] = []
    last_s = 0.0
    with opened(path) as container:
        if not container.streams.video:
            raise DataError(f"{path} holds no pictures")
        stated_s = _stated_seconds(container)
        try:
            for frame in container.decode(video=0):
                last_s = frame.time or 0.0
                if last_s >= len(frames):
                    resized = frame.reformat(width=size, height=size, format="rgb24", interpolation="BILINEAR")
                    frames.append(np.ascontiguousarray(resized.to_ndarray().transpose(2, 0, 1)))
        except decoding_errors() as error:
            raise DataError(f"{path} can not be read as a clip: {error}") from None
    if not frames:
        raise DataError(f"{path} holds no pictures")
    if last_s < stated_s - MOST_MISSING_S:
        raise DataError(f"{path} is truncated: pictures for {last_s:.1f} s, its header says {stated_s:.1f} s")
    return frames


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


def decoding_errors() -> tuple[type[Exception], ...]:
    """Returns what PyAV raises at a damaged clip."""
    import av

    return (av.FFmpegError, OSError, ValueError)
