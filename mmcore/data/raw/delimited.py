"""Reads delimited text (.csv, .tsv). Which quotes are quotes is stated, and no quote swallows rows unseen."""

from __future__ import annotations

import csv
import io
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mmcore.config.texts import decoded
from mmcore.errors import UsageError

QUOTE = '"'


ROWS_AT_ONCE = 1000


FEW_COLUMNS = 3


Rows = Iterator[tuple[int, list[str]]]
"""Line of its first field, and fields, of each row."""


_LOCK_OF_LIMIT = threading.Lock()


def read_delimited(path: Path, delimiter: str, quoting: str | None) -> tuple[list[str], Callable[[], Rows], str]:
    """Returns the header, what yields (line, fields) of each row, and what to try where a column is missing.

    Lines that are blank are no rows.

    Args:
        path: The file. Its first line that is not blank is the header.
        delimiter: One character.
        quoting: "none": a quote is a character like any other. "csv": a cell that begins with a quote ends with one
            and may hold delimiters, ends of lines and doubled quotes. None: "csv", but "none" between tabs; a table
            that would say something else under the other is refused.

    Raises:
        UsageError: It has no rows; or, there and while rows are read: a quoted cell does not end as one, or (None)
            seems to hold whole rows; or (None, tabs) a cell begins and ends with a quote.
    """
    text = decoded(path)
    is_sure = quoting is not None
    if quoting == "none" or (not is_sure and delimiter == "\t"):
        rows = partial(_unquoted, path, text, delimiter, is_sure=is_sure)
    else:
        rows = partial(_quoted, path, text, delimiter, is_sure=is_sure)
    first = list(itertools.islice(_not_blank(rows()), 2))
    if len(first) < 2:
        raise UsageError(f"the manifest {path} has no rows")
    line, header = first[0]
    names = [name.strip() for name in header]
    return names, lambda: itertools.islice(_not_blank(rows()), 1, None), _hint(text, line, len(header))


def _not_blank(rows: Rows) -> Rows:
    return ((line, fields) for line, fields in rows if len(fields) > 1 or (fields and fields[0].strip()))


@contextmanager
def cells_of_any_length(text: str) -> Iterator[None]:
    """Lets `csv` read cells as long as `text`. Its limit is the whole process's, so it is put back."""
    with _LOCK_OF_LIMIT:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, len(text)))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _unquoted(path: Path, text: str, delimiter: str, *, is_sure: bool) -> Rows:
    for number, line in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
        fields = line.removesuffix("\r").split(delimiter)
        if not is_sure and QUOTE in line:
            _check_unquoted(path, number, fields)
        yield number, fields


def _check_unquoted(path: Path, number: int, fields: Sequence[str]) -> None:
    cell = next((c for c in fields if len(c) > 1 and c[0] == QUOTE and c[-1] == QUOTE), None)
    if cell is not None:
        shown = cell if len(cell) <= 40 else f"{cell[:40]}…"
        raise UsageError(
            f"{path}: line {number}: the cell {shown} begins and ends with a quote. Say which is meant: quoting: csv "
            "(quotes stand around cells), or quoting: none (they are part of the text)"
        )


def _quoted(path: Path, text: str, delimiter: str, *, is_sure: bool) -> Rows:
    rows = _parsed(path, text, delimiter, is_sure=is_sure)
    while True:
        with cells_of_any_length(text):  # not while others work on the rows
            batch = list(itertools.islice(rows, ROWS_AT_ONCE))
        if not batch:
            return
        yield from batch


