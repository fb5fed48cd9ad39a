"""Writes a source's samples as the files of a prepared data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mmcore.data.prepared.columns import samples_to_table, table_schema
from mmcore.data.spec import FORMAT_VERSION, SPLITS, DatasetSource, DatasetSpec, Progress, Sample, SplitRules
from mmcore.errors import DataError
from mmcore.storage import sha256, write_synced

METADATA_FILE = "dataset.json"


ROW_GROUP_BYTES = 32 * 2**20


PART_BYTES = 2 * ROW_GROUP_BYTES


def write_dataset(
    source: DatasetSource, raw: Path | None, fingerprint: str, directory: Path, progress: Progress | None = None
) -> None:
    """Writes everything `source` yields into `directory`, which must not exist yet; dataset.json comes last.

    Raises:
        DataError: The source yielded no samples, or one that its spec does not allow.
    """
    directory.mkdir()
    spec = source.spec()
    writers = {split: _SplitWriter(directory, split, spec) for split in SPLITS}
    seen: set[str] = set()
    total = source.num_samples(raw)
    for split, sample in source.samples(raw):
        _check_sample(sample, split, spec, seen)
        writers[split].add(sample)
        if progress:
            progress(len(seen), total)
    files = [file for split in SPLITS for file in writers[split].close()]
    if not files:
        raise DataError(f"{spec.name}: the source yielded no samples")
    counts = {split: writer.class_counts.tolist() for split, writer in writers.items()}
    metadata = describe(source, spec, source.split_rules, fingerprint=fingerprint, counts=counts, files=files)
    write_synced(directory / METADATA_FILE, json.dumps(metadata, indent=1).encode())


def rows_of(spec: DatasetSpec) -> tuple[int, int]:
    """Returns the rows of a row group and of a file: about ROW_GROUP_BYTES and PART_BYTES, one row at least."""
    group_rows = max(1, ROW_GROUP_BYTES // sum(modality.num_bytes for modality in spec.modalities))
    return group_rows, group_rows * max(1, PART_BYTES // ROW_GROUP_BYTES)


def describe(
    source: DatasetSource,
    spec: DatasetSpec,
    rules: SplitRules,
    *,
    fingerprint: str,
    counts: dict[str, list[int]],
    files: list[dict[str, Any]],
) -> dict[str, Any]:
    """Returns the content of dataset.json."""
    return {
        "format_version": FORMAT_VERSION,
        "name": spec.name,
        "source_version": source.version,
        "source_fingerprint": fingerprint,
        "options": source.options.model_dump(mode="json"),
        "classes": list(spec.classes),
        "modalities": [asdict(modality) for modality in spec.modalities],
        "splits": {split: {"num_rows": sum(count), "class_counts": count} for split, count in counts.items()},
        "split_rules": asdict(rules),
        "constructed": source.constructed,
        "card": source.card(),
        "skipped": [
            {"sample_id": sample_id, "reason": reason, "kind": kind} for sample_id, reason, kind in source.skipped
        ],
        "noted": [{"sample_id": sample_id, "reason": reason, "rule": rule} for sample_id, reason, rule in source.noted],
        "files": files,
    }


def _check_sample(sample: Sample, split: str, spec: DatasetSpec, seen: set[str]) -> None:
    if split not in SPLITS:
        raise DataError(f"sample {sample.sample_id}: split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= sample.label < spec.num_classes:
        raise DataError(f"sample {sample.sample_id}: label must be in [0, {spec.num_classes - 1}], got {sample.label}")
    if sample.sample_id in seen:
        raise DataError(f"sample {sample.sample_id} occurs twice")
    seen.add(sample.sample_id)


class _SplitWriter:
    """Writes one split's samples into parts of about PART_BYTES, row groups of about ROW_GROUP_BYTES."""

    def __init__(self, directory: Path, split: str, spec: DatasetSpec):
        self._directory = directory
        self._split = split
        self._spec = spec
        self._group_rows, self._part_rows = rows_of(spec)
        self._waiting: list[Sample] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[int] = []
        self.class_counts = np.zeros(spec.num_classes, dtype=np.int64)

    def add(self, sample: Sample) -> None:
        self._waiting.append(sample)
        self.class_counts[sample.label] += 1
        if len(self._waiting) == self._group_rows:
            self._flush()

    def close(self) -> list[dict[str, Any]]:
        """Writes what waits; returns the files' entries for the metadata."""
        if self._waiting:
            self._flush()
        self._close_part()
        return [self._describe(part) for part in range(len(self._rows))]

    def _flush(self) -> None:
        if self._writer is None:
            path = self._path(len(self._rows))
            path.parent.mkdir(exist_ok=True)
            self._writer = parquet_writer(path, self._spec)
            self._rows.append(0)
        self._writer.write_table(samples_to_table(self._waiting, self._spec), row_group_size=self._group_rows)
        self._rows[-1] += len(self._waiting)
        self._waiting = []
        if self._rows[-1] >= self._part_rows:
            self._close_part()

    def _close_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _path(self, part: int) -> Path:
        return self._directory / self._split / f"part-{part:05d}.parquet"

    def _describe(self, part: int) -> dict[str, Any]:
        path = self._path(part)
        return {
            "path": path.relative_to(self._directory).as_posix(),
            "split": self._split,
            "num_rows": self._rows[part],
            "num_bytes": path.stat().st_size,
            "sha256": sha256(path),
        }


def parquet_writer(path: Path, spec: DatasetSpec) -> pq.ParquetWriter:
    """Opens a file of a prepared data set for writing."""
    schema = table_schema(spec)
    compression = dict.fromkeys(schema.names, "none")
    # Padding is worth compressing; full frames and features are not.
    compression |= {modality.name: "lz4" for modality in spec.modalities if modality.variable_length}
    return pq.ParquetWriter(path, schema, use_dictionary=False, compression=compression)
