"""Numbers as they are: series over time and table cells.

Shape legend: T steps of a series, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmcore.data.media.base import CROPPED, Decoded, Medium, Note, RawFolder, padded
from mmcore.data.spec import Modality
from mmcore.errors import DataError


class Series(Medium):
    """A numeric series (T, C) float32 with its length. The value is a .npy or .csv file, or the numbers themselves.

    Args:
        name: Of the modality.
        length: T; what a longer series has beyond it is left out.
        channels: C; a series of one channel may leave out its axis.
    """

    def __init__(self, name: str, length: int, channels: int):
        self._length = length
        self._channels = channels
        self.modality = Modality(name, "features", (length, channels), "float32", variable_length=True)

    def files(self, value: str | Sequence[object]) -> Iterator[str]:
        """Yields the file, if the numbers do not stand in the index."""
        if isinstance(value, str):
            yield value

    def read(self, folder: RawFolder, value: str | Sequence[object]) -> Decoded:
        """Reads one series."""
        what = value if isinstance(value, str) else "the series"
        array = _read_array(folder.path(value)) if isinstance(value, str) else _as_numbers(value, what)
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != self._channels or not len(array):
            raise DataError(f"{what} must be of shape (steps, {self._channels}), got {array.shape}")
        if not np.isfinite(array).all():
            raise DataError(f"{what} holds {int((~np.isfinite(array)).sum())} values that are no finite numbers")
        is_longer = len(array) > self._length
        notes = (Note(CROPPED, f"to {self._length} of {len(array)} steps"),) if is_longer else ()
        array = array[: self._length].astype(np.float32)
        return Decoded(padded(array, self._length), len(array), notes)


class Cells(Medium):
    """Cells of a table as features (N,) float32. The value is the cells, as texts or numbers.

    Args:
        name: Of the modality.
        columns: Their N names, for messages.
    """

    def __init__(self, name: str, columns: Sequence[str]):
        self._columns = tuple(columns)
        self.modality = Modality(name, "features", (len(self._columns),), "float32")

    def files(self, value: Sequence[object]) -> Iterator[str]:
        """Yields nothing: the cells stand in the index."""
        yield from ()

    def read(self, folder: RawFolder, value: Sequence[object]) -> Decoded:
        """Reads one row's cells."""
        numbers = []
        for column, cell in zip(self._columns, value, strict=True):
            number = _as_numbers([cell], f"column '{column}'")[0]
            if not np.isfinite(number):
                raise DataError(f"column '{column}' must hold finite numbers, got {cell!r}")
            numbers.append(number)
        return Decoded(np.array(numbers, dtype=np.float32))


def _as_numbers(values: Sequence[object], what: str) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what} must hold numbers, got {str(values)[:60]}") from None


def _read_array(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(f"{path} can not be read as numbers: {str(error).splitlines()[0]}") from None
