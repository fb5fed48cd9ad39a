"""What the audio-video data sets share: folders of sounds and frames, transforms, encoders.

Shape legend: audio (T,) int16 with its length, video (frames, 3, 256, 256) uint8 with its valid frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import Field

from mmcore.data.demo.clip_files import DEMO_RATE_HZ, DEMO_SECONDS, DEMO_SIZE
from mmcore.data.media import AudioFile, Frames, Medium, RawFolder
from mmcore.data.media.video import CLIP_SUFFIXES
from mmcore.data.raw.index import Entry, Index
from mmcore.data.raw.source import RawConfig, RawSource

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma")


IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class ClipConfig(RawConfig):
    """Options of the audio-video data sets."""

    frames: Annotated[int, Ge(1), Le(64)] | None = Field(default=None, description="stored frames; none: the papers'")
    image_size: Annotated[int, Ge(8), Le(4096)] | None = Field(
        default=None, description="stored pixels; none: 256 (demo: 24)"
    )
    sample_rate_hz: Annotated[int, Ge(1000), Le(768000)] | None = Field(
        default=None, description="none: the papers' (demo: 8000)"
    )


class ClipSource(RawSource):
    """A data set of clips with sound.

    Class attributes:
        num_frames: The papers' number of frames a clip.
        pick: Which of a clip's frames, one a second, are taken.
        rate_hz: The papers' sample rate.
        seconds: Sound that is kept.
        tile_seconds: To which a shorter clip is repeated on the device, as in the papers; None: not at all.
    """

    num_frames: ClassVar[int]
    pick: ClassVar[Literal["first", "spread"]] = "first"
    rate_hz: ClassVar[int]
    seconds: ClassVar[float]
    tile_seconds: ClassVar[float | None] = None
    options: ClipConfig

    def media(self) -> Sequence[Medium]:
        """Returns sound and frames."""
        small, options = self.options.demo, self.options
        size = options.image_size or (DEMO_SIZE if small else 256)
        seconds = DEMO_SECONDS if small else self.seconds
        frames = options.frames or (min(2, self.num_frames) if small else self.num_frames)
        return AudioFile("audio", self._rate_hz, seconds), Frames("video", frames, size, pick=self.pick)

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        """Returns the papers': log magnitude, windows of 512 every 353; random crops of 224, ImageNet's statistics."""
        image: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        if self.options.demo:
            audio: dict[str, Any] = {"n_fft": 256, "hop_length": 128, "n_mels": 32, "standardise": True}
            return {"audio": audio, "video": image | {"crop_scale": None, "flip": False, "size": None}}
        tile = None if self.tile_seconds is None else round(self.tile_seconds * self._rate_hz)
        audio = {"n_fft": 512, "hop_length": 353, "n_mels": None, "standardise": False, "tile_to": tile}
        return {"audio": audio, "video": image | {"crop_scale": [0.08, 1.0], "flip": True, "size": [224, 224]}}

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns the papers' ResNet18 from random initial values, tiny in a demo; frames are averaged over time."""
        size = "tiny" if self.options.demo else "18"
        return {name: {"name": "resnet18", "size": size} for name in ("audio", "video")}

    @property
    def _rate_hz(self) -> int:
        return self.options.sample_rate_hz or (DEMO_RATE_HZ if self.options.demo else self.rate_hz)


def first_folder(folder: RawFolder, candidates: Sequence[str]) -> str:
    """Returns the first of the folders that is there, relative to the raw folder; if none is, the first."""
    return next((name for name in candidates if (folder.root / name).is_dir()), candidates[0])


def sound_of(folder: RawFolder, where: str, clip: str) -> str:
    """Returns the path of a clip's sound: a sound file, or the clip itself; if there is none, the wav it should be."""
    suffixes = (*SOUND_SUFFIXES, *sorted(CLIP_SUFFIXES))
    return next(
        (f"{where}/{clip}{suffix}" for suffix in suffixes if (folder.root / f"{where}/{clip}{suffix}").is_file()),
        f"{where}/{clip}{SOUND_SUFFIXES[0]}",
    )


def frames_of(folder: RawFolder, where: str, clip: str) -> str | list[str]:
    """Returns the clip's frames: the pictures in its folder, sorted, or the path of the clip itself.

    If there is neither, the pattern of the pictures that should be there, which is then reported as missing.
    """
    directory = folder.root / where / clip
    if directory.is_dir():
        names = sorted(path.name for path in directory.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        return [f"{where}/{clip}/{name}" for name in names] or [f"{where}/{clip}/*.jpg"]
    for suffix in sorted(CLIP_SUFFIXES):
        if (folder.root / f"{where}/{clip}{suffix}").is_file():
            return f"{where}/{clip}{suffix}"
    return [f"{where}/{clip}/*.jpg"]


def add_clip(
    index: Index, folder: RawFolder, entry: tuple[str, int, str, str], *, sounds: str, pictures: str, file: str = ""
) -> None:
    """Enters a clip of an index.

    Args:
        index: Gets it.
        folder: The raw files.
        entry: Sample id, label, split, group.
        sounds: Folder of its sound.
        pictures: Folder of its frames or itself.
        file: Its name there, if that is not the sample's id.
    """
    sample_id, label, split, group = entry
    name = file or sample_id
    folder.path(name)  # a name that climbs out is refused before anything is looked at
    media = {"audio": sound_of(folder, sounds, name), "video": frames_of(folder, pictures, name)}
    index.add(Entry(sample_id, label, split, media, group=group))


def youtube_id(clip: str) -> str:
    """Returns the YouTube id a clip's name begins with: 11 characters, then an underscore and its place there."""
    return clip[:11] if len(clip) > 12 and clip[11] == "_" else clip
