"""Reads an epoch from the files of a prepared data set, in windows: files read together whose samples are mixed.

Which sample comes when is settled before anything is read, as a function of the seed, the epoch and the size of a
window alone. So each window can be read elsewhere, reading can begin at any step, and a worker gets its own samples.

Shape legend: N samples of an epoch, n rows of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcore.data.prepared.columns import take_rows

_ORDER = 3  # keeps the seeds of files and windows apart from those of mmcore.data.feeding.loader


class WantedRows(NamedTuple):
    """Rows of one file.

    Attributes:
        path: The file.
        rows: Ascending, counted within the file, int64; one that is wanted often stands there as often.
        first: Place of the first of them among the wanted rows of all files.
    """

    path: Path
    rows: np.ndarray
    first: int = 0


@dataclass(frozen=True)
class Window:
    """What one task reads, and in which pieces it is used; small, and picklable.

    Attributes:
        files: Read together.
        order: (n,) int64: rows to give out, counted through the wanted rows of all files, one file after another.
        sizes: Rows of each piece, whose sum is n.
    """

    files: tuple[WantedRows, ...]
    order: np.ndarray
    sizes: tuple[int, ...]


def in_order(files: Sequence[WantedRows]) -> list[Window]:
    """Returns each file as a window of one piece, nothing mixed."""
    return [Window((file,), np.arange(len(file.rows)), (len(file.rows),)) for file in files]


def mixed(files: Sequence[WantedRows], min_rows: int, seed: int, epoch: int, part: int = 0) -> list[Window]:
    """Returns windows of one piece: files in a drawn order, together as many as hold about `min_rows`, all mixed."""
    generator = np.random.default_rng(np.random.SeedSequence([_ORDER, seed, epoch, *([part] if part else [])]))
    drawn = [files[number] for number in generator.permutation(len(files))]
    stops = np.cumsum([len(file.rows) for file in drawn])
    # Windows of about one size: what is left over would be mixed with nothing but itself.
    places = (stops - 1) * max(1, round(int(stops[-1]) / min_rows)) // int(stops[-1])
    groups = np.split(np.arange(len(drawn)), 1 + np.flatnonzero(np.diff(places)))
    windows = []
    for group in groups:
        chosen = tuple(drawn[number] for number in group)
        order = generator.permutation(sum(len(file.rows) for file in chosen))
        windows.append(Window(chosen, order, (len(order),)))
    return windows


def cut(windows: Sequence[Window], shares: Sequence[tuple[int, int]], max_rows: int) -> list[Window]:
    """Returns the windows that hold the samples of `shares`, cut into pieces that cross no share's end.

    Args:
        windows: All N samples, in order.
        shares: Ascending places among the N, from the first up to, not including, the second; none is empty.
        max_rows: The most rows of a piece.
    """
    result = []
    start = number = 0
    for window in windows:
        stop = start + len(window.order)
        pieces: list[np.ndarray] = []
        while number < len(shares) and shares[number][0] < stop:
            low, high = max(start, shares[number][0]), min(stop, shares[number][1])
            for first in range(low, high, max_rows):
                pieces.append(window.order[first - start : min(first + max_rows, high) - start])
            if shares[number][1] > stop:
                break  # the rest of this share lies in the next window
            number += 1
        if pieces:
            result.append(Window(window.files, np.concatenate(pieces), tuple(map(len, pieces))))
        start = stop
    return result


def places_of(windows: Sequence[Window]) -> np.ndarray:
    """Returns where the samples that the windows give out, one after another, stand among all wanted rows, (N,)."""
    parts = []
    for window in windows:
        wanted = [np.arange(file.first, file.first + len(file.rows)) for file in window.files]
        parts.append(np.concatenate(wanted)[window.order])
    return np.concatenate(parts)


def blocks(sizes: Sequence[int], max_rows: int) -> list[tuple[int, ...]]:
    """Returns consecutive pieces put together, as many as have at most `max_rows`; one larger than that is alone."""
    found: list[tuple[int, ...]] = []
    for size in sizes:
        if found and sum(found[-1]) + size <= max_rows:
            found[-1] += (size,)
        else:
            found.append((size,))
    return found


def read_window(window: Window, max_rows: int) -> Iterator[tuple[pa.Table, tuple[int, ...]]]:
    """Yields a window's pieces in blocks of at most `max_rows`: a table, one chunk a column, and the pieces' sizes."""
    tables: list[pa.Table] = []
    wanted: list[np.ndarray] = []
    num_read = 0
    for path, rows, _ in window.files:
        for table, own in read_rows(path, rows):
            tables.append(table)
            wanted.append(num_read + own)
            num_read += table.num_rows
    order = np.concatenate(wanted)[window.order]
    first = 0
    for sizes in blocks(window.sizes, max_rows):
        last = first + sum(sizes)
        yield take_rows(tables, order[first:last]), sizes
        first = last


def read_rows(path: Path, rows: np.ndarray) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yields a table for each row group that holds wanted rows, and which of its own are wanted.

    Where those are most, the table holds the others too: leaving them out would copy all that stay.

    Args:
        path: The file.
        rows: Ascending, counted within the file.
    """
    first = 0
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            last = first + file.metadata.row_group(number).num_rows
            wanted = rows[np.searchsorted(rows, first) : np.searchsorted(rows, last)] - first
            if len(wanted):
                # One thread: the columns are few and large, and handing them to others takes longer than reading them.
                table = file.read_row_group(number, use_threads=False)
                if 2 * len(wanted) >= table.num_rows:
                    yield table, wanted
                else:
                    yield take_rows([table], wanted), np.arange(len(wanted))
            first = last
