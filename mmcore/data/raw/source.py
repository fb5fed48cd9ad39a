"""Data sets made from raw files: a reader of their layouts makes an index, decoders turn its entries into samples.

A source says which media it has (`media`), reads its lists (`read_index`), and can write a small raw copy of itself
in the real layout (`write_demo`). What it cannot use, it leaves out with a reason; nothing is skipped uncounted.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from mmcore.config.sections import Section
from mmcore.data.media import CROPPED, POINTER_ADVICE, Decoded, Medium, MissingMedium, Note, RawFolder
from mmcore.data.raw.index import DAMAGED, MISSING, NOTED, Entry, Index, Problem, counted
from mmcore.data.spec import FORMAT_VERSION, DatasetSource, DatasetSpec, Modality, Sample, SplitRules
from mmcore.data.splits import default_protocol
from mmcore.errors import UsageError
from mmcore.storage import sha256


class RawConfig(Section):
    """Options every raw data set has; another value is another prepared data set."""

    demo: bool = Field(
        default=False, description="small pictures and texts and tiny encoders, for the demo's raw files"
    )


class RawSource(DatasetSource):
    """A data set made from raw files.

    Class attributes:
        name: Registered name.
        classes: Frozen order, whatever order the lists have.
        expected: Variant of the lists -> split -> samples after the filters, as published.
    """

    name: str
    classes: tuple[str, ...]
    version = 2  # of the decoders; 2: sound as float, pictures by a stated rule, clips by their time stamps
    expected: ClassVar[Mapping[str, Mapping[str, int]]] = {}

    def __init__(self, options: BaseModel):
        super().__init__(options)
        self.constructed = isinstance(options, RawConfig) and options.demo

    @abstractmethod
    def media(self) -> Sequence[Medium]:
        """Returns the decoders under these options, in the modalities' order."""

    @abstractmethod
    def read_index(self, folder: RawFolder) -> Index:
        """Reads the lists; looks at media only as far as it must to know what a sample consists of.

        Raises:
            UsageError: No list is there, or in no known layout.
        """

    @abstractmethod
    def write_demo(self, directory: Path) -> None:
        """Writes a small raw copy in the real layout, with everything needed to prepare it."""

    def spec(self) -> DatasetSpec:
        """Returns classes and modalities, without what only the raw files tell."""
        return DatasetSpec(self.name, self.classes, tuple(medium.modality for medium in self.media()))

    def stored_spec(self, folder: RawFolder) -> DatasetSpec:
        """Returns classes and modalities as they are stored."""
        return DatasetSpec(self.name, self.classes, tuple(medium.stored(folder) for medium in self.media()))

    def index(self, folder: RawFolder) -> Index:
        """Returns the index, completed.

        Raises:
            UsageError: As `read_index`; or one of several lists is not there.
        """
        index = self.read_index(folder)
        if index.absent:
            raise UsageError(f"{self.name}: {'; '.join(index.absent.values())}. {self.raw_help}")
        self.complete(index, folder)
        return index

    def complete(self, index: Index, folder: RawFolder) -> None:
        """Leaves out the samples whose files are missing, and puts the others in their final order.

        The order is a hash of the ids, so that classes are mixed and no file system's order matters.
        """
        complete = []
        for entry in index.entries:
            reason = fault_of(self, entry, folder)
            if reason:
                index.problems.append(Problem(entry.sample_id, kind_of_fault(reason), reason))
            else:
                complete.append(entry)
        index.entries = sorted(complete, key=lambda entry: hashlib.sha256(entry.sample_id.encode()).digest())

    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        """Yields (published split, sample), decoded; `rayjobs.prepare` decodes in parts instead."""
        assert raw_dir is not None
        folder = RawFolder(raw_dir)
        for entry in self.index(folder).entries:
            yield entry.split, self.decode(entry, folder)[0]

    def decode(self, entry: Entry, folder: RawFolder) -> tuple[Sample, list[Problem]]:
        """Returns a sample, and what was cropped of it or is to be noted of it.

        Raises:
            DataError: A medium is damaged; the message names it.
        """
        sample = Sample(entry.sample_id, entry.label, entry.group_key, entry.source_key, {})
        notes = []
        for medium in self.media():
            modality, value = medium.modality, entry.media[medium.modality.name]
            decoded = _missing(modality) if value is None else _read(medium, folder, value)
            if modality.may_be_missing:
                sample.present[modality.name] = decoded.is_present
            sample.arrays[modality.name] = decoded.array
            if modality.variable_length and decoded.length is not None:
                sample.lengths[modality.name] = decoded.length
            notes += [_noted(entry.sample_id, modality.name, note) for note in decoded.notes]
        return sample, notes

    def columns_to_fill(self, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
        """Returns "'column' (modality)" -> which entries have a number there, of filled columns."""
        return {}

    def rules(self, index: Index) -> SplitRules:
        """Returns the split rules; the default protocol is the one that keeps groups apart."""
        default = default_protocol(index_table(index.entries), published=index.published)
        return replace(self.split_rules, default_protocol=default, published=index.published)


def _missing(modality: Modality, *notes: Note) -> Decoded:
    zeros = np.zeros(modality.shape, dtype=modality.dtype)
    return Decoded(zeros, length=0, notes=notes, is_present=False)


def _read(medium: Medium, folder: RawFolder, value: Any) -> Decoded:
    """Decodes one medium; a file that has nothing of it is a missing modality, where that may be."""
    try:
        return medium.read(folder, value)
    except MissingMedium as error:
        if not medium.modality.may_be_missing:
            raise
        return _missing(medium.modality, Note("missing", f"({error})"))


def _noted(sample_id: str, modality: str, note: Note) -> Problem:
    kind = CROPPED if note.rule == CROPPED else NOTED
    return Problem(sample_id, kind, f"{modality} {note}", rule=f"{modality} {note.rule}")


def index_table(entries: Sequence[Entry]) -> pa.Table:
    """Returns what the protocols go by, as it will be in `PreparedDataset.index`; the rows' order is another."""
    return pa.table(
        {
            "sample_id": pa.array([entry.sample_id for entry in entries], pa.string()),
            "label": pa.array([entry.label for entry in entries], pa.int64()),
            "group": pa.array([entry.group_key for entry in entries], pa.string()),
            "source": pa.array([entry.source_key for entry in entries], pa.string()),
            "replicate": pa.array([0] * len(entries), pa.int64()),
            "split": pa.array([entry.split for entry in entries], pa.string()),
        }
    )


def settings_key(source: RawSource, spec: DatasetSpec, folder: RawFolder) -> bytes:
    """Returns what every prepared sample depends on, beside its own entry, as a digest."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {source.version} {source.options!r} {spec!r}".encode())
    for medium in source.media():
        for path in medium.shared_files(folder):
            digest.update(sha256(path).encode())
    return digest.digest()


def index_fingerprint(source: RawSource, spec: DatasetSpec, index: Index, folder: RawFolder) -> str:
    """Hashes what a prepared data set depends on: settings, entries, and size and time of each raw file.

    Their contents are not read: for a hundred gigabytes that would take as long as preparing them.
    """
    digest = hashlib.sha256(settings_key(source, spec, folder))
    for entry in index.entries:
        digest.update(entry_key(source, entry, folder))
    digest.update(repr(index.problems).encode())
    return digest.hexdigest()


def entry_key(source: RawSource, entry: Entry, folder: RawFolder) -> bytes:
    """Returns what one prepared sample depends on, apart from the options, as a digest."""
    stamps = []
    for medium in source.media():
        value = entry.media[medium.modality.name]
        for path in [] if value is None else medium.files(value):
            status = folder.path(path).stat()
            stamps.append((path, status.st_size, status.st_mtime_ns))
    content = [entry.sample_id, entry.label, entry.split, entry.group, entry.source, dict(entry.media), stamps]
    return hashlib.sha256(json.dumps(content).encode()).digest()


def fault_of(source: RawSource, entry: Entry, folder: RawFolder) -> str | None:
    """Returns which modalities of a sample cannot be read and why, as far as a look at the files tells, or None."""
    reasons = []
    for medium in source.media():
        name = medium.modality.name
        value = entry.media[name]
        if value is None:
            if not medium.modality.may_be_missing:
                reasons.append(f"no {name}")
            continue
        faults = [fault for fault in map(folder.fault, medium.files(value)) if fault]
        if faults:
            reasons.append(f"{name}: {faults[0]}")
    return "; ".join(reasons) or None


def kind_of_fault(reason: str) -> str:
    """Returns the kind of what `fault_of` found: a file that Git LFS keeps elsewhere is there, and damaged."""
    return DAMAGED if POINTER_ADVICE in reason else MISSING


def no_media(source: RawSource, index: Index, folder: RawFolder) -> UsageError:
    """Returns the error for a raw folder of which not one row of the lists becomes a sample.

    It says why: files that are missing are one reason; rows that are bad or left out by rule are others.
    """
    lost = [problem for problem in index.problems if not problem.stays_in]
    faults = sorted(lost, key=lambda problem: not problem.is_fault)
    first = f" (first: {faults[0].sample_id}: {faults[0].reason})" if faults else ""
    kinds = Counter(problem.kind for problem in lost)
    if set(kinds) <= {MISSING}:
        what = f"not one of the {len(lost)} samples listed has its files in {folder.root}{first}. {source.raw_help}"
    else:
        counts = ", ".join(counted(number, kind) for kind, number in kinds.most_common())
        what = f"not one of the {len(lost)} rows becomes a sample: {counts}{first}"
        what += f". The files were looked for in {folder.root}" if MISSING in kinds else ""
    return UsageError(f"{source.name}: {what}")
