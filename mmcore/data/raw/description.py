"""Your own data, described: a YAML file that names a table of samples and says what each column holds.

    manifest: samples.csv        # or .tsv, .jsonl, .parquet; paths are relative to this file's folder
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

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mmcore.config.documents import read_named
from mmcore.config.problems import told
from mmcore.config.sections import Section, parse_section
from mmcore.config.texts import repeated
from mmcore.data.media import AudioFile, Cells, Frames, ImageFile, Medium, PictureRules, Series, Text
from mmcore.data.media.numbers import LARGEST, SMALLEST
from mmcore.data.raw.cells import name_in, one_number_twice
from mmcore.data.raw.modality_names import modality_name
from mmcore.data.raw.tables import Table, read_table
from mmcore.data.spec import DATASETS, Fill
from mmcore.errors import ConfigError, DataError, UsageError, suggest

MAX_CLASSES_PER_SAMPLE = 0.5
"""More different labels than this share of the rows are no classes."""


NAMES = (
    ("manifest",), ("root",), ("name",), ("label",), ("classes", "*"), ("leave_out", "*"), ("modalities", "*", "kind"),
    ("modalities", "*", "column"), ("modalities", "*", "columns", "*"),
)  # fmt: skip
"""Where a description holds names, which stay what was written: `no` is no truth value there."""


UNKNOWN_CLASSES = ["?", "??"]
"""While the reason why they can not be told is among the problems: without them, another problem would be told."""


TAB_NAMES = {"tab": "\t", "\\t": "\t"}


OPTIONAL_NAMES = (("split",), ("group",), ("id",), ("delimiter",), ("quoting",), ("modalities", "*", "key"))


LARGEST_SAMPLE = 2**30
"""Bytes of one stored sample of a modality."""


class _Modality(Section):
    """What every kind has: whether samples may lack it, and what replaces the kind's encoder and transform."""

    sized_by: ClassVar[str]
    may_be_missing: bool = False
    encoder: dict[str, Any] = Field(default={}, description="`name` and its settings; none: the kind's own")
    transform: dict[str, Any] = Field(default={}, description="settings of its transform on the device")

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        num_bytes = medium_of("", self).modality.num_bytes
        if num_bytes > LARGEST_SAMPLE:
            size = f"{num_bytes / 2**30:,.1f} GiB"
            raise told(f"a stored sample must take 1 GiB at most, got {size}; make {self.sized_by} smaller")
        if not num_bytes:
            raise told(f"a stored sample must hold something, got nothing; make {self.sized_by} larger")
        return self


class AudioColumn(_Modality):
    """Paths of sound files, or of clips with sound."""

    sized_by = "seconds or sample_rate_hz"
    kind: Literal["audio"]
    column: str
    sample_rate_hz: Annotated[int, Ge(1000), Le(768_000)] = 16000
    seconds: Annotated[float, Gt(0), Le(86_400)] = 10.0


def _as_colour(value: Any) -> Any:
    """Returns red, green and blue of a colour that is given by its name or as '#rrggbb'."""
    from PIL import ImageColor

    if not isinstance(value, str):
        return value
    try:
        return ImageColor.getrgb(value)[:3]
    except ValueError:
        raise ValueError("a colour's name, '#rrggbb' or [red, green, blue]") from None


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] >= value[1]:
        raise ValueError("[low, high] with low < high")
    return value


Byte = Annotated[int, Ge(0), Le(255)]


Colour = Annotated[tuple[Byte, Byte, Byte], BeforeValidator(_as_colour)]


class ImageColumn(_Modality):
    """Paths of pictures."""

    sized_by = "size"
    kind: Literal["image"]
    column: str
    size: Annotated[int, Ge(2), Le(4096)] = 128
    range: Annotated[tuple[float, float], AfterValidator(_ascending)] | None = Field(
        default=None, description="[low, high]: the files' values that become black and white; none: by their bit depth"
    )
    background: Colour = Field(default=(255, 255, 255), description="what is seen through transparency")


