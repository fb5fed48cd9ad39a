"""The sound of clips, and of files that soundfile does not know, by PyAV.

Shape legend: T samples of a waveform.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmcore.data.media.video import decoding_errors, opened
from mmcore.errors import DataError


def read_sound_track(path: Path, sample_rate_hz: int) -> np.ndarray:
    """Reads the sound of a clip as mono int16 at `sample_rate_hz`, (T,).

    Raises:
        DataError: The clip is damaged or has no sound; the message names it.
    """
    from av.audio.resampler import AudioResampler

    parts: list[np.ndarray] = []
    with opened(path) as container:
        if not container.streams.audio:
            raise DataError(f"{path} holds no sound")
        resampler = AudioResampler(format="s16", layout="mono", rate=sample_rate_hz)
        try:
            for frame in container.decode(audio=0):
                parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
        except decoding_errors() as error:
            raise DataError(f"{path} can not be read as sound: {error}") from None
    if not sum(map(len, parts)):
        raise DataError(f"{path} holds no sound")
    return np.concatenate(parts)
