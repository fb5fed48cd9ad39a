"""Samples as Arrow columns and back: fixed-size binary, viewed without a loop over samples.

Parquet stores a fixed-shape tensor column as a list with a level for every element; fixed-size binary
columns read many times faster and become tensors by reshaping the column's buffer.

Shape legend: B samples of a table; the rest of a modality's shape is its own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from mmcore.batch import Batch
from mmcore.data.spec import DatasetSpec, Modality, Sample
from mmcore.errors import DataError

SCHEMA_KEY = b"equipoise"
"""Key of the schema's metadata under which shape and dtype of each modality stand, as JSON."""


LARGE_BYTES = 4096
"""Values of this size and more are moved one by one: to index by many at once would copy them twice."""


INDEX_COLUMNS = ("sample_id", "label", "group", "source", "replicate")
"""Columns that describe a sample; the others hold its data."""


class Arrays(NamedTuple):
    """The columns of a table as NumPy arrays.

    Attributes:
        inputs: Modality -> (B, ...) as stored; read-only views of the columns' buffers.
        labels: (B,) int64.
        lengths: Modality -> (B,) int64, for modalities of variable length.
        present: Modality -> (B,) bool, for modalities that may be missing.
        sample_ids: (B,) str objects.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    lengths: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    sample_ids: np.ndarray


def table_schema(spec: DatasetSpec) -> pa.Schema:
    """Returns the schema of a data set's files."""
    fields = [
        pa.field("sample_id", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("group", pa.string()),
        pa.field("source", pa.string()),
        pa.field("replicate", pa.int64()),
    ]
    for modality in spec.modalities:
        fields.append(pa.field(modality.name, pa.binary(modality.num_bytes)))
        if modality.variable_length:
            fields.append(pa.field(f"{modality.name}__length", pa.int64()))
        if modality.may_be_missing:
            fields.append(pa.field(f"{modality.name}__present", pa.bool_()))
    layout = {modality.name: {"shape": modality.shape, "dtype": modality.dtype} for modality in spec.modalities}
    return pa.schema(fields, metadata={SCHEMA_KEY: json.dumps(layout).encode()})


def samples_to_table(samples: Sequence[Sample], spec: DatasetSpec) -> pa.Table:
    """Returns `samples` as a table of `table_schema(spec)`.

    Raises:
        DataError: A sample's array is not of the shape and dtype the spec declares; the message names it.
    """
    columns: dict[str, Any] = {name: [getattr(sample, name) for sample in samples] for name in INDEX_COLUMNS}
    for modality in spec.modalities:
        columns[modality.name] = _binary_column(samples, modality)
        if modality.variable_length:
            columns[f"{modality.name}__length"] = [sample.lengths[modality.name] for sample in samples]
        if modality.may_be_missing:
            columns[f"{modality.name}__present"] = [sample.present.get(modality.name, True) for sample in samples]
    return pa.table(columns, schema=table_schema(spec))


def binary_column(data: np.ndarray, modality: Modality) -> pa.Array:
    """Returns samples (B, ...) of the modality's shape and dtype as its column; no copy where they are contiguous."""
    assert data.shape[1:] == modality.shape
    assert data.dtype == modality.dtype
    buffer = pa.py_buffer(np.ascontiguousarray(data))
    return pa.Array.from_buffers(pa.binary(modality.num_bytes), len(data), [None, buffer])


def columns_to_arrays(table: pa.Table | pa.RecordBatch, spec: DatasetSpec) -> Arrays:
    """Views a table's columns as arrays; only a column of several chunks is copied (once, to join them)."""
    lengths = {m.name: _numbers(table, f"{m.name}__length") for m in spec.modalities if m.variable_length}
    present = {m.name: _numbers(table, f"{m.name}__present") for m in spec.modalities if m.may_be_missing}
    return Arrays(
        inputs={modality.name: _view(table, modality) for modality in spec.modalities},
        labels=_numbers(table, "label"),
        lengths=lengths,
        present=present,
        sample_ids=_one_chunk(table, "sample_id").to_numpy(zero_copy_only=False),
    )


def to_batch(table: pa.Table | pa.RecordBatch, spec: DatasetSpec) -> Batch:
    """Returns a table's samples as tensors over the same memory; do not write into them."""
    arrays = columns_to_arrays(table, spec)
    return Batch(
        inputs={name: as_tensor(array) for name, array in arrays.inputs.items()},
        labels=as_tensor(arrays.labels),
        lengths={name: as_tensor(array) for name, array in arrays.lengths.items()},
        present={name: as_tensor(array) for name, array in arrays.present.items()},
        sample_ids=arrays.sample_ids.tolist(),
    )


def take_rows(tables: Sequence[pa.Table], rows: np.ndarray) -> pa.Table:
    """Returns some rows of tables of one schema, in the order asked for; every column in one chunk.

    Fixed-size binary is moved by NumPy, which takes whole samples; Arrow's own `take` was measured 20 times as slow.

    Args:
        tables: Their rows are counted one table after another.
        rows: (B,) int64, in any order.
    """
    whole = pa.concat_tables(tables)
    columns = []
    for field in whole.schema:
        column = whole.column(field.name)
        taken = _take_binary(column, rows) if pa.types.is_fixed_size_binary(field.type) else column.take(pa.array(rows))
        columns.append(taken)
    return pa.table(columns, schema=whole.schema).combine_chunks()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Returns a tensor over the array's memory, read-only memory too (which torch can not mark as such)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _binary_column(samples: Sequence[Sample], modality: Modality) -> pa.Array:
    data = np.empty((len(samples), *modality.shape), dtype=modality.dtype)
    for row, sample in enumerate(samples):
        array = sample.arrays[modality.name]
        if array.shape != modality.shape or array.dtype != data.dtype:
            raise DataError(
                f"sample {sample.sample_id}: {modality.name} must be {modality.dtype} {modality.shape}, "
                f"got {array.dtype} {array.shape}"
            )
        data[row] = array
    return binary_column(data, modality)


def _take_binary(column: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    width = column.type.byte_width
    taken = np.empty((len(rows), width), np.uint8)
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    places = np.searchsorted(starts, rows, side="right") - 1
    stored = [_bytes_of(chunk, width) for chunk in column.chunks]
    if width >= LARGE_BYTES:
        for target, number, row in zip(taken, places.tolist(), (rows - starts[places]).tolist(), strict=True):
            target[:] = stored[number][row]
    else:
        for number in np.unique(places):
            wanted = np.flatnonzero(places == number)
            taken[wanted] = stored[number][rows[wanted] - starts[number]]
    return pa.Array.from_buffers(column.type, len(rows), [None, pa.py_buffer(taken)])


def _bytes_of(chunk: pa.Array, width: int) -> np.ndarray:
    """Returns a view (B, width) of fixed-size binary."""
    if not len(chunk):
        return np.empty((0, width), np.uint8)
    return np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width).reshape(-1, width)


def _view(table: pa.Table | pa.RecordBatch, modality: Modality) -> np.ndarray:
    column = _one_chunk(table, modality.name)
    if column.type != pa.binary(modality.num_bytes):
        raise DataError(f"column {modality.name} must be {modality.num_bytes} bytes a sample, got {column.type}")
    dtype = np.dtype(modality.dtype)
    if len(column) == 0:
        return np.empty((0, *modality.shape), dtype)
    flat = np.frombuffer(
        column.buffers()[1],
        dtype=dtype,
        count=len(column) * modality.num_bytes // dtype.itemsize,
        offset=column.offset * modality.num_bytes,  # a slice shares its parent's buffer
    )
    return flat.reshape(len(column), *modality.shape)


def _numbers(table: pa.Table | pa.RecordBatch, name: str) -> np.ndarray:
    numbers: np.ndarray = _one_chunk(table, name).to_numpy(zero_copy_only=False)
    return numbers


def _one_chunk(table: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column
