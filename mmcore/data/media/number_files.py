"""Files of numbers: .npy, .npz, and delimited text by stated rules.

Text: UTF-8; blank lines and what follows a # are no data; the delimiter is the one of comma, semicolon and tab that the
first line holds, else white space; a first line is a header if no field of it is a number and at least one is a name.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmcore.config.texts import decoded
from mmcore.errors import DataError, UsageError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
ARRAYS = frozenset({".npy", ".npz"})
BEGINNINGS = (b"\x93NUMPY", b"PK")
"""First bytes of NumPy's files, with one array or several."""
ERROR_CELL = re.compile(r"\s*#(N/?A|VALUE!|DIV/0!|REF!|NUM!|NAME\?|NULL!)\s*([,;#]|$)", re.IGNORECASE)
"""What Excel writes into a cell; at the start of a line it would be taken for a comment."""
NO_NAME = re.compile(
    r"[\W\d_]*|[+-]?(0x[\da-f.]+(p[+-]?\d+)?|0o\d+|0b\d+|(\d+\.?\d*|\.\d+)d[+-]?\d+)|[+-]?(nan|inf|infinity)"
    r"|<?na>?|n/a|nat|null|none|missing|true|false",
    re.IGNORECASE,
)
"""What names no channel: a number in another notation, a mark of what is missing, or signs without a letter."""


class Line(NamedTuple):
    """A line of a text file that holds data: its number, and its text without comment."""

    number: int
    text: str


def read_numbers(path: Path, name: str, channels: int, *, key: str | None, header: bool | None) -> np.ndarray:
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
        if key is not None:
            raise ValueError(f"key: {key} names an array of a .npz file, this is text; leave it out")
        return _read_text(path, channels, header=header)
    except UsageError as error:  # not UTF-8
        raise DataError(str(error)) from None
    except (OSError, ValueError, EOFError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = _without_advice((str(error) or type(error).__name__).splitlines()[0])
        raise DataError(f"{name} can not be read as numbers: {reason}") from None


def _load(path: Path, key: str | None) -> np.ndarray:
    with path.open("rb") as file:
        if not file.read(6).startswith(BEGINNINGS):
            raise ValueError("its content is no NumPy file, whatever its name; numpy.save and numpy.savez write one")
    found: Any = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        if key is not None:
            raise ValueError(f"key: {key} names an array of a .npz file, this is one array; leave it out")
        return found
    with found:
        names = list(found.files)
        if key is None and len(names) != 1:
            raise ValueError(f"it holds the arrays {', '.join(names)}; say which: key: NAME")
        if key is not None and key not in names:
            raise ValueError(f"it holds no array '{key}' (key:); it has {', '.join(names)}")
        array: np.ndarray = found[names[0] if key is None else key]
        return array


def _without_advice(reason: str) -> str:
    """Returns NumPy's reason without what it advises, which is for programs and no use here."""
    if "allow_pickle" in reason:
        return "it holds Python objects, as of rows of different length; save an array of numbers"
    return reason


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"its type is {array.dtype}; it must hold real numbers")
    return array.astype(np.float64)


def _read_text(path: Path, channels: int, *, header: bool | None) -> np.ndarray:
    lines = _data_lines(path)
    if not lines:
        raise ValueError("it holds no numbers")
    held = [mark for mark in DELIMITERS if mark in lines[0].text]
    # A header may hold no commas while the numbers do: "x;y" over "1,5;2,5".
    if len(held) > 1 or (held and held != [","] and any("," in line.text for line in lines)):
        marks = " and ".join(DELIMITERS[mark] for mark in (held if len(held) > 1 else [",", *held]))
        raise ValueError(f"it holds {marks}; if the commas are decimal ones, write points")
    mark = held[0] if held else None
    if _has_header(lines[0], mark, channels, header=header):
        lines = lines[1:]
    if not lines:
        raise ValueError("it holds a header and no numbers")
    try:
        return np.loadtxt([line.text for line in lines], delimiter=mark, ndmin=2, comments=None)
    except ValueError:
        raise ValueError(_first_fault(lines, mark)) from None


def _data_lines(path: Path) -> list[Line]:
    lines = []
    for number, text in enumerate(decoded(path).splitlines(), start=1):
        if ERROR_CELL.match(text):
            raise ValueError(f"line {number}, {text.strip()[:40]}, holds an error of a spreadsheet, and no number")
        data = text.split("#")[0]
        if data.strip():
            lines.append(Line(number, data))
    return lines


def _first_fault(lines: Sequence[Line], mark: str | None) -> str:
    """Returns what is wrong with the first line that NumPy can not read."""
    width = len(lines[0].text.split(mark))
    for number, text in lines:
        fields = text.split(mark)
        if len(fields) != width:
            return f"line {number} must have as many fields as the first, {width}, got {len(fields)}"
        wrong = next((field.strip() for field in fields if not _is_number(field) or "_" in field), None)
        if wrong is not None:
            return f"line {number}: '{wrong}' is no number" if wrong else f"line {number} has an empty field"
    return "a line holds what is no number"


def _has_header(first: Line, mark: str | None, channels: int, *, header: bool | None) -> bool:
    if header is not None:
        return header
    fields = [field.strip() for field in first.text.split(mark)]
    if channels > 1 and fields == [str(number) for number in range(channels)]:
        raise ValueError(
            f"its first line, {','.join(fields)}, may be numbers, or the names pandas gives columns; say "
            "header: true or header: false"
        )
    if any(_is_number(field) for field in fields):
        return False
    if all(NO_NAME.fullmatch(field.strip("\"'")) for field in fields):
        raise ValueError(
            f"line {first.number}, {first.text.strip()[:40]}, holds neither plain numbers nor names; write 16 for "
            "0x10, 1e3 for 1D3, no quotes, and leave none out; or say header: true if it is a header"
        )
    return True


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