class VideoColumn(_Modality):
    """Paths of clips."""

    sized_by = "frames or size"
    kind: Literal["video"]
    column: str
    size: Annotated[int, Ge(2), Le(4096)] = 128
    frames: Annotated[int, Ge(1), Le(100_000)] = 3
    frames_per_second: Annotated[float, Gt(0), Le(1000)] | None = Field(
        default=None, description="choose among the frames shown at this rate; none: among all of the clip"
    )
    sample: Literal["uniform", "consecutive"] = Field(
        default="uniform", description="at the middles of as many equal parts, or consecutive ones about the middle"
    )
    channels: Literal[1, 3] = 3

    @model_validator(mode="after")
    def _rate_needs_a_number(self) -> VideoColumn:
        if self.frames_per_second is not None and "frames" not in self.model_fields_set:
            raise told("frames is required beside frames_per_second: the most frames that are stored of a clip")
        return self


class TextColumn(_Modality):
    """Texts."""

    sized_by = "max_tokens"
    kind: Literal["text"]
    column: str
    max_tokens: Annotated[int, Ge(4), Le(100_000)] = 128


class SeriesColumn(_Modality):
    """Paths of .npy, .npz or .csv files of numbers; in JSONL and Parquet also lists."""

    sized_by = "length or channels"
    kind: Literal["series"]
    column: str
    length: Annotated[int, Ge(1), Le(10**9)]
    channels: Annotated[int, Ge(1), Le(10**6)] = 1
    key: str | None = Field(default=None, description="which array of a .npz file; none: it has but one")
    header: bool | None = Field(
        default=None, description="whether the first line of a .csv names the channels; none: if no field is a number"
    )


def _fill(value: Any) -> Any:
    if value in (None, *get_args(Fill)):
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number != 0 and not SMALLEST <= abs(number) <= LARGEST:
        raise ValueError("mean, median or a number that float32 can tell")
    return number


class TabularColumns(_Modality):
    """Numbers in several columns."""

    sized_by = "columns"
    kind: Literal["tabular"]
    columns: Annotated[list[str], MinLen(1)]
    fill: Annotated[Fill | float | None, BeforeValidator(_fill)] = Field(
        default=None, description="for empty cells: the mean or median of the training samples, or a number"
    )


Column = Annotated[
    AudioColumn | ImageColumn | VideoColumn | TextColumn | SeriesColumn | TabularColumns, Field(discriminator="kind")
]


def _delimiter(text: str) -> str:
    text = TAB_NAMES.get(text, text)
    if len(text) != 1 or text in '"\r\n':
        raise ValueError("one character (or tab)")
    return text


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError("a letter or digit, then letters, digits, '.', '_' or '-', 64 characters at most")
    return name


class ManifestConfig(Section):
    """A YAML file's content, with absolute paths and every default filled in."""

    name: Annotated[str, AfterValidator(_folder_name)]
    manifest: str
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = Field(
        default=None, description="of a text table: one character, or tab; none: the comma of .csv, the tab of .tsv"
    )
    quoting: Literal["csv", "none"] | None = Field(
        default=None, description="whether quotes stand around cells; none given: in .csv they do, between tabs not"
    )
    root: str
    label: str
    classes: Annotated[list[str], MinLen(2)]
    leave_out: list[str] = Field(default=[], description="classes whose rows are left out")
    split: str | None = None
    group: str | None = None
    id: str | None = None
    modalities: Annotated[dict[Annotated[str, AfterValidator(modality_name)], Column], MinLen(1)]


def medium_of(name: str, column: Any) -> Medium:
    """Returns the decoder of a described modality."""
    medium: Medium
    if isinstance(column, AudioColumn):
        medium = AudioFile(name, column.sample_rate_hz, column.seconds)
    elif isinstance(column, ImageColumn):
        medium = ImageFile(name, column.size, PictureRules(column.range, column.background))
    elif isinstance(column, VideoColumn):
        rate = column.frames_per_second
        medium = Frames(name, column.frames, column.size, pick=column.sample, per_second=rate, channels=column.channels)
    elif isinstance(column, TextColumn):
        medium = Text(name, column.max_tokens)
    elif isinstance(column, SeriesColumn):
        medium = Series(name, column.length, column.channels, key=column.key, header=column.header)
    else:
        medium = Cells(name, column.columns, None if isinstance(column.fill, float) else column.fill)
    medium.modality = replace(medium.modality, may_be_missing=column.may_be_missing)
    return medium


