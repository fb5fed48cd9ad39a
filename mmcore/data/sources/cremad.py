"""`cremad`: 91 actors say 12 sentences in six emotions (Cao et al. 2014, CREMA-D).

Lists: `train.csv` and `test.csv` of rows `1001_IEO_NEU_XX,NEU` without a header (OGM-GE's, used by most papers), or
with the header `name,label` and a `val.csv`; MLA's `my_train_cre.txt` (`1001_IEO_NEU_XX.flv NEU`), another random
split; the publishers' `processedResults/summaryTable.csv`, which splits nothing.
Sound in `AudioWAV/` or `AudioMP3/`; frames in `Image-01-FPS/<clip>/`, or taken from `VideoFlash/<clip>.flv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from mmcore.data.demo import clip_files, make
from mmcore.data.media import RawFolder
from mmcore.data.raw.index import BAD_ROW, Index
from mmcore.data.raw.lists import absent_lists, class_index, read_records
from mmcore.data.sources import clips
from mmcore.data.spec import DATASETS, SplitRules
from mmcore.data.splits import hashed_split
from mmcore.errors import DataError, UsageError

CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
"""In OGM-GE's order, which most papers follow; MLA and MMPareto go by the alphabet."""


SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")


LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "csv": {split: (f"annotations/{split}.csv", f"{split}.csv") for split in ("train", "val", "test")},
    "mla": {split: (f"data/my_{split}_cre.txt", f"my_{split}_cre.txt") for split in ("train", "test")},
}


SUMMARY = ("processedResults/summaryTable.csv", "summaryTable.csv")


@DATASETS.register("cremad")
class CremaD(clips.ClipSource):
    """7,442 clips of six emotions."""

    Config: ClassVar[type[BaseModel]] = clips.ClipConfig
    name = "cremad"
    classes = ("neutral", "happy", "sad", "fear", "disgust", "anger")
    expected: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "OGM-GE's lists": {"train": 6698, "test": 744},
        "OGM-GE's lists with a validation split": {"train": 5954, "val": 744, "test": 744},
    }
    split_rules = SplitRules(default_protocol="group", group_counts={"train": 63, "val": 14, "test": 14})
    raw_help = (
        "The clips are at github.com/CheyneyComputerScience/CREMA-D (Git LFS; mirror: gitlab.com/cs-cooper-lab/"
        "crema-d-mirror; Open Database License): AudioWAV/ and VideoFlash/, or Image-01-FPS/<clip>/ of frames. The "
        "papers' train.csv and test.csv are at github.com/GeWu-Lab/OGM-GE_CVPR2022 (data/CREMAD; MIT); give their "
        "folder by --split-dir. To try without: --demo."
    )
    num_frames = 2
    rate_hz = 22050
    seconds = 5.0
    tile_seconds = 20.0

    def read_index(self, folder: RawFolder) -> Index:
        """Reads whichever lists are there."""
        sounds = clips.first_folder(folder, ("AudioWAV", "AudioMP3"))
        pictures = clips.first_folder(folder, ("Image-01-FPS", "VideoFlash"))
        for layout, separator, lists in (("csv lists", ",", LISTS["csv"]), ("MLA's lists", None, LISTS["mla"])):
            found = {split: folder.lists(*patterns) for split, patterns in lists.items()}
            if not any(found.values()):
                continue
            index = Index(f"{layout} ({', '.join(sorted(split for split in found if found[split]))})", [])
            index.absent = absent_lists(found)
            for split, paths in found.items():
                self._read_list(index, folder, split, paths, separator=separator, where=(sounds, pictures))
            return index
        return self._read_summary(folder, sounds, pictures)

    def write_demo(self, directory: Path) -> None:
        """Writes 240 clips of ten actors: their voices tell the emotion, their faces half of the time."""
        rows: dict[str, list[str]] = {"train": [], "test": []}
        for actor in range(1001, 1011):
            for number in range(24):
                code = CODES[number % 6]
                label = number % 6
                clip = f"{actor}_{SENTENCES[number // 6]}_{code}_XX"
                generator = np.random.default_rng([actor, number])
                sound = clip_files.demo_sound(label, 0.95, 6, generator)
                clip_files.save_sound(directory / "AudioWAV" / f"{clip}.wav", sound)
                for place, pixels in enumerate(clip_files.demo_frames(label, 0.45, 6, 2, generator), start=1):
                    make.save_picture(directory / "Image-01-FPS" / clip / f"{place:05d}.jpg", pixels)
                rows["test" if generator.random() < 0.2 else "train"].append(f"{clip},{code}")
        (directory / "annotations").mkdir()
        for split, lines in rows.items():
            (directory / "annotations" / f"{split}.csv").write_text("\r\n".join(lines) + "\r\n")

    def card(self) -> str:
        """Returns origin, terms and what is known to be wrong."""
        if self.options.demo:
            return make.card("CREMA-D", "the voices tell the emotion, the faces half of the time")
        return (
            "CREMA-D (Cao et al. 2014; Open Database License): 91 actors, 12 sentences, 6 emotions. The published "
            "random split has every actor in train and in test: accuracy on it is that on known voices. Protocol "
            "group holds out 14 actors for test and 14 for validation, drawn by a fixed hash."
        )

    def _read_list(
        self,
        index: Index,
        folder: RawFolder,
        split: str,
        paths: Sequence[Path],
        *,
        separator: str | None,
        where: tuple[str, str],
    ) -> None:
        index.lists = [*index.lists, *paths]
        for path in paths:
            for row, fields in read_records(path, ("name", "label"), separator):
                try:
                    clip, label, actor = _checked(fields)
                    clips.add_clip(index, folder, (clip, label, split, actor), sounds=where[0], pictures=where[1])
                except DataError as error:
                    index.leave_out(split, row.place, BAD_ROW, str(error))

    def _read_summary(self, folder: RawFolder, sounds: str, pictures: str) -> Index:
        """Takes every clip of the publishers' table; its splits are a stratified hash."""
        paths = folder.lists(*SUMMARY)
        if not paths:
            raise UsageError(f"cremad: there are no lists in {folder.split_dir or folder.root}. {self.raw_help}")
        index = Index("the publishers' table (no splits: drawn by hash)", paths, published=False)
        known = []
        for row, fields in read_records(paths[0], ("filename",)):
            try:
                known.append(_checked([fields[0], fields[0].split("_")[2]] if isinstance(fields, list) else fields))
            except (DataError, IndexError) as error:
                index.leave_out("train", row.place, BAD_ROW, str(error))
        splits = hashed_split([clip for clip, _, _ in known], [label for _, label, _ in known])
        for (clip, label, actor), split in zip(known, splits, strict=True):
            clips.add_clip(index, folder, (clip, label, split, actor), sounds=sounds, pictures=pictures)
        return index


def _checked(fields: Any) -> tuple[str, int, str]:
    """Returns (clip, label, actor) of a row; an emotion that is not the clip's own is refused.

    Raises:
        DataError: The row has no clip of CREMA-D, or an unknown or another emotion.
    """
    if isinstance(fields, str):
        raise DataError(fields)
    clip = fields[0].removesuffix(".flv").removesuffix(".wav")
    parts = clip.split("_")
    if len(parts) != 4 or not parts[0].isdigit():
        raise DataError(f"'{fields[0]}' is no clip: its name must be actor_sentence_emotion_level")
    label = class_index(fields[1], CODES)
    if parts[2] != fields[1]:
        raise DataError(f"'{clip}' is listed as {fields[1]}, its name says {parts[2]}")
    return clip, label, parts[0]
