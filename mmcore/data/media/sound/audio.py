"""Sound: decoded as the content asks for, mixed and resampled as float, then rounded to 16 bits.

MPEG audio is FFmpeg's, what else libsndfile knows is soundfile's, and the rest, with the sound of clips, PyAV's.

Shape legend: T samples of a waveform, C channels.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmcore.data.media.sound.chunks import HEAD, Content, Source
from mmcore.data.media.sound.headers import Finding, Plain, look_at
from mmcore.data.media.sound.mp3 import after_front_tags, is_mpeg, read_mp3
from mmcore.data.media.sound.samples import FULL_SCALE, Samples, chained
from mmcore.data.media.sound.track import read_track
from mmcore.data.medium import CROPPED, POINTER_BEGINNING, Decoded, Medium, Note, RawFolder, padded, pointer_message
from mmcore.data.spec import Modality
from mmcore.errors import DataError

SHORT_SUBTYPES = frozenset({"PCM_16", "PCM_S8", "PCM_U8"})
"""Sample types that int16 holds exactly, and reads fastest."""


MOST_FRAMES = 2**31
"""libsndfile gives a larger number for a FLAC file whose length is not stated, as ffmpeg writes one into a pipe."""


CANCELLED = 0.02
"""Part of its channels' peak below which their mix is what is left of sound that cancels itself (-34 dB)."""


class AudioFile(Medium):
    """A sound file, or a clip's sound, as a mono waveform (T,) int16 with its length. The value is the file's path.

    Args:
        name: Name of the modality.
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
        wave, notes = read_sound(folder.path(value), rate_hz)
        if len(wave) > self._num_samples:
            kept_s, all_s = self._num_samples / rate_hz, len(wave) / rate_hz
            notes = (*notes, Note(CROPPED, f"to the first {kept_s:g} s of {all_s:.2f} s"))
            wave = wave[: self._num_samples]
            notes = (*notes, *_silence(wave, notes))
        return Decoded(padded(wave, self._num_samples), len(wave), notes)


class Sound(NamedTuple):
    """A file's sound.

    Attributes:
        wave: (T,) int16, mono.
        notes: What was done to it or met in it.
    """

    wave: np.ndarray
    notes: tuple[Note, ...]


SILENT = Note("silent")


CANCELS = Note("the channels cancel each other in the mix to mono")


def read_audio(path: Path, sample_rate_hz: int) -> np.ndarray:
    """Returns `read_sound`'s waveform alone."""
    return read_sound(path, sample_rate_hz).wave


def read_sound(path: Path, sample_rate_hz: int) -> Sound:
    """Reads the sound of a file as mono int16 at `sample_rate_hz`.

    Channels are averaged. Full scale of a float file is 1 and becomes 32768; what lies beyond is clipped, and noted.
    16-bit mono at its own rate comes out sample by sample as it is.

    Raises:
        DataError: The file is damaged, truncated, of no known format, or holds numbers that are none.
        MissingMedium: It is a clip without sound.
    """
    samples = read_samples(path)
    if not len(samples.data):
        raise DataError(f"{path} holds no audio")
    mono, notes = _mixed(path, samples)
    if samples.rate_hz != sample_rate_hz:
        mono = _resampled(mono, samples.rate_hz, sample_rate_hz)
    wave, notes = _rounded(mono), (*samples.notes, *notes)
    return Sound(wave, (*notes, *_silence(wave, notes)))


def read_samples(path: Path) -> Samples:
    """Decodes a file with the decoder its content asks for.

    Raises:
        DataError: As `read_sound`.
    """
    try:
        with path.open("rb", buffering=0) as file:
            source = Source(path, file, file.read(HEAD), os.fstat(file.fileno()).st_size)
            if source.head.startswith(POINTER_BEGINNING):
                raise DataError(pointer_message(path))
            if not source.size:
                raise DataError(f"{path} can not be read as audio: it is empty")
            return _decoded(source)
    except OSError as error:
        raise DataError(f"{path} can not be read as audio: {error.strerror or error}") from None


def _decoded(source: Source) -> Samples:
    if is_mpeg(source.head):
        return _mpeg(source)
    finding = look_at(source)
    if finding.links:
        return chained(source.path, [_decoded(source.part(*link)) for link in finding.links])
    if finding.plain is not None:
        samples = _plain(source, finding.plain)
    else:
        by_soundfile = None if finding.needs_av else _by_soundfile(source, finding)
        samples = by_soundfile or read_track(source.path, source.to_open())
    return samples._replace(notes=(*finding.notes, *_beyond(finding, samples), *samples.notes))


