"""Some frames of a clip as one modality.

Shape legend: T frames, C channels, H and W of the stored picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from mmcore.data.media.image import read_image
from mmcore.data.media.timeline import Timeline, about_the_middle, middles, spread
from mmcore.data.media.video import read_frames
from mmcore.data.medium import Decoded, Medium, Note, RawFolder, padded
from mmcore.data.spec import Modality

Pick = Literal["first", "spread", "uniform", "consecutive"]


class Frames(Medium):
    """Frames of a clip as (T, C, size, size) uint8; a clip may have fewer, and its length says so.

    The value is the path of a clip, or the paths of pictures that somebody took of it, in order.

    Args:
        name: Name of the modality.
        num_frames: T.
        size: Height and width, pixels.
        pick: Which of the frames: the first T; T spread as the papers do; at the middles of T equal parts; the T
            about the middle.
        per_second: The frames that are picked from are those shown at this rate, from the first on; the papers take
            one a second. None: all of the clip, of which "uniform" takes those shown at the middles of T equal
            parts of its time, one of them more than once where it has fewer.
        channels: 3 for colour, 1 for brightness, such as depth.
    """

    def __init__(
        self,
        name: str,
        num_frames: int,
        size: int,
        *,
        pick: Pick = "first",
        per_second: float | None = 1.0,
        channels: Literal[1, 3] = 3,
    ):
        self._num_frames = num_frames
        self._size = size
        self._pick = pick
        self._per_second = per_second
        self._channels: Literal[1, 3] = channels
        self.modality = Modality(name, "image", (num_frames, channels, size, size), "uint8", variable_length=True)

    def files(self, value: str | Sequence[str]) -> Iterator[str]:
        """Yields the clip, or the pictures that are taken."""
        yield from [value] if isinstance(value, str) else self._picked(value)

    def read(self, folder: RawFolder, value: str | Sequence[str]) -> Decoded:
        """Decodes a clip's frames."""
        if isinstance(value, str):
            frames, notes = read_frames(folder.path(value), self._chosen, self._size, self._channels)
        else:
            pictures = [read_image(folder.path(path), self._size) for path in self._picked(value)]
            notes = [note for picture in pictures for note in picture.notes]
            frames = np.stack([self._of_channels(picture.array) for picture in pictures])
        if len(frames) < self._num_frames:
            notes.append(Note("fewer frames than asked for", f"({len(frames)} of {self._num_frames})"))
        by_rule = {note.rule: note for note in notes}  # the pictures of a clip have mostly the same
        return Decoded(padded(frames, self._num_frames), len(frames), tuple(by_rule.values()))

    def _of_channels(self, picture: np.ndarray) -> np.ndarray:
        if self._channels == 3:
            return picture
        weights = np.array([0.299, 0.587, 0.114])  # of brightness, ITU-R BT.601, as Pillow and PyAV
        return np.rint(np.tensordot(weights, picture, axes=1)).astype(np.uint8)[None]

    def _chosen(self, timeline: Timeline) -> list[int]:
        """Returns the numbers of a clip's frames that are taken."""
        if self._per_second is None and self._pick == "uniform":
            return timeline.uniform(self._num_frames)
        numbers = list(range(len(timeline))) if self._per_second is None else timeline.at_rate(self._per_second)
        return self._picked(numbers)

    def _picked(self, frames: Sequence[Any]) -> list[Any]:
        number, wanted = len(frames), self._num_frames
        if self._pick == "first":
            return list(frames[:wanted])
        choose = {"spread": spread, "uniform": middles, "consecutive": about_the_middle}[self._pick]
        return [frames[place] for place in choose(number, wanted)]
