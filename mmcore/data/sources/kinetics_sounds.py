"""`kinetics_sounds`: 31 classes of Kinetics whose action is heard as well as seen (Arandjelović and Zisserman 2017).

Lists: OGM-GE's `my_train.txt` and `my_test.txt` of rows `youtube_id,10,label`; BML's `KS_train_val.json` (`labels`,
`database`); `annotations/{train,test}.csv` with the header `label,youtube_id` (class names or indices).
Sound in `train_wav/`, `test_wav/` or `audio/`; frames in `train_img/Image-01-FPS/<id>/` and so on, or clips in
`video/<id>.mp4`, from which both are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from mmcore.config.documents import read_json
from mmcore.data.demo import clip_files, make
from mmcore.data.media import RawFolder
from mmcore.data.raw.index import BAD_ROW, Index
from mmcore.data.raw.lists import absent_lists, class_index, read_records
from mmcore.data.sources import clips
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError

CLASSES: tuple[str, ...] = (
    "blowing_nose", "blowing_out_candles", "bowling", "chopping_wood", "dribbling_basketball", "laughing",
    "mowing_lawn", "playing_accordion", "playing_bagpipes", "playing_bass_guitar", "playing_clarinet",
    "playing_drums", "playing_guitar", "playing_harmonica", "playing_keyboard", "playing_organ", "playing_piano",
    "playing_saxophone", "playing_trombone", "playing_trumpet", "playing_violin", "playing_xylophone",
    "ripping_paper", "shoveling_snow", "shuffling_cards", "singing", "stomping_grapes", "tap_dancing",
    "tapping_guitar", "tapping_pen", "tickling",
)  # fmt: skip
"""In the order of the public lists' indices; some code goes by the order of appearance in a csv instead."""


SUBSETS = {"training": "train", "validation": "val", "testing": "test", "train": "train", "val": "val", "test": "test"}


JSON_LISTS = ("KS_train_val.json", "code/dataset/KS_train_val.json", "annotations/KS_train_val.json")


NUM_DEMO_CLASSES = 4


