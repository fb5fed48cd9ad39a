"""Numbers as they are: series over time and table cells.

Shape legend: T steps of a series, C channels, N cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmcore.data.media.number_files import read_numbers
from mmcore.data.medium import CROPPED, Decoded, Medium, Note, RawFolder, padded
from mmcore.data.spec import Fill, Modality
from mmcore.errors import DataError

LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
"""Magnitudes float32 can hold."""
ROUNDED = "numbers became 0"
"""The rule of the note on numbers that float32 can not tell from 0."""


class Series(Medium):
    """A numeric series (T, C) float32 with its length. The value is a file of numbers, or the numbers themselves.

    Args:
        name: Name of the modality.
        length: T; what a longer series has beyond it is left out.
        channels: C; a series of one channel may leave out its axis.
        key: Which array of a .npz file; None: it has but one.
        header: Whether a text file's first line names the channels; None: it does where no field is a number.
    """

    def __init__(self, name: str, length: int, channels: int, *, key: str | None = None, header: bool | None = None):
        self._length = length
        self._channels = channels
        self._key = key
        self._header = header
        self.modality = Modality(name, "features", (length, channels), "float32", variable_length=True)

    def files(self, value: str | Sequence[object]) -> Iterator[str]:
        """Yields the file, if the numbers do not stand in the index."""
        if isinstance(value, str):
            yield value

    def read(self, folder: RawFolder, value: str | Sequence[object]) -> Decoded:
        """Reads one series."""
        if not isinstance(value, str):
            return self.decode(value)
        array = read_numbers(folder.path(value), value, self._channels, key=self._key, header=self._header)
        return self._decoded(array, value)

    def decode(self, value: Sequence[object]) -> Decoded:
        """Returns one series whose numbers stand in the index.

        Raises:
            DataError: They are no numbers, or not of the stated shape.
        """
        return self._decoded(_as_numbers(value), "the series")

    def _decoded(self, array: np.ndarray, what: str) -> Decoded:
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != self._channels or not len(array):
            raise DataError(f"{what} must be of shape (steps, {self._channels}), got {array.shape}")
        stored = stored_numbers(array, what)[: self._length]
        notes = []
        if num_lost := int(((array[: self._length] != 0) & (stored == 0)).sum()):
            notes.append(Note(ROUNDED, f"{num_lost} of {stored.size}, nearer to 0 than float32's {SMALLEST:.1g}"))
        if len(array) > self._length:
            notes.append(Note(CROPPED, f"to {self._length} of {len(array)} steps"))
        return Decoded(padded(stored, self._length), len(stored), tuple(notes))


class Cells(Medium):
    """Cells of a table as features (N,) float32. The value is the cells; None is an empty one, stored as NaN.

    Args:
        name: Name of the modality.
        columns: Their N names, for messages.
        fill: What the model puts where a cell is empty, fitted on the training samples; None: none may be.
    """

    def __init__(self, name: str, columns: Sequence[str], fill: Fill | None = None):
        self._columns = tuple(columns)
        self.modality = replace(Modality(name, "features", (len(self._columns),), "float32"), fill=fill)

    def files(self, value: Sequence[object]) -> Iterator[str]:
        """Yields nothing: the cells stand in the index."""
        yield from ()

    def read(self, folder: RawFolder, value: Sequence[object]) -> Decoded:
        """Reads one row's cells."""
        return Decoded(np.array([np.nan if cell is None else cell for cell in value], dtype=np.float32))

    def decode(self, value: Sequence[Any]) -> list[float | None]:
        """Returns the numbers of one row's cells; None stays None.

        Raises:
            DataError: A cell is no number, not finite, or none that float32 can hold; the column is named.
        """
        return [None if cell is None else _number(cell, name) for name, cell in zip(self._columns, value, strict=True)]


def stored_numbers(array: np.ndarray, what: str) -> np.ndarray:
    """Returns numbers as float32.

    Numbers nearer to 0 than float32 can tell become 0, as in any rounding (`Series` notes them), unless nothing else is
    left of them.

    Raises:
        DataError: Some are not finite, too large for float32, or all of them too small.
    """
    num_wrong = int((~np.isfinite(array)).sum())
    if num_wrong:
        raise DataError(f"{what} holds {num_wrong} values that are no finite numbers")
    with np.errstate(over="ignore", under="ignore"):
        stored = array.astype(np.float32)
    beyond = array[~np.isfinite(stored)]
    if len(beyond):
        raise DataError(f"{what} holds {len(beyond)} numbers beyond float32's 3.4e38, as {beyond[0]:g}; rescale it")
    if array.any() and not stored.any():
        raise DataError(f"{what} holds only numbers that float32 rounds to 0 (up to {abs(array).max():g}); rescale it")
    return stored


def _number(cell: Any, column: str) -> float:
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
    if not is_number and not isinstance(cell, str):
        raise DataError(f"column '{column}' must hold numbers, got {_shown(cell)}")
    try:
        if isinstance(cell, str) and "_" in cell:
            raise ValueError  # Python reads 1_000 as a number; in a table it is a slip or a name
        number = float(cell)
    except (ValueError, OverflowError):
        comma = "; write decimals with a point" if isinstance(cell, str) and "," in cell else ""
        raise DataError(f"column '{column}' must hold numbers, got {_shown(cell)}{comma}") from None
    if not np.isfinite(number):
        raise DataError(f"column '{column}' must hold finite numbers, got {_shown(cell)}; leave a missing one empty")
    if abs(number) > LARGEST or 0 < abs(number) < SMALLEST:
        raise DataError(f"column '{column}' must hold numbers that float32 can tell, got {_shown(cell)}; rescale it")
    return number


def _shown(value: object) -> str:
    return repr(value)[:60]


def _as_numbers(values: Sequence[object]) -> np.ndarray:
    _check_steps(values)
    try:
        array = np.array(values)
        if array.size and array.dtype.kind not in "iuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"the series must hold numbers, got {_shown(values)}") from None


def _check_steps(values: Sequence[object]) -> None:
    """Refuses truth values, which NumPy takes for numbers, and steps of uneven length, which it gives no place of."""
    widths = [len(step) if isinstance(step, list) else None for step in values]
    for number, (step, width) in enumerate(zip(values, widths, strict=True), start=1):
        if any(isinstance(cell, bool) for cell in (step if isinstance(step, list) else [step])):
            raise DataError(f"the series must hold numbers, got {_shown(step)} as step {number}")
        if width != widths[0]:
            raise DataError(
                f"each step of the series must hold as many numbers as the first, {_shown(values[0])}, got "
                f"{_shown(step)} as step {number}"
            )
