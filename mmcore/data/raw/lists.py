"""Reads the lists data sets come with, one row at a time, so that one bad line is one reported line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmcore.config.texts import repeated
from mmcore.data.raw.delimited import cells_of_any_length
from mmcore.errors import DataError, UsageError, suggest


class Row(NamedTuple):
    """One line of a list.

    Attributes:
        place: File name and line number, for messages.
        text: The line without its end; None if it is not UTF-8.
    """

    place: str
    text: str | None


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the lines of a text file that are not blank, with LF or CRLF ends, with or without a byte-order mark.

    Only LF ends a line: a tweet may hold one of the other characters Python takes for a line's end.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can not be read: {error.strerror}") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            text: str | None = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            text = None
        yield Row(f"{path.name}:{number}", text)


def split_csv(text: str) -> list[str]:
    """Returns the fields of one line of comma-separated values; a field with commas stands in double quotes.

    Raises:
        DataError: A quote is not closed, or other text follows the closing one.
    """
    try:
        with cells_of_any_length(text):
            return [field.strip() for field in next(csv.reader([text], strict=True), [])]
    except csv.Error as error:
        raise DataError(f"its quotes are no quotes of a list ({error})") from None


def class_index(name: str, classes: Sequence[str] | Mapping[str, int]) -> int:
    """Returns the index of a class.

    Raises:
        DataError: There is no such class.
    """
    known = classes if isinstance(classes, Mapping) else {label: index for index, label in enumerate(classes)}
    if name not in known:
        raise DataError(f"unknown class '{name}'{suggest(name, known) if len(known) <= 40 else ''}")
    return known[name]


def one_of(found: Sequence[Path], what: str, help_text: str) -> Path:
    """Returns the only file found.

    Raises:
        UsageError: There is none, or several.
    """
    if not found:
        raise UsageError(f"{what} is missing. {help_text}")
    if len(found) > 1:
        raise UsageError(f"{what} is there {len(found)} times ({', '.join(map(str, found[:3]))}); keep one")
    return found[0]


def absent_lists(lists: Mapping[str, Sequence[Path]], splits: Sequence[str] = ("train", "test")) -> dict[str, str]:
    """Returns split -> a sentence, for the splits that should have a list beside those found; see `Index.absent`."""
    there = next(found for found in lists.values() if found)[0]
    return {split: f"there is no {split} list beside {there}" for split in splits if not lists.get(split)}


def read_records(
    path: Path, columns: Sequence[str], separator: str | None = ","
) -> Iterator[tuple[Row, list[str] | str]]:
    """Yields each row of a table with its fields in the order of `columns`, or with the reason why it has none.

    A first row that holds at least two of the columns' names is a header, and fields are then found by name.

    Args:
        path: The table.
        columns: What its columns are called.
        separator: Between fields; None: any white space.

    Raises:
        UsageError: The header lacks one of the columns, or has it twice.
    """
    header = list(columns)
    for number, row in enumerate(read_rows(path)):
        try:
            fields = _fields(row, separator)
        except DataError as error:
            yield row, str(error)
            continue
        names = [field.lower() for field in fields]
        if number == 0 and len(set(names) & set(columns)) >= min(2, len(columns)):
            header = names
            _check_header(path, row, names, columns)
        elif len(fields) != len(header):
            yield row, f"{len(fields)} fields, not {len(header)}"
        else:
            yield row, [fields[header.index(name)] for name in columns]


def _fields(row: Row, separator: str | None) -> list[str]:
    if row.text is None:
        raise DataError("the line is not UTF-8")
    return split_csv(row.text) if separator == "," else row.text.strip().split(separator)


def _check_header(path: Path, row: Row, names: Sequence[str], columns: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in names]:
        raise UsageError(f"{path}: the header must name {', '.join(columns)}, got {row.text!r}: no {missing[0]}")
    if twice := [name for name in repeated(names) if name in columns]:
        raise UsageError(f"{path}: the header names {twice[0]} twice, got {row.text!r}; keep one")
