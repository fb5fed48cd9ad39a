"""Your own data: a YAML file that names a table of samples, and for each modality what its column holds.

    manifest: samples.csv        # or .jsonl; paths are relative to this file's folder
    label: emotion               # its column
    split: split                 # optional column of train, val, test; else a seeded hash draws them
    group: speaker               # optional column: what must not lie on both sides of a split
    modalities:
      voice: {kind: audio, column: wav, sample_rate_hz: 16000, seconds: 4}
      face: {kind: image, column: jpg, size: 96, may_be_missing: true}
      facts: {kind: tabular, columns: [age, height]}

`read_description` turns it into the options of the data set `manifest`, so that a configuration holds all of it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, Field

from mmcore.config import Section, parse_section
from mmcore.data.lists import class_index
from mmcore.data.media import AudioFile, Cells, Frames, ImageFile, Medium, RawFolder, Series, Text
from mmcore.data.raw import BAD_ROW, CONFLICT, Entry, Index, Problem, RawSource
from mmcore.data.spec import DATASETS
from mmcore.data.splits import hashed_split
from mmcore.errors import ConfigError, DataError, UsageError

SOURCE_NAME = "manifest"
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
MAX_CLASSES_PER_SAMPLE = 0.5
"""More different labels than this share of the rows are no classes."""


class _Modality(Section):
    """What every kind has: whether samples may lack it, and what replaces the kind's encoder and transform."""

    may_be_missing: bool = False
    encoder: dict[str, Any] = Field(default={}, description="`name` and its settings; none: the kind's own")
    transform: dict[str, Any] = Field(default={}, description="settings of its transform on the device")


class AudioColumn(_Modality):
    """Paths of sound files, or of clips with sound."""

    kind: Literal["audio"]
    column: str
    sample_rate_hz: Annotated[int, Ge(1000)] = 16000
    seconds: Annotated[float, Gt(0)] = 10.0


class ImageColumn(_Modality):
    """Paths of pictures."""

    kind: Literal["image"]
    column: str
    size: Annotated[int, Ge(2)] = 128


class VideoColumn(_Modality):
    """Paths of clips."""

    kind: Literal["video"]
    column: str
    size: Annotated[int, Ge(2)] = 128
    frames: Annotated[int, Ge(1)] = 3


class TextColumn(_Modality):
    """Texts."""

    kind: Literal["text"]
    column: str
    max_tokens: Annotated[int, Ge(4)] = 128


class SeriesColumn(_Modality):
    """Paths of .npy or .csv files of numbers; in JSONL also lists."""

    kind: Literal["series"]
    column: str
    length: Annotated[int, Ge(1)]
    channels: Annotated[int, Ge(1)] = 1


class TabularColumns(_Modality):
    """Numbers in several columns."""

    kind: Literal["tabular"]
    columns: Annotated[list[str], MinLen(1)]


Column = Annotated[
    AudioColumn | ImageColumn | VideoColumn | TextColumn | SeriesColumn | TabularColumns, Field(discriminator="kind")
]


