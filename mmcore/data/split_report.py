"""The split that training will use, and what is to be said of it before a model is trained.

The check of raw files and `prepare`'s summary both print it, made by the code that training assigns samples with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from mmcore.config.schema import ProtocolConfig
from mmcore.data.spec import SPLITS, SplitRules
from mmcore.data.splits import MIN_GROUPS, assign, cv_options, hold_several, shared_groups
from mmcore.errors import DataError, UsageError

NUM_SHOWN = 3
WITHOUT = {
    "train": ("training", "no model can learn"),
    "val": ("validation", "nothing is chosen by"),
    "test": ("test", "no result tells of"),
}
"""What a split is called, and what it means for classes that have no sample in it."""


@dataclass(frozen=True)
class SplitReport:
    """The assignment of a data set's default protocol, in numbers.

    Attributes:
        protocol: Resolved name, "group" or "holdout"; as asked for where it is refused.
        line: The protocol for people; empty where it is refused.
        refused: Why training would refuse the protocol; empty: it does not.
        has_groups: Whether a group holds several samples.
        samples: Split -> samples; empty where the protocol is refused.
        groups: Split -> groups.
        labels: Split -> samples of each class.
        shared_groups: "train/test" and so on -> groups on both sides of this very assignment.
        warnings: What does not stop training and should be known before.
    """

    protocol: str
    line: str = ""
    refused: str = ""
    has_groups: bool = False
    samples: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    shared_groups: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """Returns what people are told, a line each."""
        warnings = [f"warning: {warning}" for warning in self.warnings]
        if self.refused:
            refused = f"warning: training under the default protocol, {self.protocol}, would be refused: {self.refused}"
            return [refused, *warnings]
        return [f"split for training: {self.line}: {self._counts()}", *self._sides(), *warnings]

    def _counts(self) -> str:
        return ", ".join(
            f"{self.samples[split]:,} {split}"
            + (f" ({_number(self.groups[split], 'group')})" if self.has_groups else "")
            for split in SPLITS
        )

    def _sides(self) -> list[str]:
        if not self.has_groups:
            return []
        shared = [
            f"LEAK: {_number(len(names), 'group')} in {pair.replace('/', ' and in ')} (first: {_first(names)})"
            for pair, names in self.shared_groups.items()
        ]
        return shared or ["no group lies on both sides of a boundary"]


def check_filled(known: Mapping[str, np.ndarray], train: np.ndarray, name: str) -> None:
    """Checks that the training samples have the numbers that are to be filled in elsewhere.

    Args:
        known: "'column' (modality)" -> which rows of the index have a number there.
        train: Rows that train.
        name: The data set, for messages.

    Raises:
        DataError: In some column no training sample has one.
    """
    empty = [column for column, is_known in known.items() if not is_known[train].any()]
    if empty:
        raise DataError(
            f"{name}: no training sample has a number in column {', '.join(empty)}, so fill: mean or median has "
            "nothing to go by: give a number (fill: 0), or leave the column out"
        )


def report_split(
    index: pa.Table,
    rules: SplitRules,
    classes: Sequence[str],
    name: str,
    known: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> SplitReport:
    """Returns what the default protocol makes of a data set.

    Args:
        index: `PreparedDataset.index`, or what it will be.
        rules: What the data set says about its splits.
        classes: Their names.
        name: The data set, for messages.
        known: See `check_filled`.
    """
    labels, groups = index["label"].to_numpy(), index["group"].to_numpy()
    has_groups = hold_several(groups, index["source"].to_numpy())
    one_class = _one_class(np.bincount(labels, minlength=len(classes)), classes)
    try:
        assignment = assign(index, rules, ProtocolConfig(), name)
        check_filled(known, assignment.train, name)
    except (UsageError, DataError) as error:
        return SplitReport(rules.default_protocol, refused=str(error), has_groups=has_groups, warnings=one_class)
    counts = {split: np.bincount(labels[assignment.rows(split)], minlength=len(classes)) for split in SPLITS}
    members = {split: set(groups[assignment.rows(split)].tolist()) for split in SPLITS}
    return SplitReport(
        assignment.protocol,
        assignment.line,
        has_groups=has_groups,
        samples={split: len(assignment.rows(split)) for split in SPLITS},
        groups={split: len(members[split]) for split in SPLITS},
        labels={split: dict(zip(classes, counts[split].tolist(), strict=True)) for split in SPLITS},
        shared_groups=shared_groups(members),
        warnings=[
            *(one_class or _absent_classes(counts, classes)),
            *(_few_groups(members, rules) if has_groups else []),
        ],
    )


def _one_class(counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Returns a sentence if all samples are of one class."""
    (found,) = np.nonzero(counts)
    return [f"every sample is of the class '{classes[found[0]]}': there is nothing to tell apart"] * (len(found) == 1)


def _absent_classes(counts: dict[str, np.ndarray], classes: Sequence[str]) -> list[str]:
    """Returns a sentence for each split that lacks classes."""
    sentences = []
    for split, (kind, consequence) in WITHOUT.items():
        absent = [name for name, number in zip(classes, counts[split], strict=True) if number == 0]
        if absent:
            one = len(absent) == 1
            has = "1 class has" if one else f"{len(absent)} of {len(classes)} classes have"
            sentences.append(f"{has} no {kind} sample ({_first(absent)}): {consequence} {'it' if one else 'them'}")
    return sentences


def _few_groups(members: dict[str, set[str]], rules: SplitRules) -> list[str]:
    """Returns a sentence if the test split is one group."""
    if len(members["test"]) > 1:
        return []
    total = len(set.union(*members.values()))
    advice = f": {cv_options(total, rules)} tests on each" if total >= MIN_GROUPS else ""
    (group,) = members["test"]
    return [f"test is one group ('{group}') of {total}, and says little of others{advice}"]


def _first(names: Sequence[str]) -> str:
    more = f", and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more


def _number(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