def default_transform_of(column: Any) -> dict[str, Any]:
    """Returns the transform settings of a described modality's kind; those of grey clips have one mean, ImageNet's."""
    grey = {"mean": 0.449, "std": 0.226} if isinstance(column, VideoColumn) and column.channels == 1 else {}
    return {**DEFAULT_TRANSFORMS.get(column.kind, {}), **grey}


def read_description(path: Path, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the options of the data set `manifest` that a YAML file describes.

    Paths become absolute; classes that are not listed are the manifest's labels, sorted.

    Args:
        path: The YAML file.
        classes: Those a model was trained on, where rows are to be predicted: labels, splits and groups are not looked
            at then. None: the file's own.

    Raises:
        ConfigError: Lists every problem of the file, the columns its manifest lacks among them.
        UsageError: It is missing or not valid YAML, or its manifest cannot be read; or the labels are numbers to be
            predicted.
    """
    if not path.is_file():
        raise UsageError(f"--dataset {path}: there is no such file")
    content, problems = read_named(path, NAMES, OPTIONAL_NAMES)
    values = _absolute({"name": path.stem, "root": ".", **content}, Path(os.path.realpath(path)).parent)
    if values["name"] in DATASETS.names():
        problems.append(f"{path.name}: name must not be that of a data set of this project, got '{values['name']}'")
    if isinstance(values["root"], str) and not Path(values["root"]).is_dir():
        problems.append(f"{path.name}: root must be a folder, got {values['root']}")
    try:
        table = _table_of(values)
        if table is not None:
            problems += table.problems(needed_columns(values, to_train=classes is None))
    except UsageError as error:
        table = None
        problems.append(str(error))
    if classes is None:
        problems += _class_problems(values, table)
    else:
        values["classes"] = list(classes)
    options, faults = _parsed(values, path.name)
    if options is None or problems or faults:
        raise ConfigError([*faults, *problems])
    return options.model_dump(mode="json")


def needed_columns(values: Mapping[str, Any], *, to_train: bool) -> dict[str, str]:
    """Returns column -> what it is for, of a description as plain values, checked or not.

    Args:
        values: The description.
        to_train: Whether labels, splits and groups are needed.
    """
    uses = ("id", "label", "split", "group") if to_train else ("id",)
    named = {values[use]: use for use in uses if isinstance(values.get(use), str)}
    modalities = values.get("modalities")
    for name, section in modalities.items() if isinstance(modalities, Mapping) else ():
        for key in ("column", "columns") if isinstance(section, Mapping) else ():
            found = section.get(key)
            named |= {one: name for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)}
    return named


def label_values(table: Table, column: str, left_out: Sequence[str] = ()) -> list[str]:
    """Returns the different labels of a table but those left out, sorted.

    Raises:
        UsageError: Its values are no classes, or a class that is to be left out is not there.
    """
    found_labels, faults = _labels(table, column, left_out)
    labels = Counter(found_labels)
    for name in left_out:
        if name not in labels:
            raise UsageError(f"leave_out: no row of {table.path.name} has the label '{name}'{suggest(name, labels)}")
    labels = Counter({name: number for name, number in labels.items() if name not in left_out})
    num_rows, found = labels.total(), sorted(labels)
    if twice := one_number_twice(found):
        raise UsageError(
            f"column '{column}' of {table.path.name} holds the labels '{twice[0]}' and '{twice[1]}', one number in two "
            "notations: write it in one, or list both under classes: if they are two"
        )
    if any(_is_fraction(label) for label in found) or len(found) > max(2, MAX_CLASSES_PER_SAMPLE * num_rows):
        raise UsageError(
            f"column '{column}' of {table.path.name} has {len(found)} different values in {num_rows} rows (first: "
            f"{', '.join(found[:3])}): to predict a number is regression, which is not supported; if these are "
            "classes, list them under classes:"
        )
    if len(found) < 2:
        bad = f"; {len(faults)} other rows have none (first: {faults[0]})" if faults else ""
        raise UsageError(
            f"column '{column}' of {table.path.name} must have 2 classes or more, got {', '.join(found) or 'none'} in "
            f"{num_rows} rows{bad}"
        )
    return found


def _labels(table: Table, column: str, known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the labels of the rows that have one, and why the others have none; for `known`, see `name_in`."""
    labels, faults = [], []
    for place, record in table.rows({column}):
        try:
            if isinstance(record, str):
                raise DataError(record)
            labels.append(name_in(record, column, "label", known))
        except DataError as error:
            faults.append(f"{place}: {error}")
    return labels, faults


def _absolute(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    for key in ("manifest", "root"):
        if isinstance(values.get(key), str):
            values[key] = os.path.realpath(folder / values[key])
    return values


def _table_of(values: Mapping[str, Any]) -> Table | None:
    """Returns the manifest as far as the description says which it is; what it says wrong is told elsewhere."""
    delimiter, quoting = values.get("delimiter"), values.get("quoting")
    if not isinstance(values.get("manifest"), str) or quoting not in (None, "csv", "none"):
        return None
    if delimiter is not None:
        try:
            delimiter = _delimiter(delimiter)
        except (TypeError, ValueError):
            return None
    return read_table(Path(values["manifest"]), delimiter, quoting)


def _class_problems(values: dict[str, Any], table: Table | None) -> list[str]:
    """Fills in classes that are not listed; returns what is wrong with those to be used and left out."""
    listed, left_out, label = values.get("classes"), values.get("leave_out") or [], values.get("label")
    if not isinstance(left_out, list) or (listed is not None and not isinstance(listed, list)):
        values.setdefault("classes", UNKNOWN_CLASSES)
        return []  # told by their types
    known, left_out = ([name for name in names if isinstance(name, str)] for names in (listed or [], left_out))
    both = sorted(set(left_out) & set(known))
    problems = [f"class '{name}' is in classes and in leave_out; keep one" for name in both]
    problems += [f"classes: '{name}' is listed twice; keep one" for name in repeated(known)]
    problems += [f"classes: {name!r} is empty or has blanks around it, as no label has" for name in known
                 if not name or name != name.strip()]  # fmt: skip
    if table is None or label not in table.columns or label in table.unusable or both:
        values.setdefault("classes", UNKNOWN_CLASSES)
        return problems
    if listed is None:
        try:
            values["classes"] = label_values(table, label, left_out)
        except UsageError as error:
            values["classes"] = UNKNOWN_CLASSES
            problems.append(str(error))
    elif missing := set(left_out) - set(_labels(table, label, left_out)[0] if left_out else ()):
        problems += [f"leave_out: no row of {table.path.name} has the label '{name}'" for name in sorted(missing)]
    return problems


def _parsed(values: Mapping[str, Any], path: str) -> tuple[ManifestConfig | None, list[str]]:
    try:
        return parse_section(ManifestConfig, values, path), []
    except ConfigError as error:
        return None, error.problems


def _is_fraction(label: str) -> bool:
    try:
        return not float(label).is_integer()
    except (ValueError, OverflowError):
        return False


DEFAULT_TRANSFORMS: dict[str, dict[str, Any]] = {
    "audio": {"n_fft": 512, "hop_length": 160, "n_mels": 64, "standardise": True},
    "image": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_scale": [0.4, 1.0], "flip": True},
    "video": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_scale": [0.4, 1.0], "flip": True},
}


DEFAULT_ENCODERS: dict[str, dict[str, Any]] = {
    "audio": {"name": "resnet18"},
    "image": {"name": "resnet18"},
    "video": {"name": "resnet18"},
    "text": {"name": "bert", "weights": "google-bert/bert-base-uncased"},
    "series": {"name": "series"},
    "tabular": {"name": "mlp"},
}
