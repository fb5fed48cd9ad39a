"""A cell of a study: a method on a fold of a data set, known by what it is made of wherever it lies.

Two cells with one identity would train the same searches and final models, so one stands for the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mmcore.config.plain import Plain
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.splits import hold_several
from mmcore.errors import DataError
from mmcore.methods import METHODS
from mmcore.storage import set_aside
from rayjobs.results_layout import CELL_FILE, CELLS, EXPERIMENT_FORMAT
from rayjobs.search.searches import Search
from rayjobs.storage.files import write_json
from rayjobs.storage.json_record import JsonRecord

PACKAGES = ("torch", "numpy")
"""Whose major version a result goes by."""


@dataclass(frozen=True, kw_only=True)
class Cell(JsonRecord):
    """What a cell is of: all that a report must know and its runs do not say.

    Attributes:
        identity: By which it is known, 64 hexadecimal digits.
        dataset: Name of the prepared data set.
        unit: The data set's source, of which there may be variants.
        fingerprint: Of the prepared data.
        card: What the data is.
        constructed: Whether it was made to show an effect.
        label: The method's, with its variant.
        version: Of the method's code.
        fold: None where there is one split.
        folds: How many there are of a cross-validation.
        protocol: How samples are split, in words.
        num_train: Samples.
        num_val: Samples.
        num_test: Samples.
        by_group: Whether samples of one group belong together, so that groups are counted.
        train_groups: Groups that train; samples where groups do not count.
        test_groups: Groups that test; samples where groups do not count.
        groups: All groups of the data set; None where groups do not count.
        chance: Accuracy on test of always answering the most frequent class of training, in [0, 1].
        trials: Of all its searches together.
        seeds_from: Seed of a final model number s is this plus s.
        search_seed: Seed of its searches; the same for all methods of the fold.
        space: Path -> what is searched, in words.
        parts: Modalities that are searched each by itself; empty for all but the tuned ensemble.
        software: Package -> version.
    """

    identity: str
    dataset: str
    unit: str
    fingerprint: str
    card: str
    constructed: bool
    label: str
    version: int
    fold: int | None
    folds: int | None
    protocol: str
    num_train: int
    num_val: int
    num_test: int
    by_group: bool
    train_groups: int
    test_groups: int
    groups: int | None
    chance: float
    trials: int
    seeds_from: int
    search_seed: int
    space: Mapping[str, str]
    parts: list[str]
    software: Mapping[str, str]

    @property
    def row_name(self) -> str:
        """Name of its folder beneath `cells`."""
        name = f"{self.dataset}-{self.label}"
        return name if self.fold is None else f"{name}/fold-{self.fold}"

    def folder(self, study: Path) -> Path:
        """Returns its folder in a study."""
        return study / CELLS / self.row_name

    def write(self, study: Path) -> None:
        """Writes it into a study's folder, unless the same stands there; what is none is set aside."""
        path = self.folder(study) / CELL_FILE
        try:
            there = Cell.read(path)
        except DataError as error:
            set_aside(path, str(error))
            there = None
        if there != self:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self.to_dict())


def make_cell(prepared: PreparedDataset, searches: Sequence[Search], num_folds: int | None, seeds_from: int) -> Cell:
    """Returns the cell that searches of one row on one fold make, more than one where it has parts.

    Args:
        prepared: The data.
        searches: Of the row, on the fold.
        num_folds: Of the cross-validation; None where there is one split.
        seeds_from: Seed of final model number s, less s.
    """
    first = searches[0]
    assignment = prepared.assign(first.config.protocol)
    index = prepared.index
    groups, sources, labels = (index[name].to_numpy() for name in ("group", "source", "label"))
    by_group = hold_several(groups, sources)

    def counted(rows: np.ndarray) -> int:
        return len(set(groups[rows])) if by_group else len(rows)

    frequent = np.bincount(labels[assignment.train]).argmax()
    method = METHODS.get(first.config.method["name"])
    return Cell(
        identity=_identity(prepared.fingerprint, searches, method.version, seeds_from),
        dataset=first.dataset,
        unit=prepared.name,
        fingerprint=prepared.fingerprint,
        card=prepared.card,
        constructed=prepared.constructed,
        label=first.label,
        version=method.version,
        fold=first.fold,
        folds=num_folds,
        protocol=assignment.line,
        num_train=len(assignment.train),
        num_val=len(assignment.val),
        num_test=len(assignment.test),
        by_group=by_group,
        train_groups=counted(assignment.train),
        test_groups=counted(assignment.test),
        groups=len(set(groups)) if by_group else None,
        chance=float((labels[assignment.test] == frequent).mean()),
        trials=sum(search.trials for search in searches),
        seeds_from=seeds_from,
        search_seed=int(first.config.seed),
        space={path: values.describe() for search in searches for path, values in search.space.items()},
        parts=[search.part for search in searches if search.part],
        software={name: version(name) for name in ("equipoise", "ray", *PACKAGES)},
    )


def _identity(fingerprint: str, searches: Sequence[Search], method_version: int, seeds_from: int) -> str:
    plans: list[dict[str, Plain]] = [search.to_dict() for search in searches]
    for plan in plans:
        del plan["name"]  # goes by where the data lies
    content = {
        "data": fingerprint,
        "searches": plans,
        "method_version": method_version,
        "seeds_from": seeds_from,
        "format": EXPERIMENT_FORMAT,
        "software": {name: version(name).partition(".")[0] for name in PACKAGES},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
