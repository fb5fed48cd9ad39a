"""Reads tables of samples row by row, so that one bad row is one reported row.

Delimited text (`mmcore.data.raw.delimited`), JSON objects a line, Parquet. A cell is what the file says: text in
delimited text, a text, number, list or None in the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmcore.config.documents import parse_json
from mmcore.config.texts import decoded, repeated
from mmcore.data.medium import refuse_pointer
from mmcore.data.raw.delimited import read_delimited
from mmcore.errors import UsageError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})


PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})


KINDS = ".csv, .tsv, .tab, .jsonl, .ndjson, .parquet or .pq"


Row = tuple[str, dict[str, Any] | str]
"""Where a row stands (file name and line, or row of a Parquet file), and its cells or why there are none."""


@dataclass(frozen=True)
class Table:
    """A table whose columns are known.

    Attributes:
        path: The file.
        columns: Their names, in order.
        rows: Yields the rows, given the names of the columns that are looked at; others may be left out.
        unusable: Column -> why its values can not be told: two have its name, or its type is none of a sample's.
        hint: What may be wrong where a column is missing; empty: nothing to say.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Callable[[Collection[str]], Iterator[Row]]
    unusable: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""

    def problems(self, needed: Mapping[str, str]) -> list[str]:
        """Returns what is wrong with the columns that are needed, one sentence each.

        Args:
            needed: Column -> what it is for.
        """
        found = []
        for name, use in sorted(needed.items()):
            if name not in self.columns:
                hint = f"; {self.hint}" if self.hint else ""
                found.append(f"{self.path.name} has no column '{name}' ({use}); it has {', '.join(self.columns)}{hint}")
            elif name in self.unusable:
                found.append(f"{self.path.name}: column '{name}' ({use}) {self.unusable[name]}")
        return found


def read_table(path: Path, delimiter: str | None = None, quoting: str | None = None) -> Table:
    """Opens a table; its name's extension says what it is.

    Args:
        path: Ends in one of `KINDS`; any other ending is delimited text where `delimiter` is given.
        delimiter: Delimiter of delimited text; None: the comma of .csv, the tab of .tsv and .tab.
        quoting: Quoting of delimited text: "csv", "none", or None, see `read_delimited`.

    Raises:
        UsageError: The file is missing, a folder, not UTF-8, of another kind, has no rows, or its quotes can not be
            told.
    """
    if path.is_dir():
        raise UsageError(f"the manifest {path} is a folder; name a {KINDS} file")
    suffix = path.suffix.lower()
    is_text = suffix not in JSON_SUFFIXES | PARQUET_SUFFIXES
    if is_text and delimiter is None and suffix not in DELIMITERS:
        raise UsageError(f"the manifest must be a {KINDS} file, got {path.name}; other text needs delimiter:")
    if not is_text and (delimiter or quoting):
        raise UsageError(f"delimiter: and quoting: are of delimited text, {path.name} is none; leave them out")
    if not path.exists():
        raise UsageError(f"the manifest {path} does not exist")
    refuse_pointer(path)
    if suffix in PARQUET_SUFFIXES:
        table = _read_parquet(path)
    elif suffix in JSON_SUFFIXES:
        table = _read_jsonl(path)
    else:
        table = _read_delimited(path, delimiter or DELIMITERS[suffix], quoting)
    return table


def _read_delimited(path: Path, delimiter: str, quoting: str | None) -> Table:
    header, lines, hint = read_delimited(path, delimiter, quoting)

    def rows(_: Collection[str]) -> Iterator[Row]:
        name, num_columns = path.name, len(header)
        for number, fields in lines():
            if len(fields) == num_columns:
                yield f"{name}:{number}", dict(zip(header, fields, strict=True))
            else:
                yield f"{name}:{number}", f"the row has {len(fields)} fields, not {num_columns}"

    unusable = dict.fromkeys(repeated(header), "is there twice; give each column its own name")
    return Table(path, tuple(dict.fromkeys(header)), rows, unusable, hint)


def _read_jsonl(path: Path) -> Table:
    found = list(_json_rows(path))
    columns = dict.fromkeys(name for _, record in found if isinstance(record, dict) for name in record)
    if not columns:
        first = f" ({found[0][0]}: {found[0][1]})" if found else ""
        raise UsageError(f"the manifest {path} has no rows: it must hold one JSON object a line{first}")
    return Table(path, tuple(columns), lambda _: iter(found))


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            record = parse_json(line.strip())
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            yield place, "the line holds half a character (one \\ud800 to \\udfff alone)"
        except ValueError as error:
            yield place, f"the line is not valid JSON: {error}"
        else:
            yield place, record if isinstance(record, dict) else "the line is not a JSON object"


def _read_parquet(path: Path) -> Table:
    try:
        with pq.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"the manifest {path} is not a valid Parquet file: {str(error).splitlines()[0]}") from None
    if not num_rows:
        raise UsageError(f"the manifest {path} has no rows")
    unusable = {
        column.name: f"holds {column.type}, which is no text, number or list of numbers; cast it"
        for column in schema
        if not _is_cell(column.type)
    }
    unusable |= dict.fromkeys(repeated(schema.names), "is there twice; give each column its own name")
    return Table(path, tuple(dict.fromkeys(schema.names)), lambda names: _parquet_rows(path, names), unusable)


def _parquet_rows(path: Path, names: Collection[str]) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[name for name in file.schema_arrow.names if name in names]):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path.name}:{number}", record
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the manifest {path} can not be read after row {number}: {reason}") from None


def _is_cell(kind: pa.DataType, *, is_nested: bool = False) -> bool:
    """Tells whether a column of this type can be a sample's text, number or series."""
    types = pa.types
    if types.is_dictionary(kind):
        return _is_cell(kind.value_type, is_nested=is_nested)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_cell(kind.value_type, is_nested=True)
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return types.is_integer(kind) or types.is_floating(kind) or ((is_text or types.is_null(kind)) and not is_nested)
