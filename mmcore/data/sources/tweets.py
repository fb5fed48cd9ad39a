"""What the two data sets of tweets with pictures share: media, lists in common layouts, encoders and transforms.

Shape legend: image (3, 256, 256) uint8, text (128,) int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le
from pydantic import Field

from mmcore.config.documents import read_json
from mmcore.data.media import ImageFile, Medium, RawFolder, Text
from mmcore.data.raw.index import BAD_ROW, Entry, Index
from mmcore.data.raw.lists import class_index, read_rows
from mmcore.data.raw.source import RawConfig, RawSource
from mmcore.errors import DataError, UsageError

DEMO_PIXELS, PIXELS = 32, 256


DEMO_TOKENS, TOKENS = 24, 128


SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "dev"), "test": ("test",)}


class TweetConfig(RawConfig):
    """Options of the data sets of tweets."""

    image_size: Annotated[int, Ge(8), Le(4096)] | None = Field(
        default=None, description="stored pixels; none: 256 (demo: 32)"
    )
    max_tokens: Annotated[int, Ge(4), Le(100000)] | None = Field(default=None, description="none: 128 (demo: 24)")


class TweetSource(RawSource):
    """A data set of tweets with one picture each.

    Class attributes:
        picture_mean: Mean of each of the pictures' channels.
        picture_std: Standard deviation of each channel.
    """

    picture_mean: ClassVar[tuple[float, ...]]
    picture_std: ClassVar[tuple[float, ...]]
    options: TweetConfig

    def media(self) -> Sequence[Medium]:
        """Returns picture and text."""
        pixels, tokens = (DEMO_PIXELS, DEMO_TOKENS) if self.options.demo else (PIXELS, TOKENS)
        return (
            ImageFile("image", self.options.image_size or pixels),
            Text("text", self.options.max_tokens or tokens),
        )

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        """Returns the pictures' statistics (AMSS) and training's crop, half their area or more (IGM), at 224 pixels."""
        if self.options.demo:
            return {"image": {"mean": 0.5, "std": 0.25, "crop_scale": None, "flip": False, "size": None}}
        statistics = {"mean": list(self.picture_mean), "std": list(self.picture_std)}
        return {"image": statistics | {"crop_scale": [0.5, 1.0], "flip": True, "size": [224, 224]}}

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns ResNet50 and BERT, pretrained as in the papers; tiny and random in a demo."""
        if self.options.demo:
            return {
                "image": {"name": "resnet50", "weights": "random", "size": "tiny"},
                "text": {"name": "bert", "weights": "random", "size": "tiny", "pooling": "mean", "dropout": 0.0},
            }
        return {
            "image": {"name": "resnet50", "weights": "IMAGENET1K_V1"},
            "text": {"name": "bert", "weights": "google-bert/bert-base-uncased"},
        }


def picture_folder(folder: RawFolder, candidates: Sequence[str]) -> str:
    """Returns the first of the folders that is there, relative to the raw folder; if none is, the first."""
    return next((name for name in candidates if (folder.root / name).is_dir()), candidates[0])


def split_lists(folder: RawFolder, suffix: str, folders: Sequence[str] = ("", "annotations/")) -> dict[str, list[Path]]:
    """Returns split -> its list, called `train.json` and so on; empty where there is none."""
    return {
        split: folder.lists(*[f"{where}{name}{suffix}" for where in folders for name in names])
        for split, names in SPLIT_NAMES.items()
    }


def read_json_or_tsv(folder: RawFolder, labels: Sequence[str], pictures: str) -> Index | None:
    """Reads `[{image, text, label}]` or tab-separated `Label, ImageID, String`, whichever is there, else None."""
    lists = split_lists(folder, ".json")
    if any(lists.values()):
        index = Index("JSON lists", [path for paths in lists.values() for path in paths])
        for split, paths in lists.items():
            for path in paths:
                _read_json(index, path, split, labels, pictures)
        return index
    lists = split_lists(folder, ".tsv")
    if any(lists.values()):
        index = Index("tab-separated Label, ImageID, String", [path for paths in lists.values() for path in paths])
        for split, paths in lists.items():
            for path in paths:
                read_short_tsv(index, path, split, labels, pictures)
        return index
    return None


def read_short_tsv(index: Index, path: Path, split: str, labels: Sequence[str], pictures: str) -> None:
    """Reads `Label, ImageID, String`, with or without that header. The text is taken as it is, quotes too."""
    for number, row in enumerate(read_rows(path)):
        fields = (row.text or "").split("\t")
        if number == 0 and fields[0].strip().lower() == "label":
            continue
        try:
            if len(fields) != 3:
                raise DataError("the line is not UTF-8" if row.text is None else f"{len(fields)} columns, not 3")
            label = class_index(fields[0].strip(), labels)
            entry = tweet(row.place, label, split, picture=fields[1], text=fields[2], pictures=pictures)
        except DataError as error:
            index.leave_out(split, row.place, BAD_ROW, str(error))
        else:
            index.add(entry)


def tweet(sample_id: str, label: int, split: str, *, picture: str, text: str, pictures: str) -> Entry:
    """Returns the entry of one tweet; `picture` is an id or a file name, with or without folders before it."""
    name = PurePosixPath(picture.strip()).name
    if not name:
        raise DataError("no picture is named")
    file = name if PurePosixPath(name).suffix.lower() in {".jpg", ".jpeg", ".png"} else f"{name}.jpg"
    return Entry(sample_id, label, split, {"image": f"{pictures}/{file}", "text": text}, group=PurePosixPath(file).stem)


def _read_json(index: Index, path: Path, split: str, labels: Sequence[str], pictures: str) -> None:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UsageError(f"{path} must hold a list of {{image, text, label}}")
    for number, row in enumerate(rows):
        place = f"{path.name}[{number}]"
        try:
            if not isinstance(row, dict) or not {"image", "text", "label"} <= row.keys():
                raise DataError("an entry must have image, text and label")
            if not isinstance(row["text"], str) or not isinstance(row["image"], str | int):
                raise DataError(f"text and image must be texts, got {row['text']!r} and {row['image']!r}")
            label = class_index(str(row["label"]), labels)
            picture = str(row["image"])
            stem = PurePosixPath(picture).stem
            index.add(tweet(stem, label, split, picture=picture, text=str(row["text"]), pictures=pictures))
        except DataError as error:
            index.leave_out(split, place, BAD_ROW, str(error))
