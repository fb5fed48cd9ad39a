"""Writes the demos' clips with real codecs, by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.data.clips import DEMO_RATE_HZ

FRAMES_PER_SECOND = 4
CODECS = {".mp4": ("h264", "aac"), ".avi": ("mpeg4", "mp3"), ".flv": ("flv", "mp3"), ".webm": ("vp8", "libopus")}


def save_clip(
    path: Path, frames: Sequence[np.ndarray], sound: np.ndarray | None = None, repeat: int = FRAMES_PER_SECOND
) -> None:
    """Writes a clip that shows each of `frames` (H, W, 3) uint8 for a second, with a sound track if one is given.

    Args:
        path: Its suffix, one of CODECS, chooses container and codecs.
        frames: Of even height and width.
        sound: (T,) int16 at DEMO_RATE_HZ; may be shorter or longer than the pictures.
        repeat: Frames of the clip that show each of `frames`; there are FRAMES_PER_SECOND.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    video_codec, audio_codec = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(video_codec, rate=FRAMES_PER_SECOND)
        video.width, video.height, video.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        video.codec_context.thread_count = 1
        audio: Any = None if sound is None else container.add_stream(audio_codec, rate=_rate(audio_codec))
        for number in range(repeat * len(frames)):
            frame = av.VideoFrame.from_ndarray(frames[number // repeat], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            part = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            part.sample_rate, part.pts, part.time_base = DEMO_RATE_HZ, 0, Fraction(1, DEMO_RATE_HZ)
            container.mux(audio.encode(part))
            container.mux(audio.encode(None))


def _rate(codec: str) -> int:
    """Returns a sample rate the codec takes."""
    return {"libopus": 48000, "mp3": 22050}.get(codec, DEMO_RATE_HZ)
