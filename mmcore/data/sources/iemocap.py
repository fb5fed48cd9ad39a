"""`iemocap`: ten actors in dialogues, four emotions, sound, face and transcript (Busso et al. 2008).

Lists: MLA's `my_train_iemo.txt` and `my_test_iemo.txt`, rows `<clip>.mp4 [split|sign] <text> [split|sign] <emotion>`;
they hold the transcripts, so they are not to be passed on. Clips in `video/<clip>.mp4`, from which sound and the
middle frame are taken; or sound in `audio/<clip>.wav` and frames in `face/<clip>/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le
from pydantic import BaseModel, Field

from mmcore.data.demo import clip_files, make
from mmcore.data.media import AudioFile, Frames, Medium, RawFolder, Text
from mmcore.data.raw.index import BAD_ROW, Entry, Index
from mmcore.data.raw.lists import Row, class_index, read_rows
from mmcore.data.raw.source import RawConfig, RawSource
from mmcore.data.sources import clips
from mmcore.data.spec import DATASETS, SplitRules
from mmcore.errors import DataError, UsageError

SEPARATOR = "[split|sign]"


CLIP_NAME = re.compile(r"Ses(?P<session>\d{2})[FM]_.+")


SECONDS = 10.24
"""1,024 windows of 10 ms: what the papers keep of a clip's sound."""


LISTS = {split: (f"my_{split}_iemo.txt", f"data/my_{split}_iemo.txt") for split in ("train", "test")}


FOLDERS = {"audio": ("audio", "wav", "video"), "video": ("face", "Image-01-FPS", "video")}


class IemocapConfig(RawConfig):
    """Options of `iemocap`."""

    image_size: Annotated[int, Ge(8), Le(4096)] | None = Field(
        default=None, description="stored pixels; none: 256 (demo: 24)"
    )
    max_tokens: Annotated[int, Ge(4), Le(100000)] | None = Field(default=None, description="none: 256 (demo: 24)")


