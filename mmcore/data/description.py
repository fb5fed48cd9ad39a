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

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mmcore.config import Section, parse_section
from mmcore.data.media import AudioFile, Cells, Frames, ImageFile, Medium, PictureRules, Series, Text
from mmcore.data.spec import DATASETS
from mmcore.data.tables import read_table
from mmcore.errors import ConfigError, UsageError

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

    kind: Literal["image"]
    column: str
    size: Annotated[int, Ge(2)] = 128
    range: Annotated[tuple[float, float], AfterValidator(_ascending)] | None = Field(
        default=None, description="[low, high]: the files' values that become black and white; none: by their bit depth"
    )
    background: Colour = Field(default=(255, 255, 255), description="what is seen through transparency")


class VideoColumn(_Modality):
    """Paths of clips."""

    kind: Literal["video"]
    column: str
    size: Annotated[int, Ge(2)] = 128
    frames: Annotated[int, Ge(1)] = 3
    frames_per_second: Annotated[float, Gt(0)] | None = Field(
        default=None, description="choose among the frames shown at this rate; none: among all of the clip"
    )
    sample: Literal["uniform", "consecutive"] = Field(
        default="uniform", description="at the middles of as many equal parts, or consecutive ones about the middle"
    )
    channels: Literal[1, 3] = 3

    @model_validator(mode="after")
    def _rate_needs_a_number(self) -> VideoColumn:
        if self.frames_per_second is not None and "frames" not in self.model_fields_set:
            raise ValueError("frames beside frames_per_second: the most frames that are stored of a clip")
        return self


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


def medium_of(name: str, column: Any) -> Medium:
    """Returns the decoder of a described modality."""
    medium: Medium
    if isinstance(column, AudioColumn):
        medium = AudioFile(name, column.sample_rate_hz, column.seconds)
    elif isinstance(column, ImageColumn):
        medium = ImageFile(name, column.size, PictureRules(column.range, column.background))
    elif isinstance(column, VideoColumn):
        rate = column.frames_per_second
        medium = Frames(name, column.frames, column.size, column.sample, rate, column.channels)
    elif isinstance(column, TextColumn):
        medium = Text(name, column.max_tokens)
    elif isinstance(column, SeriesColumn):
        medium = Series(name, column.length, column.channels)
    else:
        medium = Cells(name, column.columns)
    medium.modality = replace(medium.modality, may_be_missing=column.may_be_missing)
    return medium


def default_transform_of(column: Any) -> dict[str, Any]:
    """Returns the transform settings of a described modality's kind; those of grey clips have one mean, ImageNet's."""
    grey = {"mean": 0.449, "std": 0.226} if isinstance(column, VideoColumn) and column.channels == 1 else {}
    return {**DEFAULT_TRANSFORMS.get(column.kind, {}), **grey}


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
    for _, record in read_table(path):
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
