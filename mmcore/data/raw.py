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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from mmcore.config import Section
from mmcore.data.media import CROPPED, POINTER_ADVICE, Decoded, Medium, MissingMedium, Note, RawFolder
from mmcore.data.spec import DatasetSource, DatasetSpec, Modality, Sample, SplitRules
from mmcore.data.splits import default_protocol
from mmcore.data.writer import FORMAT_VERSION, sha256
from mmcore.errors import DataError, UsageError

FILTERED, DUPLICATE, NOTED = "filtered", "duplicate", "noted"
"""Left out by a stated rule, or (noted, and CROPPED) in with something to be said; others are faults of the files."""
MISSING, DAMAGED, BAD_ROW, CONFLICT = "missing", "damaged", "bad row", "conflict"
STAYS_IN = frozenset({NOTED, CROPPED})
LOST = frozenset({MISSING, DAMAGED})
BY_RULE = frozenset({FILTERED, DUPLICATE}) | STAYS_IN
NUM_SHOWN = 5


class RawConfig(Section):
    """Options every raw data set has; another value is another prepared data set."""

    demo: bool = Field(
        default=False, description="small pictures and texts and tiny encoders, for the demo's raw files"
    )


@dataclass(frozen=True)
class Entry:
    """One sample of an index, not decoded yet.

    Attributes:
        sample_id: Unique within the data set.
        label: Class index.
        split: As published: "train", "val" or "test".
        media: Modality -> what its decoder takes (a path, a text); None: this sample lacks the modality.
        group: See `Sample.group`; empty: the sample stands alone.
        source: See `Sample.source`; empty: the sample's own id.
    """

    sample_id: str
    label: int
    split: str
    media: Mapping[str, Any]
    group: str = ""
    source: str = ""

    @property
    def source_key(self) -> str:
        """The recording it comes from, as it is stored."""
        return self.source or self.sample_id

    @property
    def group_key(self) -> str:
        """What must stay on one side of every boundary, as it is stored."""
        return self.group or self.source_key


@dataclass(frozen=True)
class Problem:
    """Why a sample, or a line that should be one, is left out, or what was done to one that is in.

    Attributes:
        sample_id: The sample, or the line's place where it has no id.
        kind: One of this module's constants; `BY_RULE` are no faults.
        reason: For people.
        rule: Of a note: equal wherever the same was done, with the modality in front; notes are counted by it.
    """

    sample_id: str
    kind: str
    reason: str
    rule: str = ""

    @property
    def stays_in(self) -> bool:
        """Whether the sample is in, with something to be said of it."""
        return self.kind in STAYS_IN

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong with the raw files."""
        return self.kind not in BY_RULE


@dataclass
class Index:
    """What the lists of a raw data set say.

    Attributes:
        layout: Which variant of the lists was recognised, for people.
        lists: The files read.
        published: Whether the splits are the publishers' own; else a seeded hash draws them.
        absent: Split -> the list that should hold it and is not there. The lists can then be checked, not prepared.
        entries: Samples, one per id.
        problems: What was left out.
        num_rows: Split -> rows in the lists, the ones left out too.
    """

    layout: str
    lists: Sequence[Path]
    published: bool = True
    absent: Mapping[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    num_rows: Counter[str] = field(default_factory=Counter)
    _by_id: dict[str, Entry] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Enters a sample; one whose id is known already is a duplicate, or a conflict if it says something else."""
        self.num_rows[entry.split] += 1
        known = self._by_id.setdefault(entry.sample_id, entry)
        if known is entry:
            self.entries.append(entry)
        elif known == entry:
            self.problems.append(Problem(entry.sample_id, DUPLICATE, f"listed twice in {entry.split}"))
        else:
            reason = f"listed in {known.split} and again, differently, in {entry.split}; the first counts"
            self.problems.append(Problem(entry.sample_id, CONFLICT, reason))

    def leave_out(self, split: str, sample_id: str, kind: str, reason: str) -> None:
        """Counts a row that becomes no sample."""
        self.num_rows[split] += 1
        self.problems.append(Problem(sample_id, kind, reason))

    def without(self, problems: Sequence[Problem]) -> list[Entry]:
        """Returns the entries that none of the problems (missing and damaged media) takes out."""
        lost = {problem.sample_id for problem in problems if problem.kind in LOST}
        return [entry for entry in self.entries if entry.sample_id not in lost]

    def faults(self) -> list[Problem]:
        """Returns the problems that are faults of the raw files."""
        return [problem for problem in self.problems if problem.is_fault]


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

    def rules(self, index: Index) -> SplitRules:
        """Returns the split rules; the default protocol is the one that keeps groups apart."""
        default = default_protocol(index_table(index.entries), index.published)
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


def check_faults(name: str, problems: Sequence[Problem], num_entries: int, on_missing: str) -> None:
    """Refuses faulty raw files unless they were to be left out.

    Args:
        name: The data set.
        problems: All that were found.
        num_entries: Samples that are left.
        on_missing: "fail" or "skip".

    Raises:
        DataError: There are faults, and `on_missing` is "fail"; or not one sample is left.
    """
    faults = [problem for problem in problems if problem.is_fault]
    if num_entries and (on_missing == "skip" or not faults):
        return
    shown = [f"  {problem.sample_id}: {problem.kind}: {problem.reason}" for problem in faults[:NUM_SHOWN]]
    if len(faults) > NUM_SHOWN:
        shown.append(f"  and {len(faults) - NUM_SHOWN} more; prepare --check lists them")
    kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(p.kind for p in faults).most_common())
    advice = "pass --on-missing skip to leave them out" if num_entries else "not one sample is left"
    total = num_entries + len(faults)
    raise DataError(
        "\n".join([f"{name}: {len(faults)} of {total} samples can not be used ({kinds}); {advice}", *shown])
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
        counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        what = f"not one of the {len(lost)} rows becomes a sample: {counts}{first}"
        what += f". The files were looked for in {folder.root}" if MISSING in kinds else ""
    return UsageError(f"{source.name}: {what}")
