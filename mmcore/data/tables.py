"""Reads tables of samples row by row, so that one bad row is one reported row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmcore.errors import UsageError


def read_table(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yields (place, record or the reason why there is none) for each row of a CSV or JSONL file.

    Raises:
        UsageError: The file is missing, not UTF-8, or of another kind.
    """
    if path.suffix.lower() not in {".csv", ".tsv", ".jsonl", ".ndjson"}:
        raise UsageError(f"the manifest must be a .csv, .tsv or .jsonl file, got {path.name}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"the manifest {path} does not exist") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8") from None
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        yield from _read_jsonl(path, text)
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
        for record in reader:
            place = f"{path.name}:{reader.line_num}"
            wrong = None in record or None in record.values()
            yield place, f"the row has not {len(reader.fieldnames or [])} fields" if wrong else record


def _read_jsonl(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            yield place, f"the line is no JSON: {error}"
            continue
        yield place, record if isinstance(record, dict) else "the line is no JSON object"
