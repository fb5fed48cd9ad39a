"""`nvgesture`: 25 hand gestures of people at a wheel, in colour, depth and optical flow (Molchanov et al. 2016).

Lists: `nvgesture_train_correct_cvpr2016_v2.lst` and the same for test, or the same names without `_cvpr2016` or
`_v2`; rows of fields `name:value` in any order, as `path:./Video_data/class_01/subject3_r0 depth:sk_depth:146:226
color:sk_color:146:226 duo_left:duo_left:170:263 label:1`: folder, each stream's file with its first frame and the frame
behind its last, class from 1. Clips in `<folder>/sk_color.avi` and `sk_depth.avi`; the other streams are not read.
The optical flow is computed here, from the colour frames of the same window: no public code makes the papers' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le
from pydantic import BaseModel, Field

from mmcore.data.demo import make
from mmcore.data.media import Flow, Medium, RawFolder, Window
from mmcore.data.media.window import LARGEST_FLOW
from mmcore.data.raw.index import BAD_ROW, NOTED, Entry, Index, Problem
from mmcore.data.raw.lists import Row, read_rows
from mmcore.data.raw.source import RawConfig, RawSource
from mmcore.data.sources import clips
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError

NAMES = ("correct_cvpr2016_v2", "correct_v2", "correct_cvpr2016", "correct")


LISTS = {split: tuple(f"nvgesture_{split}_{name}.lst" for name in NAMES) for split in ("train", "test")}


STREAMS = {"rgb": "color", "flow": "color", "depth": "depth"}
"""Modality -> field of a row that names its clip and window."""


FOLDER_NAME = re.compile(r"(?P<subject>subject\d+)_r\d+")


NUM_FRAMES, SIZE, CROP, NUM_TRAIN_FRAMES = 80, 256, 224, 64


NUM_DEMO_CLASSES, NUM_DEMO_FRAMES, DEMO_SIZE = 4, 12, 16


DEMO_SIDE, DEMO_STEP = 48, 2.0
"""Pixels of a demo's clip, and pixels by which its hand moves from frame to frame."""


WEIGHTS = {"rgb": "rgb_imagenet.pt", "flow": "flow_imagenet.pt", "depth": "rgb_imagenet.pt"}


class NVGestureConfig(RawConfig):
    """Options of `nvgesture`."""

    frames: Annotated[int, Ge(2), Le(512)] | None = Field(
        default=None, description="frames of every window of the lists; none: 80 (demo: 12)"
    )
    image_size: Annotated[int, Ge(8), Le(4096)] | None = Field(
        default=None, description="stored pixels; none: 256 (demo: 16)"
    )


