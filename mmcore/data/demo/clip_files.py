"""Writes the demos' clips with real codecs, by PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.data.demo import make

FRAMES_PER_SECOND = 4


CODECS = {".mp4": ("h264", "aac"), ".avi": ("mpeg4", "mp3"), ".flv": ("flv", "mp3"), ".webm": ("vp8", "libopus")}


def save_clip(
    path: Path, frames: Sequence[np.ndarray], sound: np.ndarray | None = None, repeat: int = FRAMES_PER_SECOND
) -> None:
    """Writes a clip that shows each of `frames` (H, W, 3) uint8 for a second, with a sound track if one is given.

    Args:
        path: Its suffix, one of CODECS, chooses container and codecs.
        frames: Pictures of even height and width.
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


DEMO_RATE_HZ, DEMO_SECONDS, DEMO_SIZE = 8000, 1.0, 24


def demo_sound(label: int, clarity: float, num_classes: int, generator: np.random.Generator) -> np.ndarray:
    """Returns a clip's sound in a demo, (T,) int16: a tone whose pitch tells the class, in noise.

    With probability 1 - `clarity` the pitch is drawn instead.
    """
    if generator.random() >= clarity:
        label = int(generator.integers(num_classes))
    seconds = generator.uniform(0.6, 1.0) * DEMO_SECONDS
    time_s = np.arange(round(seconds * DEMO_RATE_HZ)) / DEMO_RATE_HZ
    pitch_hz = 300 * 1.25**label * generator.uniform(0.97, 1.03)
    wave = np.sin(2 * np.pi * pitch_hz * time_s + generator.uniform(0, 6)) + generator.normal(size=len(time_s))
    return np.clip(np.round(6000 * wave), -32768, 32767).astype(np.int16)


def demo_frames(
    label: int, clarity: float, num_classes: int, number: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields a clip's frames in a demo; all of them tell the same class, or all none."""
    if generator.random() >= clarity:
        label = int(generator.integers(num_classes))
    for _ in range(number):
        yield make.picture(label, num_classes, 1.0, generator)


def save_sound(path: Path, wave: np.ndarray) -> None:
    """Writes a demo's sound as a wav file."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), wave, DEMO_RATE_HZ)
