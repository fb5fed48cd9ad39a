"""Your own data: the samples a table lists, as its description says (`mmcore.data.raw.description`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from mmcore.data.media import Cells, Medium, RawFolder, Series
from mmcore.data.raw.cells import is_empty, name_in, one_number_twice, text_in
from mmcore.data.raw.description import (
    DEFAULT_ENCODERS,
    ManifestConfig,
    TabularColumns,
    default_transform_of,
    medium_of,
    needed_columns,
)
from mmcore.data.raw.index import BAD_ROW, CONFLICT, DUPLICATE, FILTERED, NOTED, Entry, Index, Problem
from mmcore.data.raw.lists import class_index
from mmcore.data.raw.source import RawSource
from mmcore.data.raw.tables import Row, read_table
from mmcore.data.spec import DATASETS
from mmcore.data.splits import hashed_split
from mmcore.errors import ConfigError, DataError, UsageError

SOURCE_NAME = "manifest"


SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@DATASETS.register(SOURCE_NAME)
class Manifest(RawSource):
    """A data set of the user's own."""

    Config: ClassVar[type[BaseModel]] = ManifestConfig
    raw_help = "Name its YAML file: --dataset my.yaml (docs/your-data.md)."
    options: ManifestConfig

    def __init__(self, options: ManifestConfig):
        super().__init__(options)
        self.name = options.name
        self.classes = tuple(options.classes)
        self._known = {*options.classes, *options.leave_out}
        self._root = Path(options.root)
        self._media = {name: medium_of(name, column) for name, column in options.modalities.items()}

    @classmethod
    def folder_name(cls, name: str, options: BaseModel) -> str:
        """Returns the data set's own name."""
        return str(getattr(options, "name", name))

    @classmethod
    def short_name(cls, name: str, options: Mapping[str, Any]) -> str:
        """Returns the data set's own name."""
        return str(options.get("name", name))

    def media(self) -> Sequence[Medium]:
        """Returns a decoder for each modality, in the file's order."""
        return list(self._media.values())

    def read_index(self, folder: RawFolder) -> Index:
        """Reads the manifest."""
        options = self.options
        path = Path(options.manifest)
        index = Index(f"manifest {path.name}", [path], published=options.split is not None)
        entries: list[Entry] = []
        places: list[str] = []
        numbers: dict[str, int] = {}
        for place, record in self._rows(to_train=True):
            try:
                entry = self._entry(place, record, index.problems)
            except DataError as error:
                index.leave_out("train", place, BAD_ROW, str(error))
                continue
            except _LeftOutError as error:
                index.leave_out(error.split, place, FILTERED, str(error))
                continue
            number = numbers.setdefault(entry.sample_id, len(entries))
            if number < len(entries):
                kind, reason = _repeated(places[number], entries[number], place, entry)
                index.leave_out(entry.split, entry.sample_id, kind, reason)
            else:
                entries.append(entry)
                places.append(place)
        if twice := one_number_twice(entry.group for entry in entries):
            raise UsageError(
                f"column '{options.group}' (group) of {path.name} holds '{twice[0]}' and '{twice[1]}', one number in "
                "two notations, which would be two groups: write it in one, or rename them if they are two"
            )
        if options.split is None:
            keys = [entry.group or entry.sample_id for entry in entries]
            splits = hashed_split(keys, [entry.label for entry in entries])
            entries = [replace(entry, split=split) for entry, split in zip(entries, splits, strict=True)]
        for entry in entries:
            index.add(entry)
        return index

    def unlabelled(self) -> tuple[list[Entry], list[Problem]]:
        """Returns the rows of the manifest as entries to be predicted, in their order, and the rows that are none.

        Labels, splits and groups are not read; an id that came before is a problem.

        Raises:
            ConfigError: The manifest lacks columns of the modalities.
        """
        entries: list[Entry] = []
        problems: list[Problem] = []
        places: dict[str, str] = {}
        for place, record in self._rows(to_train=False):
            try:
                sample_id, media = self._unlabelled(place, record, problems)
            except DataError as error:
                problems.append(Problem(place, BAD_ROW, str(error)))
                continue
            first = places.setdefault(sample_id, place)
            if first == place:
                entries.append(Entry(sample_id, 0, "test", media))
            else:
                reason = f"listed in {first} and again in {place}; the first counts"
                problems.append(Problem(sample_id, CONFLICT, reason))
        return entries, problems

    def write_demo(self, directory: Path) -> None:
        """Refuses: the raw files are the user's."""
        raise UsageError(f"{self.name} is your own data set and has no demo")

    def card(self) -> str:
        """Returns where the samples are listed."""
        return f"Your own data set, listed in {self.options.manifest}."

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        """Returns the settings of the file over those of each kind."""
        return {
            name: {**default_transform_of(column), **column.transform}
            for name, column in self.options.modalities.items()
        }

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns the encoders of the file, else those of each kind."""
        return {
            name: column.encoder or dict(DEFAULT_ENCODERS[column.kind])
            for name, column in self.options.modalities.items()
        }

    def columns_to_fill(self, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
        """Returns "'column' (modality)" -> which entries have a number there, of filled columns."""
        found: dict[str, np.ndarray] = {}
        for name, column in self.options.modalities.items():
            if isinstance(column, TabularColumns) and isinstance(column.fill, str):
                rows = [entry.media[name] or [None] * len(column.columns) for entry in entries]
                is_known = np.array([[number is not None for number in row] for row in rows])
                found |= {f"'{one}' ({name})": is_known[:, place] for place, one in enumerate(column.columns)}
        return found

    def _rows(self, *, to_train: bool) -> Iterator[Row]:
        """Yields the rows of the manifest, if it has every column that is needed."""
        options = self.options
        table = read_table(Path(options.manifest), options.delimiter, options.quoting)
        needed = needed_columns(options.model_dump(), to_train=to_train)
        if problems := table.problems(needed):
            raise ConfigError(problems)
        return table.rows(needed)

    def _entry(self, place: str, record: Mapping[str, Any] | str, problems: list[Problem]) -> Entry:
        """Returns a row's entry; what was done to its cells is added to the problems, as notes."""
        if isinstance(record, str):
            raise DataError(record)
        options = self.options
        split = "train"
        if options.split is not None:
            said = name_in(record, options.split, "split").lower()
            if said not in SPLIT_NAMES:
                raise DataError(f"column '{options.split}' must be train, val or test, got '{said}'")
            split = SPLIT_NAMES[said]
        name = name_in(record, options.label, "label", self._known)
        if name in options.leave_out:
            raise _LeftOutError(split, f"class '{name}' is left out (leave_out)")
        label = class_index(name, options.classes)
        group = name_in(record, options.group, "group") if options.group else ""
        sample_id, media = self._unlabelled(place, record, problems)
        return Entry(sample_id, label, split, media, group=group)

    def _unlabelled(
        self, place: str, record: Mapping[str, Any] | str, problems: list[Problem]
    ) -> tuple[str, dict[str, Any]]:
        """Returns what a row is without its label: id, and modality -> what its decoder takes."""
        if isinstance(record, str):
            raise DataError(record)
        options, media, notes = self.options, {}, []
        sample_id = name_in(record, options.id, "id") if options.id else place
        for name, column in options.modalities.items():
            media[name], note = _value(column, self._media[name], record, self._root)
            if note:
                notes.append(Problem(sample_id, NOTED, f"{name} {note[1]}: {note[0]}", rule=f"{name} {note[1]}"))
        problems += notes
        return sample_id, media