@DATASETS.register("nvgesture")
class NVGesture(RawSource):
    """1,532 recordings of 25 gestures."""

    Config: ClassVar[type[BaseModel]] = NVGestureConfig
    name = "nvgesture"
    classes = tuple(f"class_{number:02d}" for number in range(1, 26))
    """As the folders are called: the publishers' lists have no names of gestures."""
    expected: ClassVar[Mapping[str, Mapping[str, int]]] = {"the publishers' lists": {"train": 1050, "test": 482}}
    raw_help = (
        "The recordings are released on request by NVIDIA (research.nvidia.com/publication/online-detection-and-"
        "classification-dynamic-hand-gestures-recurrent-3d-convolutional; their terms), and expected as Video_data/"
        "class_01/subject1_r0/sk_color.avi and sk_depth.avi; the lists nvgesture_train_correct_cvpr2016_v2.lst and "
        "nvgesture_test_correct_cvpr2016_v2.lst come with them; give their folder by --split-dir if it is another. "
        "To try without: --demo."
    )
    options: NVGestureConfig

    def __init__(self, options: NVGestureConfig):
        super().__init__(options)
        if options.demo:
            self.classes = self.classes[:NUM_DEMO_CLASSES]

    def media(self) -> Sequence[Medium]:
        """Returns colour, optical flow and depth, in the papers' order: 42 MB a sample."""
        return (
            Window("rgb", self._num_frames, self._size, channels=3),
            Flow("flow", self._num_frames, self._size),
            Window("depth", self._num_frames, self._size, channels=1),
        )

    def read_index(self, folder: RawFolder) -> Index:
        """Reads the lists."""
        lists = {split: folder.lists(*names) for split, names in LISTS.items()}
        missing = [LISTS[split][0] for split, found in lists.items() if not found]
        if missing:
            place = folder.split_dir or folder.root
            raise UsageError(f"nvgesture: {place} lacks {' and '.join(missing)}. {self.raw_help}")
        index = Index("the publishers' lists", [path for paths in lists.values() for path in paths])
        for split, paths in lists.items():
            for row in read_rows(paths[0]):
                try:
                    entry, lies_in = self._entry(row, split, folder)
                except DataError as error:
                    index.leave_out(split, row.place, BAD_ROW, str(error))
                    continue
                index.add(entry)
                if lies_in != self.classes[entry.label]:
                    reason = f"listed as {self.classes[entry.label]}, which counts; it lies in {lies_in}"
                    index.problems.append(
                        Problem(entry.sample_id, NOTED, reason, "listed under another class than its folder's")
                    )
        return index

    def write_demo(self, directory: Path) -> None:
        """Writes 216 recordings of nine people: depth tells which way the hand goes, colour half of the time."""
        from mmcore.data.demo.clip_files import save_clip

        rows: dict[str, list[str]] = {"train": [], "test": []}
        for number in range(216):
            label, subject, take = number % 4, 1 + number // 4 % 9, number // 36
            generator = np.random.default_rng([25, number])
            path = f"Video_data/{self.classes[label]}/subject{subject}_r{take}"
            start = int(generator.integers(2, 7))
            stop = start + NUM_DEMO_FRAMES
            for stream, clarity in (("depth", 0.95), ("color", 0.5)):
                frames = list(_demo_frames(label, clarity, start, generator))
                save_clip(directory / path / f"sk_{stream}.avi", frames, repeat=1)
            line = f"path:./{path} depth:sk_depth:{start}:{stop} color:sk_color:{start}:{stop} label:{label + 1} "
            rows["test" if subject > 6 else "train"].append(line)
        for split, lines in rows.items():
            (directory / LISTS[split][0]).write_text("\n".join(lines) + "\n")

    def card(self) -> str:
        """Returns origin, terms and what is known to be wrong."""
        if self.options.demo:
            return make.card("NVGesture", "depth tells which way the hand goes, colour and its flow half of the time")
        return (
            "NVGesture (Molchanov et al. 2016; on request from NVIDIA): 25 gestures. In the published split twelve "
            "people train and six others test. The optical flow is Farnebäck's, computed here: how the papers' was "
            "made is not published, so results with flow can not be compared with theirs digit by digit."
        )

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        """Returns the papers': 64 of 80 frames and 224 of 256 pixels at random, the same of all streams, for training.

        Evaluation takes every frame and the middle. Other sizes are cut by the same shares. Colour by ImageNet's
        statistics, depth in [0, 1], flow in [-1, 1], as its published weights expect.
        """
        crop = self._size * CROP // SIZE
        share = (crop / self._size) ** 2
        cut: dict[str, Any] = {
            "crop_scale": [share, share], "crop_ratio": [1.0, 1.0], "middle_scale": share, "flip": False,
            "size": [crop, crop], "train_frames": max(1, self._num_frames * NUM_TRAIN_FRAMES // NUM_FRAMES),
        }  # fmt: skip
        return {
            "rgb": cut | {"mean": clips.IMAGENET_MEAN, "std": clips.IMAGENET_STD},
            "flow": cut | {"mean": 0.0, "std": 1.0 if self.options.demo else LARGEST_FLOW},
            "depth": cut | {"mean": 0.0, "std": 1.0},
        }

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns the papers' I3D with the weights of Kinetics, which must be downloaded first; tiny in a demo."""
        if self.options.demo:
            return {name: {"name": "i3d", "size": "tiny"} for name in STREAMS}
        return {name: {"name": "i3d", "weights": WEIGHTS[name]} for name in STREAMS}

    @property
    def _num_frames(self) -> int:
        return self.options.frames or (NUM_DEMO_FRAMES if self.options.demo else NUM_FRAMES)

    @property
    def _size(self) -> int:
        return self.options.image_size or (DEMO_SIZE if self.options.demo else SIZE)

    def _entry(self, row: Row, split: str, folder: RawFolder) -> tuple[Entry, str]:
        """Returns the sample of one row, and the name of the class's folder it lies in.

        Raises:
            DataError: The row is of another form, its window of another length, or its class unknown.
        """
        fields = _fields(row)
        path = PurePosixPath(fields["path"])
        match = FOLDER_NAME.fullmatch(path.name)
        if match is None or not path.parent.name:
            raise DataError(f"'{path}' is no recording: its path must end as class_01/subject3_r0")
        media = {name: _window(fields, field, path, self._num_frames) for name, field in STREAMS.items()}
        for value in media.values():
            folder.path(value[0])  # a name that climbs out is refused before anything is looked at
        lies_in = path.parent.name
        entry = Entry(f"{lies_in}/{path.name}", self._label(fields["label"]), split, media, group=match["subject"])
        return entry, lies_in

    def _label(self, text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= len(self.classes):
            raise DataError(f"label must be in [1, {len(self.classes)}], got '{text}'")
        return int(text) - 1


def _fields(row: Row) -> dict[str, str]:
    """Returns the fields of a row by name.

    Raises:
        DataError: The row is not UTF-8, or lacks a field.
    """
    if row.text is None:
        raise DataError("the line is not UTF-8")
    fields = dict(part.split(":", 1) for part in row.text.split() if ":" in part)
    missing = [name for name in ("path", "color", "depth", "label") if name not in fields]
    if missing:
        raise DataError(f"no field {', '.join(missing)}; a row is path:… depth:… color:… label:…")
    return fields


def _window(fields: Mapping[str, str], field: str, path: PurePosixPath, num_frames: int) -> list[Any]:
    """Returns [clip, first frame, frame behind the last] of a row's stream.

    Raises:
        DataError: The field is of another form, or the window of another length.
    """
    parts = fields[field].split(":")
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise DataError(f"field {field} must be file:first:last, got '{fields[field]}'")
    start, stop = int(parts[1]), int(parts[2])
    if stop - start != num_frames:
        raise DataError(f"the window of {field} must have {num_frames} frames, got {start} to {stop}")
    name = parts[0] if parts[0].endswith(".avi") else f"{parts[0]}.avi"
    return [(path / name).as_posix(), start, stop]


def _demo_frames(label: int, clarity: float, start: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the frames of a demo's clip, (DEMO_SIDE, DEMO_SIDE, 3) uint8.

    From frame `start` on a hand, a bright bar before a background that stays, goes lengthwise to one of four sides:
    that of the class, or with probability 1 - `clarity` a drawn one. It ends behind the window, for the last flow.
    """
    if generator.random() >= clarity:
        label = int(generator.integers(NUM_DEMO_CLASSES))
    angle = np.pi / 2 * label + generator.uniform(-0.2, 0.2)
    middle = (DEMO_SIDE - 1) / 2 + generator.uniform(-3, 3, size=2)
    background = 0.3 + 0.1 * generator.normal(size=(DEMO_SIDE, DEMO_SIDE, 3))
    y, x = np.mgrid[:DEMO_SIDE, :DEMO_SIDE]
    for number in range(start + NUM_DEMO_FRAMES + 2):
        way = DEMO_STEP * (min(max(number - start, 0), NUM_DEMO_FRAMES) - NUM_DEMO_FRAMES / 2)
        right, down = x - middle[0] - way * np.cos(angle), y - middle[1] - way * np.sin(angle)
        along, across = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
        picture = background + 0.5 * np.exp(-(along**2) / 80 - across**2 / 20)[..., None]
        noisy = picture + 0.03 * generator.normal(size=picture.shape)
        yield np.clip(np.round(255 * noisy), 0, 255).astype(np.uint8)
