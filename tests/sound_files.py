"""Sound files of every kind for tests, whole, odd and damaged."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE_HZ = 16000


def tone(rate_hz: int = RATE_HZ, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    """A tone of 440 Hz, float."""
    return amplitude * np.sin(2 * np.pi * 440 * np.arange(round(rate_hz * seconds)) / rate_hz)


def as_int16(wave: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def error(wave: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, full scale 1, away from the ends, where codecs swing."""
    number = min(len(wave), len(expected)) - 1500
    return float(np.abs(wave[1500:number] / 32768 - expected[1500:number]).max())


def chunk(name: bytes, content: bytes, stated: int | None = None, pad: bool = True) -> bytes:
    size = len(content) if stated is None else stated
    return name + struct.pack("<I", size) + content + (b"\0" if pad and len(content) % 2 else b"")


def wave_file(path: Path, *chunks: bytes, stated: int | None = None) -> Path:
    """A wav file of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) if stated is None else stated) + body)
    return path


def form(bits: int = 16, channels: int = 1, rate_hz: int = RATE_HZ) -> bytes:
    """A `fmt ` chunk of PCM."""
    align = bits // 8 * channels
    return chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * align, align, bits))


def save_by_av(
    path: Path,
    codec: str,
    wave: np.ndarray,
    rate_hz: int,
    pictures: int = 0,
    tracks: int = 1,
    left_out: Sequence[int] = (),
    late: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """A file of PyAV's.

    Args:
        pictures: How many there are beside the sound, ten a second.
        left_out: Numbers of sound packets that are not written.
        late: Samples by which the time stamps of the sound are late.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        video = container.add_stream("libx264", rate=10) if pictures else None
        if video:
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audios = [container.add_stream(codec, rate=rate_hz) for _ in range(tracks)]
        for audio in audios:
            audio.layout, audio.bit_rate = "mono", 96_000
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 5 * number % 256, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(video.encode(frame))
        for track, audio in enumerate(audios if len(wave) else ()):
            size = audio.codec_context.frame_size or 1024
            kind = audio.codec_context.format.name
            packets = []
            for start in range(0, len(wave), size):
                part = wave[None, start : start + size].astype(np.float32) / (track + 1)
                frame = av.AudioFrame.from_ndarray(part, "fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate_hz, start + late, Fraction(1, rate_hz)
                (frame,) = av.AudioResampler(kind, "mono", rate_hz).resample(frame)
                packets += audio.encode(frame)
            for number, packet in enumerate([*packets, *audio.encode()]):
                if number not in left_out:
                    container.mux(packet)
        if video:
            container.mux(video.encode())
    return path


def mp3(path: Path, seconds: float = 1.0, rate_hz: int = 44100) -> bytes:
    """Writes an mp3 file; returns its bytes."""
    soundfile.write(path, tone(rate_hz, seconds), rate_hz, format="MP3")
    return path.read_bytes()