@DATASETS.register("iemocap")
class Iemocap(RawSource):
    """4,425 utterances of five sessions."""

    Config: ClassVar[type[BaseModel]] = IemocapConfig
    name = "iemocap"
    classes = ("angry", "happy", "neutral", "sad")
    expected: ClassVar[Mapping[str, Mapping[str, int]]] = {"MLA's lists": {"train": 3318, "test": 1107}}
    split_rules = SplitRules(default_protocol="group", folds=5)
    raw_help = (
        "The recordings are released on request (sail.usc.edu/iemocap, release form), cut into video/<clip>.mp4; "
        "the papers' lists my_train_iemo.txt and my_test_iemo.txt come with MLA's code. Neither is to be passed on. "
        "To try without: --demo."
    )
    options: IemocapConfig

    def media(self) -> Sequence[Medium]:
        """Returns sound, the middle frame, and the transcript."""
        small = self.options.demo
        return (
            AudioFile(
                "audio", clip_files.DEMO_RATE_HZ if small else 16000, clip_files.DEMO_SECONDS if small else SECONDS
            ),
            Frames("video", 1, self.options.image_size or (clip_files.DEMO_SIZE if small else 256), pick="spread"),
            Text("text", self.options.max_tokens or (24 if small else 256)),
        )

    def read_index(self, folder: RawFolder) -> Index:
        """Reads MLA's lists."""
        lists = {split: folder.lists(*patterns) for split, patterns in LISTS.items()}
        missing = [LISTS[split][0] for split, found in lists.items() if not found]
        if missing:
            place = folder.split_dir or folder.root
            raise UsageError(f"iemocap: {' and '.join(missing)} is not in {place}. {self.raw_help}")
        index = Index("MLA's lists", [path for paths in lists.values() for path in paths])
        where = {name: clips.first_folder(folder, names) for name, names in FOLDERS.items()}
        for split, paths in lists.items():
            for row in read_rows(paths[0]):
                try:
                    index.add(_entry(row, split, folder, where))
                except DataError as error:
                    index.leave_out(split, row.place, BAD_ROW, str(error))
        return index

    def write_demo(self, directory: Path) -> None:
        """Writes 160 clips of five sessions: the words tell the emotion, the voice often, the face seldom."""
        from mmcore.data.demo.clip_files import save_clip

        make.write_vocab(directory, self.classes)
        rows: dict[str, list[str]] = {"train": [], "test": []}
        for number in range(160):
            label = number % 4
            generator = np.random.default_rng([4, number])
            clip = f"Ses{1 + number % 5:02d}{'FM'[number % 2]}_demo{number:03d}_M{number:03d}"
            sound = clip_files.demo_sound(label, 0.7, 4, generator)
            save_clip(
                directory / "video" / f"{clip}.mp4", list(clip_files.demo_frames(label, 0.3, 4, 1, generator)), sound
            )
            text = make.sentence(label, 0.95, generator)
            line = f"{clip}.mp4 {SEPARATOR} {text} {SEPARATOR} {self.classes[label].capitalize()}"
            rows["test" if generator.random() < 0.25 else "train"].append(line)
        for split, lines in rows.items():
            (directory / LISTS[split][0]).write_text("\n".join(lines) + "\n")

    def card(self) -> str:
        """Returns origin, terms and what is known to be wrong."""
        if self.options.demo:
            return make.card("IEMOCAP", "the words tell the emotion, the voice often, the face seldom")
        return (
            "IEMOCAP (Busso et al. 2008; on request from USC, not to be passed on): five sessions of two actors each. "
            "The papers' split is random over utterances: every session, and so every speaker, is in train and in "
            "test. Protocol group holds out whole sessions; with five of them use cv for a claim."
        )

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        """Returns a 64-band log-mel of 25 ms windows every 10 ms, and the whole picture."""
        audio: dict[str, Any] = {"n_fft": 400, "hop_length": 160, "n_mels": 64, "standardise": True}
        if self.options.demo:
            audio = {"n_fft": 256, "hop_length": 128, "n_mels": 32, "standardise": True}
        image: dict[str, Any] = {
            "mean": clips.IMAGENET_MEAN,
            "std": clips.IMAGENET_STD,
            "crop_scale": None,
            "flip": False,
        }
        return {"audio": audio, "video": image | {"size": None if self.options.demo else [224, 224]}}

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns ResNet18 for sound and face and BERT for the text.

        NOT the papers' `cav_mae` and `m3ae`, whose checkpoints nobody can fetch by a name (docs/datasets.md).
        """
        if self.options.demo:
            small = {"name": "resnet18", "size": "tiny"}
            text = {"name": "bert", "weights": "random", "size": "tiny", "pooling": "mean", "dropout": 0.0}
            return {"audio": small, "video": dict(small), "text": text}
        text = {"name": "bert", "weights": "google-bert/bert-base-uncased"}
        return {"audio": {"name": "resnet18"}, "video": {"name": "resnet18"}, "text": text}


def _entry(row: Row, split: str, folder: RawFolder, where: Mapping[str, str]) -> Entry:
    """Returns the sample of one row.

    Raises:
        DataError: The row is of another form, its clip's name or its emotion unknown.
    """
    if row.text is None:
        raise DataError("the line is not UTF-8")
    fields = [field.strip() for field in row.text.split(SEPARATOR)]
    if len(fields) != 3:
        raise DataError(f"{len(fields)} fields, not 3: clip {SEPARATOR} text {SEPARATOR} emotion")
    clip = fields[0].removesuffix(".mp4")
    match = CLIP_NAME.fullmatch(clip)
    if match is None:
        raise DataError(f"'{fields[0]}' is no clip: its name must begin with the session, as Ses03M_")
    folder.path(clip)  # a name that climbs out is refused before anything is looked at
    media = {
        "audio": clips.sound_of(folder, where["audio"], clip),
        "video": clips.frames_of(folder, where["video"], clip),
        "text": fields[1],
    }
    label = class_index(fields[2].lower(), Iemocap.classes)
    return Entry(clip, label, split, media, group=f"session {match['session']}")
