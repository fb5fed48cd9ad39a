"""Sound: soundfile decodes, soxr resamples; the sound of clips is PyAV's.

Shape legend: T samples of a waveform.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmcore.data.media.base import CROPPED, Decoded, Medium, Note, RawFolder, padded
from mmcore.data.media.sound_track import read_sound_track
from mmcore.data.media.video import CLIP_SUFFIXES
from mmcore.data.spec import Modality
from mmcore.errors import DataError


class AudioFile(Medium):
    """A sound file, or a clip's sound, as a mono waveform (T,) int16 with its length. The value is the file's path.

    Args:
        name: Of the modality.
        sample_rate_hz: To which it is resampled.
        seconds: What is kept of it, from its start; shorter clips are zero padded.
    """

    def __init__(self, name: str, sample_rate_hz: int, seconds: float):
        self._num_samples = round(sample_rate_hz * seconds)
        self.modality = Modality(
            name, "audio", (self._num_samples,), "int16", sample_rate_hz=sample_rate_hz, variable_length=True
        )

    def read(self, folder: RawFolder, value: str) -> Decoded:
        """Decodes one file."""
        rate_hz = self.modality.sample_rate_hz or 0
        path = folder.path(value)
        is_clip = path.suffix.lower() in CLIP_SUFFIXES
        wave = read_sound_track(path, rate_hz) if is_clip else read_audio(path, rate_hz)
        notes: tuple[Note, ...] = ()
        if len(wave) > self._num_samples:
            kept_s, all_s = self._num_samples / rate_hz, len(wave) / rate_hz
            notes = (Note(CROPPED, f"to the first {kept_s:g} s of {all_s:.2f} s"),)
            wave = wave[: self._num_samples]
        return Decoded(padded(wave, self._num_samples), len(wave), notes)


def read_audio(path: Path, sample_rate_hz: int) -> np.ndarray:
    """Reads a sound file as mono int16 at `sample_rate_hz`, (T,).

    Raises:
        DataError: The file is damaged, holds no audio, or is shorter than its header says; the message names it.
    """
    import soundfile

    try:
        if path.suffix.lower() == ".wav":
            _check_wav_length(path)
        data, rate_hz = soundfile.read(str(path), dtype="int16", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path} can not be read as audio: {error}") from None
    if len(data) == 0:
        raise DataError(f"{path} holds no audio")
    mono = data[:, 0] if data.shape[1] == 1 else np.round(data.mean(axis=1)).astype(np.int16)
    return mono if rate_hz == sample_rate_hz else _resampled(mono, rate_hz, sample_rate_hz)


def _check_wav_length(path: Path) -> None:
    """Refuses a file shorter than its RIFF header says: decoders read a truncated file without a word."""
    with path.open("rb") as file:
        header = file.read(12)
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"WAVE":
        raise DataError(f"{path} is no wav file (no RIFF header)")
    stated = int.from_bytes(header[4:8], "little") + 8
    actual = path.stat().st_size
    # A writer to a pipe states nothing it could know: all ones, or zero.
    if actual < stated < 2**32 - 64:
        raise DataError(f"{path} is truncated: {actual} bytes, its header says {stated}")


def _resampled(wave: np.ndarray, rate_hz: int, sample_rate_hz: int) -> np.ndarray:
    import soxr

    return np.asarray(soxr.resample(wave, rate_hz, sample_rate_hz), dtype=np.int16)