def _parsed(path: Path, text: str, delimiter: str, *, is_sure: bool) -> Rows:
    lines: list[str] = []
    reader = csv.reader(_kept(io.StringIO(text, newline=""), lines), delimiter=delimiter, strict=True)
    has_blanks = not is_sure and f"{delimiter} {QUOTE}" in text
    first, num_columns = 1, 0
    spaced: frozenset[int] | None = None
    try:
        for fields in reader:
            num_columns = num_columns or len(fields)
            if len(lines) > 1 and not is_sure:
                spaced = _spaced_columns(text, delimiter, num_columns) if spaced is None else spaced
                whole = [_is_like_a_row(line, delimiter, num_columns, spaced) for line in lines]
                _check_span(path, first, whole, is_complete=len(fields) == num_columns)
            if has_blanks:
                _check_blanks(path, first, fields)
            yield first, fields
            first += len(lines)
            lines.clear()
    except csv.Error as error:
        raise _broken_quote(path, first, reader.line_num, str(error)) from None


def _check_blanks(path: Path, line: int, fields: Sequence[str]) -> None:
    """Refuses a row with a blank between delimiter and quote: for this format the quote is then none."""
    if any(cell.startswith(f" {QUOTE}") for cell in fields):
        raise UsageError(
            f"{path}: line {line}: a cell has a blank before its quote, which is then part of the text. Take out "
            "the blanks; or say quoting: csv if the cell is meant so"
        )


def _kept(lines: Iterable[str], kept: list[str]) -> Iterator[str]:
    for line in lines:
        kept.append(line)
        yield line


def _broken_quote(path: Path, first: int, last: int, error: str) -> UsageError:
    if "unexpected end" in error:
        what = "a quote opens a cell that is never closed"
    else:
        what = f"after the quote that closes a cell, in line {last}, there is more text ({error})"
    return UsageError(
        f"{path}: line {first}: {what}. Close it, write a quote inside a quoted cell twice, or say quoting: none if "
        "quotes are part of the text"
    )


def _check_span(path: Path, first: int, whole: Sequence[bool], *, is_complete: bool) -> None:
    """Refuses a quoted cell over several lines that seems to have swallowed rows: by a lone quote on either side.

    Args:
        path: The file.
        first: The line the row begins in.
        whole: Whether each of its lines is like a row.
        is_complete: Whether the row has as many fields as the header.
    """
    if not is_complete or any(whole[1:-1]) or (whole[0] and whole[-1]):
        raise UsageError(
            f"{path}: line {first}: a quoted cell goes on to line {first + len(whole) - 1} and seems to hold whole "
            "rows. Close the quote; or say quoting: csv if the cell is meant so, quoting: none if quotes are part of "
            "the text"
        )


def _is_like_a_row(line: str, delimiter: str, num_columns: int, spaced: Collection[int]) -> bool:
    """Tells whether a line has as many fields as a row.

    A delimiter before a blank is taken for punctuation, unless rows of this table are written so in that column; so is
    one at the end, as of a verse, where there are few.
    """
    line = line.rstrip("\r\n")
    try:
        fields = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        fields = line.split(delimiter)  # a quote opens or ends here
    if len(fields) != num_columns or num_columns == 1 or (num_columns <= FEW_COLUMNS and not fields[-1]):
        return False
    return not any(cell[:1].isspace() for number, cell in enumerate(fields) if number and number not in spaced)


def _spaced_columns(text: str, delimiter: str, num_columns: int) -> frozenset[int]:
    """Returns the columns in which most cells begin with a blank, of the rows that stand in one line."""
    blanks: Counter[int] = Counter()
    num_rows = num_lines = 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for fields in reader:
        if reader.line_num == num_lines + 1 and len(fields) == num_columns:
            num_rows += 1
            blanks.update(number for number, cell in enumerate(fields) if cell[:1].isspace())
        num_lines = reader.line_num
    return frozenset(number for number, times in blanks.items() if 2 * times > num_rows)


def _hint(text: str, line: int, num_columns: int) -> str:
    header = text.split("\n", line)[line - 1]
    if header.lower().startswith("sep="):
        return "its first line, Excel's sep=, is no header: delete it"
    mark, number = Counter({mark: header.count(mark) for mark in ",;\t|"}).most_common(1)[0]
    if number < num_columns:
        return ""
    name = "tab" if mark == "\t" else f"'{mark}'"
    return f"the header holds {name} {number} times: if that is the delimiter, say delimiter: {name}"
