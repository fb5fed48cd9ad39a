"""Prepares a raw data set in parts: each a file of its own, made anywhere, kept if a killed run left it whole.

A part's name is a hash of what it is made of, so a part that is there is the right one. dataset.json comes last:
until then nothing can be opened, and the data set that was there before stays in its place.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmcore.data.media import RawFolder
from mmcore.data.prepared.columns import samples_to_table
from mmcore.data.prepared.part_files import keep_only, keep_report, stored_report, write_file
from mmcore.data.prepared.writer import METADATA_FILE, describe, rows_of
from mmcore.data.raw.index import DAMAGED, Entry, Index, Problem, check_faults
from mmcore.data.raw.source import RawSource, entry_key, settings_key
from mmcore.data.spec import SPLITS, DatasetSpec, Sample
from mmcore.errors import DataError
from mmcore.storage import write_synced


@dataclass(frozen=True)
class Part:
    """Some samples of one split, written together; small, and picklable.

    Attributes:
        path: Path of its file, in the prepared data set.
        split: Split of all its samples.
        entries: Its samples, in order.
    """

    path: str
    split: str
    entries: tuple[Entry, ...]

    @property
    def num_rows(self) -> int:
        """Samples it is made of."""
        return len(self.entries)


@dataclass(frozen=True)
class PartWriter:
    """Writes parts; sent to where they are written, which must see both folders.

    Attributes:
        source: The data set.
        folder: Its raw files.
        spec: What is stored.
        directory: Where the parts go; None: they are decoded and nothing is written.
    """

    source: RawSource
    folder: RawFolder
    spec: DatasetSpec
    directory: Path | None

    def __call__(self, part: Part) -> dict[str, Any]:
        """Writes one part, or finds it written; returns its report as plain values.

        The report holds "path", "split", "num_rows", "class_counts", "num_bytes", "sha256", "lengths" (modality ->
        sample -> valid length) and "problems": damaged samples, which are left out, and noted ones, which are in.
        Other errors, a full disk among them, come back as "error", so that they are one message wherever the part
        was written.
        """
        try:
            return self._stored(part) or self._written(part)
        except (DataError, OSError) as error:
            return {"path": part.path, "error": f"{part.path}: {error}"}

    def _stored(self, part: Part) -> dict[str, Any] | None:
        return None if self.directory is None else stored_report(self.directory, part)

    def _written(self, part: Part) -> dict[str, Any]:
        problems: list[Problem] = []
        lengths: dict[str, dict[str, int]] = {m.name: {} for m in self.spec.modalities if m.variable_length}
        counts = np.zeros(self.spec.num_classes, dtype=np.int64)
        samples = self._decoded(part, problems, lengths, counts)
        report = {"path": part.path, "split": part.split, "num_bytes": 0, "sha256": ""}
        if self.directory is None:
            for _ in samples:
                pass
        else:
            report |= write_file(self.directory / part.path, _tables(samples, self.spec), self.spec)
        report |= {"num_rows": int(counts.sum()), "class_counts": counts.tolist()}
        report |= {"problems": [asdict(problem) for problem in problems], "lengths": lengths}
        if self.directory is not None:
            keep_report(self.directory, part, report)
        return report

    def _decoded(
        self, part: Part, problems: list[Problem], lengths: dict[str, dict[str, int]], counts: np.ndarray
    ) -> Iterator[Sample]:
        for entry in part.entries:
            try:
                sample, notes = self.source.decode(entry, self.folder)
            except DataError as error:
                problems.append(Problem(entry.sample_id, DAMAGED, str(error)))
                continue
            problems += notes
            counts[sample.label] += 1
            for name, length in sample.lengths.items():
                lengths[name][sample.sample_id] = length
            yield sample


def plan_parts(source: RawSource, index: Index, folder: RawFolder, spec: DatasetSpec) -> list[Part]:
    """Cuts the index into parts of about the size `mmcore.data.prepared.writer` gives its files."""
    parts = []
    settings = settings_key(source, spec, folder)
    num_rows = rows_of(spec)[1]
    for split in SPLITS:
        entries = [entry for entry in index.entries if entry.split == split]
        for start in range(0, len(entries), num_rows):
            chosen = tuple(entries[start : start + num_rows])
            digest = hashlib.sha256(settings)
            for entry in chosen:
                digest.update(entry_key(source, entry, folder))
            parts.append(Part(f"{split}/part-{digest.hexdigest()[:16]}.parquet", split, chosen))
    return parts


def finish(
    source: RawSource,
    spec: DatasetSpec,
    index: Index,
    *,
    fingerprint: str,
    directory: Path,
    reports: Sequence[dict[str, Any]],
    on_missing: str,
) -> None:
    """Makes the written parts a prepared data set: removes what belongs to no part, writes dataset.json.

    Raises:
        DataError: A sample is damaged, and `on_missing` is "fail"; the parts are kept for a repaired file.
    """
    problems = index.problems + [Problem(**problem) for report in reports for problem in report["problems"]]
    check_faults(source.name, problems, sum(report["num_rows"] for report in reports), on_missing)
    files = keep_only(directory, reports)
    written = [report for report in reports if report["num_rows"]]
    zeros = np.zeros(spec.num_classes, dtype=np.int64)
    counts = {
        split: sum((np.array(r["class_counts"]) for r in written if r["split"] == split), zeros).tolist()
        for split in SPLITS
    }
    for problem in problems:
        if problem.stays_in:
            source.note(problem.sample_id, problem.reason, problem.rule)
        else:
            source.skip(problem.sample_id, f"{problem.kind}: {problem.reason}", problem.kind)
    rules = source.rules(replace(index, entries=index.without(problems)))
    metadata = describe(source, spec, rules, fingerprint=fingerprint, counts=counts, files=files)
    write_synced(directory / METADATA_FILE, json.dumps(metadata, indent=1).encode())


def _tables(samples: Iterator[Sample], spec: DatasetSpec) -> Iterator[pa.Table]:
    while waiting := _take(samples, rows_of(spec)[0]):
        yield samples_to_table(waiting, spec)


def _take(samples: Iterator[Sample], number: int) -> list[Sample]:
    return list(itertools.islice(samples, number))
