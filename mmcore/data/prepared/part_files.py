"""Parts of a prepared data set as files: each written by a temporary name, with a report, and kept by whoever goes on.

A part's name is a hash of what it is made of, so a part that is there is the right one, and nothing is made twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from mmcore.data.prepared.writer import parquet_writer, rows_of
from mmcore.data.spec import DatasetSpec, Progress
from mmcore.errors import DataError
from mmcore.storage import sha256, write_synced

REPORTS = "reports"


FILE_KEYS = ("path", "split", "num_rows", "num_bytes", "sha256")
"""What dataset.json tells of each file."""


class PlannedPart(Protocol):
    """A part to be written; small, and picklable."""

    @property
    def path(self) -> str:
        """Path of its file, in the prepared data set."""
        ...

    @property
    def split(self) -> str:
        """Split of all its samples."""
        ...

    @property
    def num_rows(self) -> int:
        """Samples it is made of."""
        ...


class Writer(Protocol):
    """Writes one part, or finds it written; picklable, since it is sent to where parts are written."""

    @property
    def spec(self) -> DatasetSpec:
        """What is stored."""
        ...

    def __call__(self, part: Any) -> dict[str, Any]:
        """Returns the part's report as plain values: FILE_KEYS and more, or "path" and "error"."""
        ...


RunParts = Callable[[Any, Sequence[Any]], Iterable[dict[str, Any]]]
"""Runs a writer over parts, in any order, somewhere; yields each part's report once."""


def run_here(writer: Writer, parts: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Runs a writer over parts in this process."""
    yield from map(writer, parts)


def write_parts(
    writer: Writer, parts: Sequence[PlannedPart], run: RunParts, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Writes all parts and returns their reports, in the parts' order.

    Raises:
        DataError: A part could not be written; those that could be are kept.
    """
    reports: dict[str, dict[str, Any]] = {}
    total = sum(part.num_rows for part in parts)
    sizes = {part.path: part.num_rows for part in parts}
    done = 0
    for report in run(writer, parts):
        if "error" in report:
            raise DataError(f"{writer.spec.name}: {report['error']}; what is written is kept: mend it and run again")
        reports[report["path"]] = report
        done += sizes[report["path"]]
        if progress:
            progress(done, total)
    return [reports[part.path] for part in parts]


def stored_report(directory: Path, part: PlannedPart) -> dict[str, Any] | None:
    """Returns the report of a part that is there and whole, else None: it is to be written."""
    try:
        report = json.loads(_report_path(directory, part).read_bytes())
        whole = report["num_rows"] == 0 or sha256(directory / part.path) == report["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not written yet, or cut off
    return report if whole else None


def keep_report(directory: Path, part: PlannedPart, report: dict[str, Any]) -> None:
    """Enters a part as written; its file must be there."""
    _replace_synced(_report_path(directory, part), json.dumps(report).encode())


def write_file(path: Path, tables: Iterable[pa.Table], spec: DatasetSpec) -> dict[str, Any]:
    """Writes tables as one file, by a temporary name; returns its size and checksum, {} where there are no rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    num_rows = 0
    try:
        with parquet_writer(temporary, spec) as file:
            for table in tables:
                file.write_table(table, row_group_size=rows_of(spec)[0])
                num_rows += len(table)
        if not num_rows:
            return {}
        entry = {"num_bytes": temporary.stat().st_size, "sha256": sha256(temporary)}
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return entry


def keep_only(directory: Path, reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Removes files that are of none of the parts; returns what dataset.json tells of those that are."""
    written = [report for report in reports if report["num_rows"]]
    kept = {report["path"] for report in written}
    for path in directory.glob("*/part-*"):
        if path.relative_to(directory).as_posix() not in kept:
            path.unlink()
    return [{key: report[key] for key in FILE_KEYS} for report in written]


def _report_path(directory: Path, part: PlannedPart) -> Path:
    return directory / REPORTS / f"{Path(part.path).stem}-{part.split}.json"


def _replace_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    write_synced(temporary, data)
    temporary.rename(path)
