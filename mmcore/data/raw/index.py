"""What the lists of a raw data set say: samples, and every row that became none, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcore.data.media import CROPPED
from mmcore.errors import DataError

FILTERED, DUPLICATE, NOTED = "filtered", "duplicate", "noted"
"""Left out by a stated rule, or (noted, and CROPPED) in with something to be said; others are faults of the files."""


MISSING, DAMAGED, BAD_ROW, CONFLICT = "missing", "damaged", "bad row", "conflict"


STAYS_IN = frozenset({NOTED, CROPPED})


LOST = frozenset({MISSING, DAMAGED})


BY_RULE = frozenset({FILTERED, DUPLICATE}) | STAYS_IN


PLURALS = {BAD_ROW: "bad rows", CONFLICT: "conflicts", DUPLICATE: "duplicates"}


NUM_SHOWN = 5


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
        rule: Rule of a note: equal wherever the same was done, with the modality in front; notes are counted by it.
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


def counted(number: int, kind: str) -> str:
    """Returns a number of problems of one kind in words: "1 bad row", "12 bad rows", "2 missing"."""
    return f"{number} {kind if number == 1 else PLURALS.get(kind, kind)}"


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
    kinds = ", ".join(counted(number, kind) for kind, number in Counter(p.kind for p in faults).most_common())
    advice = "pass --on-missing skip to leave them out" if num_entries else "not one sample is left"
    total = num_entries + len(faults)
    raise DataError(
        "\n".join([f"{name}: {len(faults)} of {total} samples can not be used ({kinds}); {advice}", *shown])
    )
