"""Files of numbers: .npy, .npz, and delimited text by stated rules.

Text: UTF-8; blank lines and what follows a # are no data; the delimiter is the one of comma, semicolon and tab that the
first line holds, else white space; a first line of which no field is a number is a header.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.data.texts import decoded
from mmcore.errors import DataError, UsageError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
ARRAYS = frozenset({".npy", ".npz"})


def read_numbers(path: Path, name: str, channels: int, key: str | None, header: bool | None) -> np.ndarray:
    """Returns the numbers of a file, float64: of any shape from .npy and .npz, (steps, columns) from text.

    Args:
        path: The file.
        name: What messages call it.
        channels: How many columns are awaited.
        key: See `mmcore.data.media.Series`.
        header: See there.

    Raises:
        DataError: The file is damaged, holds no real numbers, or may be read in two ways; it is named.
    """
    try:
        if path.suffix.lower() in ARRAYS:
            return _real(_load(path, key))
        return _read_text(path, channels, header)
    except UsageError as error:  # not UTF-8
        raise DataError(str(error)) from None
    except (OSError, ValueError, EOFError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{name} can not be read as numbers: {reason}") from None


def _load(path: Path, key: str | None) -> np.ndarray:
    found: Any = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found:
        names = list(found.files)
        if key is None and len(names) != 1:
            raise ValueError(f"it holds the arrays {', '.join(names)}; say which: key: NAME")
        if key is not None and key not in names:
            raise ValueError(f"it holds no array '{key}' (key:); it has {', '.join(names)}")
        return found[names[0] if key is None else key]


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"its type is {array.dtype}; it must hold real numbers")
    return array.astype(np.float64)


def _read_text(path: Path, channels: int, header: bool | None) -> np.ndarray:
    lines = [line.split("#")[0] for line in decoded(path).splitlines()]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise ValueError("it holds no numbers")
    held = [mark for mark in DELIMITERS if mark in lines[0]]
    # A header may hold no commas while the numbers do: "x;y" over "1,5;2,5".
    if len(held) > 1 or (held and held != [","] and any("," in line for line in lines)):
        marks = " and ".join(DELIMITERS[mark] for mark in (held if len(held) > 1 else [",", *held]))
        raise ValueError(f"it holds {marks}; if the commas are decimal ones, write points")
    first = lines[0].split(held[0] if held else None)
    if _has_header(first, channels, header):
        lines = lines[1:]
    if not lines:
        raise ValueError("it holds a header and no numbers")
    return np.loadtxt(lines, delimiter=held[0] if held else None, ndmin=2, comments=None)


def _has_header(first: list[str], channels: int, header: bool | None) -> bool:
    if header is not None:
        return header
    if channels > 1 and [field.strip() for field in first] == [str(number) for number in range(channels)]:
        raise ValueError(
            f"its first line, {','.join(first)}, may be numbers, or the names pandas gives columns; say "
            "header: true or header: false"
        )
    return not any(_is_number(field) for field in first)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
