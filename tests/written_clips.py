"""Clips written for tests: pictures that can be told from each other, shown at given times."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

SIDE = 8
"""Height and width of stored frames."""


def plain(value: int) -> np.ndarray:
    return np.full((32, 48, 3), value, dtype=np.uint8)


def write(
    path: Path,
    pictures: Sequence[np.ndarray],
    times_ms: Sequence[int],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> str:
    """Writes a clip of 10 frames a second whose frames are shown from the given times on."""
    by_number = codec != "libx264" or path.suffix == ".avi"  # whose times are numbers of frames
    with av.open(str(path), "w", options=container_options or {}) as container:
        video: Any = container.add_stream(codec, rate=10, options=options or {})
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.codec_context.thread_count = 1
        video.bit_rate = 4_000_000
        if not by_number:
            video.codec_context.time_base = Fraction(1, 1000)
        for picture, time_ms in zip(pictures, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = time_ms // 100 if by_number else time_ms
            frame.time_base = Fraction(1, 10 if by_number else 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path.name


def numbered(number: int) -> list[np.ndarray]:
    """Plain pictures, each of another grey."""
    return [plain(20 + 220 * place // number) for place in range(number)]


def numbers_of(array: np.ndarray, number: int) -> list[int]:
    """Which of `numbered(number)` stored frames are."""
    return [int(np.rint((frame.mean() - 20) * number / 220)) for frame in array]


@lru_cache
def textures(number: int, side: int = 48) -> list[np.ndarray]:
    """A drifting pattern: frames that are made from others differ from each of them."""
    y, x = np.mgrid[:side, :side]
    layers = [np.sin(x / 5) * np.cos(y / 7), np.sin((x + y) / 9), np.cos(x / 3 - y / 4)]
    return [
        np.stack([np.roll(128 + 100 * layer, (place, 2 * place), (0, 1)) for layer in layers], -1).astype(np.uint8)
        for place in range(number)
    ]


def all_frames(path: Path) -> list[np.ndarray]:
    """Every frame, decoded one after another."""
    with av.open(str(path)) as container:
        return [
            frame.reformat(SIDE, SIDE, "rgb24", interpolation="BILINEAR").to_ndarray().transpose(2, 0, 1)
            for packet in container.demux(video=0)
            for frame in packet.decode()
        ]
