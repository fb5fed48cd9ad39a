"""Your own data: the samples a table lists, as its description says (`mmcore.data.description`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from mmcore.data.description import (
    DEFAULT_ENCODERS,
    ManifestConfig,
    TabularColumns,
    default_transform_of,
    medium_of,
)
from mmcore.data.lists import class_index
from mmcore.data.media import Medium, RawFolder
from mmcore.data.raw import BAD_ROW, CONFLICT, Entry, Index, Problem, RawSource
from mmcore.data.spec import DATASETS
from mmcore.data.splits import hashed_split
from mmcore.data.tables import read_table
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

    @classmethod
    def folder_name(cls, name: str, options: BaseModel) -> str:
        """Returns the data set's own name."""
        return str(getattr(options, "name", name))

    def media(self) -> Sequence[Medium]:
        """Returns a decoder for each modality, in the file's order."""
        return [medium_of(name, column) for name, column in self.options.modalities.items()]

    def read_index(self, folder: RawFolder) -> Index:
        """Reads the manifest."""
        options = self.options
        path = Path(options.manifest)
        index = Index(f"manifest {path.name}", [path], published=options.split is not None)
        _check_columns(path, _needed_columns(options, to_train=True))
        entries = []
        for place, record in read_table(path):
            try:
                entries.append(self._entry(place, record))
            except DataError as error:
                index.leave_out("train", place, BAD_ROW, str(error))
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
        options = self.options
        path = Path(options.manifest)
        _check_columns(path, _needed_columns(options, to_train=False))
        entries: dict[str, Entry] = {}
        problems = []
        for place, record in read_table(path):
            if isinstance(record, str):
                problems.append(Problem(place, BAD_ROW, record))
                continue
            sample_id = self._sample_id(place, record)
            if sample_id in entries:
                problems.append(Problem(sample_id, CONFLICT, f"listed again in {place}; the first counts"))
            else:
                entries[sample_id] = Entry(sample_id, 0, "test", self._media(record))
        return list(entries.values()), problems

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

    def _entry(self, place: str, record: Mapping[str, Any] | str) -> Entry:
        if isinstance(record, str):
            raise DataError(record)
        options = self.options
        split = "train"
        if options.split is not None:
            said = str(record[options.split]).strip().lower()
            if said not in SPLIT_NAMES:
                raise DataError(f"column '{options.split}' must be train, val or test, got '{said}'")
            split = SPLIT_NAMES[said]
        sample_id = self._sample_id(place, record)
        group = str(record[options.group]) if options.group else ""
        label = class_index(str(record[options.label]).strip(), options.classes)
        return Entry(sample_id, label, split, self._media(record), group=group)

    def _sample_id(self, place: str, record: Mapping[str, Any]) -> str:
        return str(record[self.options.id]) if self.options.id else place

    def _media(self, record: Mapping[str, Any]) -> dict[str, Any]:
        root = Path(self.options.root)
        return {name: _value(column, record, root) for name, column in self.options.modalities.items()}


def _needed_columns(options: ManifestConfig, to_train: bool) -> set[str]:
    """Returns the columns a description names: those of the modalities, the id, and what training needs besides."""
    named = {options.label, *filter(None, (options.split, options.group))} if to_train else set()
    named |= {options.id} if options.id else set()
    for column in options.modalities.values():
        named |= set(column.columns) if isinstance(column, TabularColumns) else {column.column}
    return named


def _check_columns(path: Path, named: set[str]) -> None:
    """Refuses a manifest that lacks a column its description names; lists all of them."""
    known: set[str] = set()
    for _, record in read_table(path):
        known |= set(record) if isinstance(record, dict) else set()
    if not known:
        raise UsageError(f"the manifest {path} has no rows")
    problems = [
        f"{path.name} has no column '{name}'; it has {', '.join(sorted(known))}" for name in sorted(named - known)
    ]
    if problems:
        raise ConfigError(problems)


def _value(column: Any, record: Mapping[str, Any], root: Path) -> Any:
    """Returns what the decoder takes, or None where the cell is empty; absolute paths in the root become relative."""
    if isinstance(column, TabularColumns):
        cells = [record.get(name) for name in column.columns]
        return None if all(cell in (None, "") for cell in cells) else cells
    value = record.get(column.column)
    if value is None or value == "":
        return None
    if column.kind == "text" or isinstance(value, list):
        return value
    path = Path(str(value))
    return str(path.relative_to(root)) if path.is_absolute() and path.is_relative_to(root) else str(value)
