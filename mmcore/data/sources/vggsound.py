"""`vggsound`: clips of 309 kinds of sound whose source is seen (Chen et al. 2020).

Lists: the publishers' `vggsound.csv` (`YouTube id, start in seconds, label, split`, no header), or their `test.csv`
and a `train.csv` beside it, of rows `<id>_<start>.mp4,label` or of `vggsound.csv`'s rows. Labels with commas stand in
quotes. One of the two lists alone can be checked, not prepared.
Clips in `video/<id>_<start>.mp4` (start with six digits), from which sound and frames are taken; or sound in
`audio/` and frames in `Image-01-FPS/<id>_<start>/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from mmcore.data.demo import clip_files, make
from mmcore.data.media import RawFolder
from mmcore.data.raw.index import BAD_ROW, Index
from mmcore.data.raw.lists import Row, absent_lists, class_index, read_records, read_rows, split_csv
from mmcore.data.sources import clips
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError

CLASSES_FILE = "vggsound_classes.txt"


SPLITS = ("train", "test")


LIST_NAMES = ("{}.csv", "data/{}.csv", "vggsound_{}.csv", "vgg_{}.csv")
"""What the list of a split is called; the publishers' repository has data/test.csv and no train list."""


NUM_DEMO_CLASSES = 4


@DATASETS.register("vggsound")
class VGGSound(clips.ClipSource):
    """About 200,000 clips of ten seconds."""

    Config: ClassVar[type[BaseModel]] = clips.ClipConfig
    name = "vggsound"
    classes = tuple(resources.files("mmcore.data.sources").joinpath(CLASSES_FILE).read_text().splitlines())
    """The publishers' 309 names (data/stat.csv of github.com/hche11/VGGSound, CC BY 4.0), by the alphabet."""
    expected: ClassVar[Mapping[str, Mapping[str, int]]] = {
        # Counted by its users in issue 19 of the publishers' repository: 291 rows more than their two lists.
        "the publishers' vggsound.csv": {"train": 183971, "test": 15496},
        "the publishers' train and test list": {"train": 183730, "test": 15446},
        "the publishers' test list": {"test": 15446},
        "what AUG's and LFM's copy had": {"train": 168618, "test": 13954},
    }
    raw_help = (
        "The lists (vggsound.csv, or test.csv and train.csv) are at github.com/hche11/VGGSound (CC BY 4.0), the clips "
        "YouTube's (their owners' terms; about a fifth are gone), expected as video/<id>_<start>.mp4, start with six "
        "digits. To try without: --demo."
    )
    num_frames = 3
    pick = "spread"
    rate_hz = 16000
    seconds = 10.0

    def __init__(self, options: clips.ClipConfig):
        super().__init__(options)
        if options.demo:
            self.classes = self.classes[:NUM_DEMO_CLASSES]

    def read_index(self, folder: RawFolder) -> Index:
        """Reads whichever lists are there."""
        whole = folder.lists("vggsound.csv", "data/vggsound.csv")
        if whole:
            index = Index("the publishers' vggsound.csv", whole)
            self._add_rows(index, folder, read_records(whole[0], ("youtube_id", "start", "label", "split")))
            return index
        found = {split: folder.lists(*(name.format(split) for name in LIST_NAMES)) for split in SPLITS}
        lists = {split: paths[0] for split, paths in found.items() if paths}
        if not lists:
            raise UsageError(f"vggsound: there are no lists in {folder.split_dir or folder.root}. {self.raw_help}")
        index = Index(" and ".join(path.name for path in lists.values()), list(lists.values()))
        index.absent = absent_lists(found)
        for split, path in lists.items():
            columns = _columns(path)
            rows = ((row, _of_split(fields, columns, split)) for row, fields in read_records(path, columns))
            self._add_rows(index, folder, rows)
        return index

    def write_demo(self, directory: Path) -> None:
        """Writes 120 mp4 clips of four of the classes: the sound tells the class, the pictures half of the time."""
        from mmcore.data.demo.clip_files import save_clip

        rows = []
        for number in range(120):
            label = number % NUM_DEMO_CLASSES
            split = "test" if number % 5 == 4 else "train"
            generator = np.random.default_rng([31, number])
            sound = clip_files.demo_sound(label, 0.95, NUM_DEMO_CLASSES, generator)
            frames = list(clip_files.demo_frames(label, 0.5, NUM_DEMO_CLASSES, 2, generator))
            save_clip(directory / "video" / f"demo{number:07d}_{10 * number:06d}.mp4", frames, sound)
            rows.append(f'demo{number:07d},{10 * number},"{self.classes[label]}",{split}')
        (directory / "vggsound.csv").write_text("\n".join(rows) + "\n")

    def card(self) -> str:
        """Returns origin, terms and what is known to be wrong."""
        if self.options.demo:
            return make.card("VGGSound", "the sound tells the class, the pictures half of the time")
        return (
            "VGGSound (Chen et al. 2020; lists CC BY 4.0, clips their owners'): 309 classes. About a fifth of the "
            "clips are gone from YouTube, and every copy lacks others: compare within one copy only."
        )

    def _add_rows(self, index: Index, folder: RawFolder, rows: Iterable[tuple[Row, list[str] | str]]) -> None:
        sounds = clips.first_folder(folder, ("audio", "video", "videos"))
        pictures = clips.first_folder(folder, ("Image-01-FPS", "video", "videos"))
        known = {name: label for label, name in enumerate(self.classes)}
        for row, fields in rows:
            split = fields[-1] if isinstance(fields, list) and fields[-1] in SPLITS else "train"
            try:
                if isinstance(fields, str):
                    raise DataError(fields)
                if fields[-1] not in SPLITS:
                    raise DataError(f"unknown split '{fields[-1]}'")
                clip = _clip_name(fields)
                entry = (clip, class_index(fields[-2], known), split, clips.youtube_id(clip))
                clips.add_clip(index, folder, entry, sounds=sounds, pictures=pictures)
            except DataError as error:
                index.leave_out(split, row.place, BAD_ROW, str(error))


def _columns(path: Path) -> tuple[str, ...]:
    """Returns the columns of a split's list: a file's name and a label, or an id, a start in seconds and a label.

    Rows cut out of the publishers' vggsound.csv still have their split behind them.
    """
    first = next(read_rows(path), None)
    fields = split_csv(first.text) if first and first.text else []
    by_start = len(fields) > 2 and (fields[1].isdigit() or fields[1].lower() == "start")
    if not by_start:
        return ("file", "label")
    return ("youtube_id", "start", "label", "split")[: len(fields)]


def _of_split(fields: list[str] | str, columns: tuple[str, ...], split: str) -> list[str] | str:
    """Returns a row's fields with the split of the list it stands in behind them, or why it has none."""
    if isinstance(fields, str):
        return fields
    if "split" in columns and fields[-1] != split:
        return f"the row says '{fields[-1]}', in a list of {split}"
    return [*fields[: columns.index("label") + 1], split]


def _clip_name(fields: list[str]) -> str:
    """Returns `<id>_<start>` with six digits, from (id, start, label, split) or (file name, label, split)."""
    if len(fields) == 3:
        return fields[0].removesuffix(".mp4")
    if not fields[1].isdigit():
        raise DataError(f"the start must be whole seconds, got '{fields[1]}'")
    return f"{fields[0]}_{int(fields[1]):06d}"
