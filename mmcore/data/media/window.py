"""Windows of clips, by PyAV, frame by frame, and the optical flow in them, by OpenCV.

Shape legend: T frames of a window, C channels, H and W of the stored picture, which is the whole frame resized.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmcore.data.media.timeline import Timeline
from mmcore.data.media.video import read_frames
from mmcore.data.medium import Decoded, Medium, Note, RawFolder
from mmcore.data.spec import Modality
from mmcore.errors import DataError

DROPPED = "taken by time stamps, since frames were dropped"
LARGEST_FLOW = 20.0
"""Pixels a frame beyond which flow is cut off, as for the published weights of flow networks."""


class Window(Medium):
    """Consecutive frames of a clip as (T, C, size, size) uint8.

    The value is [path, start, stop]: frames from `start` up to, not including, `stop`, counted from 0.

    Args:
        name: Name of the modality.
        num_frames: T, the length of every window.
        size: Height and width, pixels.
        channels: 3 for colour, 1 for brightness, such as depth.
    """

    def __init__(self, name: str, num_frames: int, size: int, channels: Literal[1, 3]):
        self._size = size
        self._channels: Literal[1, 3] = channels
        self.modality = Modality(name, "image", (num_frames, channels, size, size), "uint8")

    def files(self, value: Sequence[Any]) -> Iterator[str]:
        """Yields the clip."""
        yield str(value[0])

    def read(self, folder: RawFolder, value: Sequence[Any]) -> Decoded:
        """Decodes the frames of one window."""
        path, start, stop = value
        frames, notes = read_window(folder.path(path), start, stop, size=self._size, channels=self._channels)
        return Decoded(frames, notes=tuple(notes))


class Flow(Medium):
    """Optical flow of a clip as (T, 2, size, size) float16: pixels of the stored picture a frame, right and down.

    Flow t is where the pixels of frame t lie in frame t + 1, so it belongs to frame t pixel by pixel. The last one
    needs the frame behind the window; where the clip ends with the window it is zero. The value is as for `Window`.

    Args:
        name: Name of the modality.
        num_frames: T, the length of every window.
        size: Height and width, pixels.
    """

    def __init__(self, name: str, num_frames: int, size: int):
        self._size = size
        self.modality = Modality(name, "image", (num_frames, 2, size, size), "float16")

    def files(self, value: Sequence[Any]) -> Iterator[str]:
        """Yields the clip."""
        yield str(value[0])

    def read(self, folder: RawFolder, value: Sequence[Any]) -> Decoded:
        """Computes the flow of one window."""
        path, start, stop = value
        frames, notes = read_window(folder.path(path), start, stop, size=self._size, channels=1, one_more=True)
        flow = np.zeros(self.modality.shape, dtype=np.float16)
        for place in range(len(frames) - 1):
            flow[place] = dense_flow(frames[place, 0], frames[place + 1, 0]).transpose(2, 0, 1)
        return Decoded(flow, notes=tuple(notes))


def dense_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns where each pixel of one picture went in the next, by Farnebäck's polynomial expansion (2003).

    Args:
        first: (H, W) uint8.
        second: (H, W) uint8.

    Returns:
        (H, W, 2) float32: pixels to the right and down, cut off at LARGEST_FLOW.
    """
    import cv2

    cv2.setNumThreads(1)  # parts are prepared side by side, each on one core
    flow: Any = cv2.calcOpticalFlowFarneback(
        first, second, None, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
    )  # type: ignore[call-overload]
    cut_off: np.ndarray = np.clip(flow, -LARGEST_FLOW, LARGEST_FLOW)
    return cut_off


def read_window(
    path: Path, start: int, stop: int, *, size: int, channels: Literal[1, 3], one_more: bool = False
) -> tuple[np.ndarray, list[Note]]:
    """Reads consecutive frames of a clip, each resized as a whole.

    Where the clip's time stamps show that frames were dropped, the numbers are those the frames would have without
    the gaps, and what was dropped is what was shown: the frame before it.

    Args:
        path: The clip.
        start: First frame, counted from 0.
        stop: The frame behind the last one.
        size: Height and width, pixels.
        channels: 3 for colour, 1 for brightness.
        one_more: Whether frame `stop` is read too, if the clip has it.

    Returns:
        (T, C, size, size) uint8, and what was done.

    Raises:
        DataError: The clip is damaged, or ends within the window; the message names it.
    """
    notes: list[Note] = []

    def choose(timeline: Timeline) -> list[int]:
        places = timeline.places()
        number = int(places[-1]) + 1
        if number < stop:
            raise DataError(f"{path} is too short or truncated: {number} frames, its window is {start} to {stop}")
        wanted = np.arange(start, min(stop + one_more, number))
        dropped = number - len(timeline)
        notes[:] = [Note(DROPPED, f"({dropped} of {number})")] if dropped else []
        return [int(place) - 1 for place in np.searchsorted(places, wanted, side="right")]

    frames, done = read_frames(path, choose, size, channels, check_end=False)
    return frames, notes + done
