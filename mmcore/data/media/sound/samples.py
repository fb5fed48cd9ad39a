"""Sound as it comes out of a decoder, before it is mixed, resampled and rounded.

Shape legend: T samples, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmcore.data.medium import Note
from mmcore.errors import DataError

if TYPE_CHECKING:
    from av import AudioFrame

FULL_SCALE = 32768


class Samples(NamedTuple):
    """What a decoder gives.

    Attributes:
        data: (T, C) float32 or float64 of full scale 1, or int16.
        rate_hz: Sample rate of the file, Hz.
        notes: What the decoder did or met.
    """

    data: np.ndarray
    rate_hz: int
    notes: tuple[Note, ...] = ()


def joined(path: Path, frames: Sequence[AudioFrame]) -> Samples:
    """Returns the samples of decoded frames, one behind the other.

    Raises:
        DataError: There are none, or rate, channels or sample type change on the way.
    """
    if not frames:
        raise DataError(f"{path} holds no sound")
    forms = {(frame.sample_rate, frame.layout.nb_channels, frame.format.name) for frame in frames}
    if len(forms) > 1:
        shown = " and ".join(f"{rate} Hz, {channels} channels, {name}" for rate, channels, name in sorted(forms))
        raise DataError(f"{path} changes its form on the way ({shown}): cut it where it does, or convert it to one")
    return Samples(_scaled(_array(frames)), frames[0].sample_rate)


def chained(path: Path, parts: Sequence[Samples]) -> Samples:
    """Returns the sound of files of which one consists, one behind the other.

    Raises:
        DataError: Rate or channels change on the way.
    """
    forms = {(part.rate_hz, part.data.shape[1]) for part in parts}
    if len(forms) > 1:
        shown = " and ".join(f"{rate} Hz, {channels} channels" for rate, channels in sorted(forms))
        raise DataError(f"{path} consists of several files of {shown}: cut it where they meet, or convert it to one")
    notes = tuple(note for part in parts for note in part.notes)
    return Samples(np.concatenate([part.data for part in parts]), parts[0].rate_hz, notes)


def _array(frames: Sequence[Any]) -> np.ndarray:
    """Returns (T, C) of the frames' own sample type; of planar frames a view of (C, T)."""
    form, channels = frames[0].format, frames[0].layout.nb_channels
    dtype = np.dtype(form.packed.name.replace("flt", "f4").replace("dbl", "f8").replace("u8", "u1")
                     .replace("s16", "i2").replace("s32", "i4").replace("s64", "i8"))  # fmt: skip
    if not form.is_planar:
        parts = [np.frombuffer(frame.planes[0], dtype, frame.samples * channels) for frame in frames]
        return np.concatenate(parts).reshape(-1, channels)
    planes: list[list[np.ndarray]] = [[] for _ in range(channels)]
    for frame in frames:
        for parts, plane in zip(planes, frame.planes, strict=True):
            parts.append(np.frombuffer(plane, dtype, frame.samples))
    return np.stack([np.concatenate(parts) for parts in planes]).T


def _scaled(data: np.ndarray) -> np.ndarray:
    """Returns float samples of full scale 1; int16 as it is."""
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    if data.dtype in (np.int32, np.int64):
        return (data / -float(np.iinfo(data.dtype).min)).astype(np.float32)
    return data