class ManifestConfig(Section):
    """A YAML file's content, with absolute paths and every default filled in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    manifest: str
    root: str
    label: str
    classes: Annotated[list[str], MinLen(2)]
    split: str | None = None
    group: str | None = None
    id: str | None = None
    modalities: Annotated[dict[str, Column], MinLen(1)]


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
        return [_medium(name, column) for name, column in self.options.modalities.items()]

    def read_index(self, folder: RawFolder) -> Index:
        """Reads the manifest."""
        options = self.options
        path = Path(options.manifest)
        index = Index(f"manifest {path.name}", [path], published=options.split is not None)
        _check_columns(path, _needed_columns(options, to_train=True))
        entries = []
        for place, record in read_manifest(path):
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
        for place, record in read_manifest(path):
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
            name: {**_DEFAULT_TRANSFORMS.get(column.kind, {}), **column.transform}
            for name, column in self.options.modalities.items()
        }

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns the encoders of the file, else those of each kind."""
        return {
            name: column.encoder or dict(_DEFAULT_ENCODERS[column.kind])
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


def read_description(path: Path) -> dict[str, Any]:
    """Returns the options of the data set `manifest` that a YAML file describes.

    Paths become absolute; classes that are not listed are the manifest's labels, sorted.

    Raises:
        ConfigError: Lists every problem of the file.
        UsageError: It is missing or no YAML, or so is its manifest; or the labels are numbers to be predicted.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--dataset {path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML file: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError([f"{path} must hold a mapping, got {type(content).__name__}"])
    folder = path.resolve().parent
    values = {"name": path.stem, "root": ".", **content}
    for key in ("manifest", "root"):
        if isinstance(values.get(key), str):
            values[key] = str((folder / values[key]).resolve())
    if "classes" not in values and isinstance(values.get("manifest"), str) and isinstance(values.get("label"), str):
        values["classes"] = label_values(Path(values["manifest"]), values["label"])
    if isinstance(values.get("classes"), list):
        values["classes"] = [str(name) for name in values["classes"]]
    options = parse_section(ManifestConfig, values, path.name)
    if values["name"] in DATASETS.names():
        raise UsageError(f"{path.name}: name must not be that of a data set of this project, got '{values['name']}'")
    return options.model_dump(mode="json")


def label_values(path: Path, column: str) -> list[str]:
    """Returns the different labels of a manifest, sorted.

    Raises:
        UsageError: The column is not there, or its values are no classes.
    """
    labels = []
    for _, record in read_manifest(path):
        if isinstance(record, dict):
            if column not in record:
                raise UsageError(f"{path} has no column '{column}' (label); it has {', '.join(record)}")
            labels.append(str(record[column]).strip())
    found = sorted(set(labels) - {""})
    if any(_is_fraction(label) for label in found) or len(found) > max(2, MAX_CLASSES_PER_SAMPLE * len(labels)):
        raise UsageError(
            f"column '{column}' of {path.name} has {len(found)} different values in {len(labels)} rows (first: "
            f"{', '.join(found[:3])}): to predict a number is regression, which is not supported; if these are "
            "classes, list them under classes:"
        )
    return found


def read_manifest(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yields (place, record or the reason why there is none) for each row of a CSV or JSONL file.

    Raises:
        UsageError: The file is missing, not UTF-8, or of another kind.
    """
    if path.suffix.lower() not in {".csv", ".tsv", ".jsonl", ".ndjson"}:
        raise UsageError(f"the manifest must be a .csv, .tsv or .jsonl file, got {path.name}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"the manifest {path} does not exist") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8") from None
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        yield from _read_jsonl(path, text)
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
        for record in reader:
            place = f"{path.name}:{reader.line_num}"
            wrong = None in record or None in record.values()
            yield place, f"the row has not {len(reader.fieldnames or [])} fields" if wrong else record


def _read_jsonl(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            yield place, f"the line is no JSON: {error}"
            continue
        yield place, record if isinstance(record, dict) else "the line is no JSON object"


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
    for _, record in read_manifest(path):
        known |= set(record) if isinstance(record, dict) else set()
    if not known:
        raise UsageError(f"the manifest {path} has no rows")
    problems = [
        f"{path.name} has no column '{name}'; it has {', '.join(sorted(known))}" for name in sorted(named - known)
    ]
    if problems:
        raise ConfigError(problems)


def _medium(name: str, column: Any) -> Medium:
    medium: Medium
    if isinstance(column, AudioColumn):
        medium = AudioFile(name, column.sample_rate_hz, column.seconds)
    elif isinstance(column, ImageColumn):
        medium = ImageFile(name, column.size)
    elif isinstance(column, VideoColumn):
        medium = Frames(name, column.frames, column.size, "spread")
    elif isinstance(column, TextColumn):
        medium = Text(name, column.max_tokens)
    elif isinstance(column, SeriesColumn):
        medium = Series(name, column.length, column.channels)
    else:
        medium = Cells(name, column.columns)
    medium.modality = replace(medium.modality, may_be_missing=column.may_be_missing)
    return medium


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


def _is_fraction(label: str) -> bool:
    try:
        return not float(label).is_integer()
    except (ValueError, OverflowError):
        return False


_DEFAULT_TRANSFORMS: dict[str, dict[str, Any]] = {
    "audio": {"n_fft": 512, "hop_length": 160, "n_mels": 64, "standardise": True},
    "image": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_scale": [0.4, 1.0], "flip": True},
    "video": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_scale": [0.4, 1.0], "flip": True},
}
_DEFAULT_ENCODERS: dict[str, dict[str, Any]] = {
    "audio": {"name": "resnet18"},
    "image": {"name": "resnet18"},
    "video": {"name": "resnet18"},
    "text": {"name": "bert", "weights": "google-bert/bert-base-uncased"},
    "series": {"name": "series"},
    "tabular": {"name": "mlp"},
}
