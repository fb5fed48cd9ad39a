"""Accuracy by class, told where classes are of unequal size: there the mean over samples hides the small ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mmcore.analysis.intervals import mean_interval
from mmcore.metric_names import of_class, of_head
from rayjobs.storage.json_record import JsonRecord, key

if TYPE_CHECKING:
    from mmcore.data.prepared.store import PreparedDataset
    from mmcore.data.splits import Assignment


IMBALANCE = 2.0
"""From this ratio of the largest class to the smallest, in training, the classes are told one by one."""
MAX_SHOWN = 40
"""Classes in a table; of more, those with the lowest accuracy."""
Models = Sequence[Mapping[str, float]]
"""What each of some models has on test: `<head>/class_<i>/accuracy` among others."""


@dataclass(frozen=True, kw_only=True)
class ClassRow(JsonRecord):
    """One class.

    Attributes:
        name: Its name.
        train: Its samples in training.
        test: Its samples on test.
        accuracy: Heading -> share of its test samples answered rightly; without those whose models did not test it.
    """

    name: str = field(metadata=key("class"))
    train: int
    test: int
    accuracy: Mapping[str, float]


def by_class(
    prepared: PreparedDataset, assignment: Assignment, columns: Mapping[str, tuple[str, Models]]
) -> list[ClassRow]:
    """Returns each class: its name, its samples in train and test, and its accuracy.

    Args:
        prepared: The data.
        assignment: How samples were split.
        columns: Heading -> (head, models): the accuracy is the mean over the models that have tested the class.
    """
    labels = prepared.index["label"].to_numpy()
    counts = {
        split: np.bincount(labels[assignment.rows(split)], minlength=prepared.spec.num_classes).tolist()
        for split in ("train", "test")
    }
    rows = []
    for number, name in enumerate(prepared.spec.classes):
        accuracy = {}
        for heading, (head, models) in columns.items():
            metric = of_head(head, of_class(number))
            values = [model[metric] for model in models if metric in model]
            if values:
                accuracy[heading] = mean_interval(values)[0]
        of_split = {split: counts[split][number] for split in counts}
        rows.append(ClassRow(name=name, accuracy=accuracy, **of_split))
    return rows


def is_imbalanced(rows: Sequence[ClassRow]) -> bool:
    """Tells whether the largest class has IMBALANCE times the training samples of the smallest that has any."""
    sizes = [row.train for row in rows if row.train]
    return bool(sizes) and max(sizes) >= IMBALANCE * min(sizes)


def shown(rows: Sequence[ClassRow]) -> tuple[list[ClassRow], str]:
    """Returns the classes to show, at most MAX_SHOWN, and what to say of those left out ("": none are)."""
    if len(rows) <= MAX_SHOWN:
        return list(rows), ""
    lowest = sorted(rows, key=lambda row: min(row.accuracy.values(), default=1.0))[:MAX_SHOWN]
    note = f"the {MAX_SHOWN} of {len(rows)} classes with the lowest accuracy"
    return [row for row in rows if row in lowest], note


def cells(row: ClassRow, headings: Sequence[str]) -> list[str]:
    """Returns a class's line of a table: name, samples, and an accuracy in percent for each heading."""
    values = ("" if name not in row.accuracy else f"{100 * row.accuracy[name]:.1f}" for name in headings)
    return [row.name, str(row.train), str(row.test), *values]
