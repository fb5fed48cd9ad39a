"""What the two data sets of tweets with pictures share: lists in common layouts, encoders and transforms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmcore.data.lists import class_index, read_rows
from mmcore.data.media import RawFolder
from mmcore.data.raw import BAD_ROW, Entry, Index
from mmcore.errors import DataError, UsageError

SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "dev"), "test": ("test",)}


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
            entry = tweet(row.place, class_index(fields[0].strip(), labels), split, fields[1], fields[2], pictures)
        except DataError as error:
            index.leave_out(split, row.place, BAD_ROW, str(error))
        else:
            index.add(entry)


def tweet(sample_id: str, label: int, split: str, picture: str, text: str, pictures: str) -> Entry:
    """Returns the entry of one tweet; `picture` is an id or a file name, with or without folders before it."""
    name = PurePosixPath(picture.strip()).name
    if not name:
        raise DataError("no picture is named")
    file = name if PurePosixPath(name).suffix.lower() in {".jpg", ".jpeg", ".png"} else f"{name}.jpg"
    return Entry(sample_id, label, split, {"image": f"{pictures}/{file}", "text": text}, group=PurePosixPath(file).stem)


def picture_transform(mean: Sequence[float], std: Sequence[float], demo: bool) -> dict[str, dict[str, Any]]:
    """Returns the transform of the picture: a random part of half its area or more, at 224 pixels."""
    if demo:
        return {"image": {"mean": 0.5, "std": 0.25, "crop_scale": None, "flip": False, "size": None}}
    return {"image": {"mean": list(mean), "std": list(std), "crop_scale": [0.5, 1.0], "flip": True, "size": [224, 224]}}


def encoders(demo: bool) -> dict[str, dict[str, Any]]:
    """Returns ResNet50 and BERT, pretrained as in the papers, or tiny and random."""
    if demo:
        return {
            "image": {"name": "resnet50", "weights": "random", "size": "tiny"},
            "text": {"name": "bert", "weights": "random", "size": "tiny", "pooling": "mean", "dropout": 0.0},
        }
    return {
        "image": {"name": "resnet50", "weights": "IMAGENET1K_V1"},
        "text": {"name": "bert", "weights": "google-bert/bert-base-uncased"},
    }


def _read_json(index: Index, path: Path, split: str, labels: Sequence[str], pictures: str) -> None:
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is no JSON file: {error}") from None
    if not isinstance(rows, list):
        raise UsageError(f"{path} must hold a list of {{image, text, label}}")
    for number, row in enumerate(rows):
        place = f"{path.name}[{number}]"
        try:
            if not isinstance(row, dict) or not {"image", "text", "label"} <= row.keys():
                raise DataError("an entry must have image, text and label")
            label = class_index(str(row["label"]), labels)
            stem = PurePosixPath(str(row["image"])).stem
            index.add(tweet(stem, label, split, str(row["image"]), str(row["text"]), pictures))
        except DataError as error:
            index.leave_out(split, place, BAD_ROW, str(error))