class _LeftOutError(Exception):
    """A row is left out by rule."""

    def __init__(self, split: str, reason: str):
        super().__init__(reason)
        self.split = split


def _repeated(first: str, known: Entry, place: str, entry: Entry) -> tuple[str, str]:
    """Returns the kind of problem that an id's second row is, and its reason."""
    if known == entry:
        return DUPLICATE, f"listed in {first} and again, alike, in {place}"
    return CONFLICT, f"listed in {first} and again, differently, in {place}; the first counts"


def _value(column: Any, medium: Medium, record: Mapping[str, Any], root: Path) -> tuple[Any, tuple[str, str] | None]:
    """Returns what the decoder takes, or None where it is missing, and what is to be noted: (detail, rule).

    Raises:
        DataError: A cell is empty that may not be, or of another type.
    """
    if isinstance(medium, Cells):
        return _cells(column, medium, record)
    if is_empty(record.get(column.column)):
        if column.may_be_missing:
            return None, None
        raise DataError(f"column '{column.column}' has no value; may_be_missing: true allows samples without it")
    if column.kind == "text":
        return text_in(record, column.column, "text"), None
    value = record[column.column]
    if isinstance(medium, Series) and isinstance(value, list):
        medium.decode(value)  # wrong numbers are found here, where their row is known
        return value, None
    value = text_in(record, column.column, "a path" if column.kind != "series" else "a path or a list of numbers")
    path = Path(value)
    return str(path.relative_to(root)) if path.is_absolute() and path.is_relative_to(root) else value, None


def _cells(
    column: TabularColumns, medium: Cells, record: Mapping[str, Any]
) -> tuple[list[float | None] | None, tuple[str, str] | None]:
    """Returns a row's numbers, None where the model is to fill in; or None where the row lacks the modality."""
    cells = [None if is_empty(record.get(name)) else record[name] for name in column.columns]
    numbers = medium.decode(cells)
    empty = [name for name, number in zip(column.columns, numbers, strict=True) if number is None]
    if not empty:
        return numbers, None
    is_whole = len(empty) == len(numbers)
    detail = f"column {', '.join(repr(name) for name in empty)} has no value"
    if column.may_be_missing and (is_whole or column.fill is None):
        return None, None if is_whole else (detail, "partly empty, so missing")
    if column.fill is None:
        cures = "fill: mean, median or a number fills it in, may_be_missing: true leaves out the modality"
        raise DataError(f"{detail}; {cures}")
    by = f"{column.fill:g}" if isinstance(column.fill, float) else f"the training samples' {column.fill}"
    if isinstance(column.fill, float):
        numbers = [column.fill if number is None else number for number in numbers]
    return numbers, (detail, f"filled by {by}")