@DATASETS.register("kinetics_sounds")
class KineticsSounds(clips.ClipSource):
    """17,396 clips of ten seconds in the public lists."""

    Config: ClassVar[type[BaseModel]] = clips.ClipConfig
    name = "kinetics_sounds"
    classes = CLASSES
    expected: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "OGM-GE's lists": {"train": 14799, "test": 2597},
        "BML's list": {"train": 14799, "val": 1320, "test": 2597},
        "the numbers printed in the papers (no public list has them)": {"train": 15000, "val": 1900, "test": 1900},
    }
    raw_help = (
        "The clips are YouTube's, by github.com/cvdfoundation/kinetics-dataset (their owners' terms; many are gone). "
        "The lists my_train.txt and my_test.txt are at github.com/GeWu-Lab/OGM-GE_CVPR2022 (data/KineticSound; MIT); "
        "give their folder by --split-dir. Expected: video/<id>.mp4, or train_wav/<id>.wav and "
        "train_img/Image-01-FPS/<id>/*.jpg, and the same for test. To try without: --demo."
    )
    num_frames = 3
    pick = "spread"
    rate_hz = 35400
    seconds = 10.0

    def __init__(self, options: clips.ClipConfig):
        super().__init__(options)
        if options.demo:
            self.classes = CLASSES[:NUM_DEMO_CLASSES]

    def read_index(self, folder: RawFolder) -> Index:
        """Reads whichever lists are there."""
        rows = {split: folder.lists(f"annotations/my_{split}.txt", f"my_{split}.txt") for split in ("train", "test")}
        named = {split: folder.lists(f"annotations/{split}.csv", f"{split}.csv") for split in ("train", "val", "test")}
        (document,) = folder.lists(*JSON_LISTS)[:1] or (None,)
        if any(rows.values()):
            return self._read_lists("OGM-GE's lists", folder, rows, ("id", "seconds", "class"))
        if any(named.values()):
            return self._read_lists("csv lists of label,youtube_id", folder, named, ("label", "youtube_id"))
        if document is not None:
            return self._read_json(folder, document)
        raise UsageError(f"kinetics_sounds: there are no lists in {folder.split_dir or folder.root}. {self.raw_help}")

    def write_demo(self, directory: Path) -> None:
        """Writes 240 clips of four of the classes: the sound tells the class, the pictures half of the time."""
        rows: dict[str, list[str]] = {"train": [], "test": []}
        for number in range(240):
            label = number % NUM_DEMO_CLASSES
            split = "test" if number % 5 == 4 else "train"
            generator = np.random.default_rng([15, number])
            clip = f"demo{number:07d}_000010_000020"
            sound = clip_files.demo_sound(label, 0.95, NUM_DEMO_CLASSES, generator)
            clip_files.save_sound(directory / f"{split}_wav" / f"{clip}.wav", sound)
            frames = clip_files.demo_frames(label, 0.5, NUM_DEMO_CLASSES, 10, generator)
            for place, pixels in enumerate(frames, start=1):
                path = directory / f"{split}_img" / "Image-01-FPS" / clip / f"{place:05d}.jpg"
                make.save_picture(path, pixels)
            rows[split].append(f"{clip},10,{label}")
        for split, lines in rows.items():
            (directory / f"my_{split}.txt").write_text("\r\n".join(lines) + "\r\n")

    def card(self) -> str:
        """Returns origin, terms and what is known to be wrong."""
        if self.options.demo:
            return make.card("Kinetics-Sounds", "the sound tells the class, the pictures half of the time")
        return (
            "Kinetics-Sounds (Arandjelović and Zisserman 2017), 31 classes of Kinetics; the clips belong to their "
            "owners on YouTube. The public lists hold 14,799 and 2,597 clips; the papers print 15,000, 1,900 and "
            "1,900, and no public list has those. Every copy lacks other clips: compare within one copy only."
        )

    def _read_lists(
        self, layout: str, folder: RawFolder, lists: Mapping[str, list[Path]], columns: tuple[str, ...]
    ) -> Index:
        index = Index(layout, [path for paths in lists.values() for path in paths], absent=absent_lists(lists))
        name_column = 0 if columns[0] == "id" else 1
        label_column = columns.index("class" if "class" in columns else "label")
        for split, paths in lists.items():
            for path in paths:
                for row, fields in read_records(path, columns):
                    try:
                        if isinstance(fields, str):
                            raise DataError(fields)
                        self._add(index, folder, split, fields[name_column], fields[label_column])
                    except DataError as error:
                        index.leave_out(split, row.place, BAD_ROW, str(error))
        return index

    def _read_json(self, folder: RawFolder, path: Path) -> Index:
        document = read_json(path)
        if not isinstance(document, dict) or not isinstance(document.get("database"), dict):
            raise UsageError(f"{path} must be a JSON file with 'labels' and 'database'")
        index = Index("BML's list", [path])
        for clip, record in document["database"].items():
            subset, label = _subset_and_label(record)
            try:
                if subset not in SUBSETS:
                    raise DataError(f"unknown subset '{subset}'")
                self._add(index, folder, SUBSETS[subset], clip, label)
            except DataError as error:
                index.leave_out(SUBSETS.get(subset, "train"), clip, BAD_ROW, str(error))
        return index

    def _add(self, index: Index, folder: RawFolder, split: str, clip: str, label: str) -> None:
        known = {name: number for number, name in enumerate(self.classes)} | {
            str(n): n for n in range(len(self.classes))
        }
        number = class_index(label.strip().lower().replace(" ", "_"), known)
        sounds = clips.first_folder(folder, (f"{split}_wav", "audio", "video", split))
        frames = (f"{split}_img/Image-01-FPS", "Image-01-FPS", "video", split)
        group = clips.youtube_id(clip)
        pictures = clips.first_folder(folder, frames)
        clips.add_clip(index, folder, (clip, number, split, group), sounds=sounds, pictures=pictures)


def _subset_and_label(record: Any) -> tuple[str, str]:
    """Returns the subset and the class of an entry of the JSON list; the class may stand under `annotations`."""
    if not isinstance(record, dict):
        return "", ""
    inner = record.get("annotations")
    label = record.get("label", inner.get("label", "") if isinstance(inner, dict) else "")
    return str(record.get("subset", "")), str(label)