def _mpeg(source: Source) -> Samples:
    """Decodes MPEG audio, or what lies behind ID3 tags; of other files few decoders expect one in front."""
    content = source.at(0, source.size)
    start = after_front_tags(content)
    samples = read_mp3(source.path, content)
    if samples is None and 0 < start < source.size:
        return _decoded(source.part(start, source.size))
    return samples or read_track(source.path, source.to_open())


def _beyond(finding: Finding, samples: Samples) -> tuple[Note, ...]:
    number, stated = len(samples.data), finding.stated_samples
    if not 0 < stated < number:
        return ()
    return (Note("read beyond the length its header states", f"({number} samples, not {stated})"),)


def _plain(source: Source, plain: Plain) -> Samples:
    """Returns 16-bit samples as they lie in the file: to open it a second time would take longer than this."""
    content = source.at(plain.begin, plain.num_bytes)
    data = np.frombuffer(content, dtype=">i2" if plain.order == "big" else "<i2").astype(np.int16, copy=False)
    return Samples(data.reshape(-1, plain.channels), plain.rate_hz)


def _by_soundfile(source: Source, finding: Finding) -> Samples | None:
    """Returns what libsndfile reads, or None if it does not know the format or the length, or passes over gaps."""
    import soundfile

    source.file.seek(0)
    file_or_number = source.file.fileno() if isinstance(source.file, io.FileIO) else source.file
    content: Any = Content(finding.repaired) if finding.repaired else file_or_number
    try:
        file = soundfile.SoundFile(content, closefd=False)
    except soundfile.SoundFileError:
        return None
    with file:
        if file.frames > MOST_FRAMES:
            return None
        dtype = "int16" if file.subtype in SHORT_SUBTYPES else "float64" if file.subtype == "DOUBLE" else "float32"
        try:
            data = file.read(file.frames, dtype=dtype, always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise DataError(f"{source.path} is damaged: {error}; fetch it anew") from None
        if len(data) < file.frames and file.format == "OGG":
            return None  # its time stamps leave gaps, which FFmpeg's decoders tell
        if len(data) < file.frames:
            raise DataError(
                f"{source.path} is truncated: {len(data)} samples, its header says {file.frames}; fetch it anew"
            )
        return Samples(data, file.samplerate)


def _mixed(path: Path, samples: Samples) -> tuple[np.ndarray, tuple[Note, ...]]:
    """Returns the mean of the channels, (T,) in units of 16 bits, and what is to be noted of them."""
    data = samples.data
    channels = data.shape[1]
    full = FULL_SCALE
    if data.dtype == np.int16:
        if channels == 1:
            return data[:, 0], ()
        data, full = data.astype(np.float32), 1
    low, high = float(data.min()), float(data.max())
    if not np.isfinite(high - low):
        number = int((~np.isfinite(data)).sum())
        raise DataError(f"{path} is damaged: {number} of its samples are no finite numbers; write it anew")
    # Scaled after the mean, which is exact at any height; what is far beyond full scale could overflow before.
    mono = data[:, 0] if channels == 1 else data @ np.full(channels, 1 / channels, dtype=data.dtype)
    peak = max(float(mono.max()), -float(mono.min()))
    if peak < CANCELLED * max(high, -low):
        return mono * data.dtype.type(full), (CANCELS,)
    if peak * full > FULL_SCALE:
        return np.clip(mono, -1, 1) * data.dtype.type(full), (_clipped(mono, peak),)
    return mono * data.dtype.type(full) if full > 1 else mono, ()


def _silence(wave: np.ndarray, notes: tuple[Note, ...]) -> tuple[Note, ...]:
    # Nearly every wave has something in its first samples, and then the others need no look.
    return () if wave[:256].any() or wave.any() or SILENT in notes or CANCELS in notes else (SILENT,)


def _clipped(mono: np.ndarray, peak: float) -> Note:
    return Note(
        "clipped at full scale", f"({int((np.abs(mono) > 1).sum())} samples, up to {peak:.4g} times full scale)"
    )


def _resampled(wave: np.ndarray, rate_hz: int, sample_rate_hz: int) -> np.ndarray:
    """Resamples as float: of 16 bits soxr makes dithered ones, so that silence becomes noise of one unit."""
    import soxr

    samples = wave.astype(np.float32) if wave.dtype == np.int16 else wave
    return np.asarray(soxr.resample(samples, rate_hz, sample_rate_hz))


def _rounded(wave: np.ndarray) -> np.ndarray:
    if wave.dtype == np.int16:
        return wave
    np.rint(wave, out=wave)
    return np.clip(wave, -FULL_SCALE, FULL_SCALE - 1, out=wave).astype(np.int16)
