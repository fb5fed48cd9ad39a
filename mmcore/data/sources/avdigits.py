"""`avdigits`: spoken digits (Free Spoken Digit Dataset) paired by label with handwritten ones (MNIST test set).

One prepared set serves every protocol: each clip is paired with up to three images (its replicates), and a
protocol takes 3 of them in train, 1 in validation, 2 in test. Each image is used once at most.

Shape legend: audio (8000,) int16 with its length, image (1, 28, 28) or (1, 7, 7) uint8.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le
from pydantic import BaseModel, Field

from mmcore.config.sections import Section
from mmcore.data.demo.pixels import noisy_bytes, stored_statistics
from mmcore.data.media.sound.audio import read_sound
from mmcore.data.spec import DATASETS, DatasetSource, DatasetSpec, Modality, Sample, SplitRules
from mmcore.errors import DataError, UsageError

SAMPLE_RATE_HZ = 8000


NUM_AUDIO_SAMPLES = 8000
"""One second: 99 % of the clips are shorter (median 0.42 s); the others keep their loudest second."""


NUM_REPLICATES = 3


IMAGE_FILE, LABEL_FILE = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


IMAGE_MAGIC, LABEL_MAGIC = 2051, 2049


CLIP_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[A-Za-z]+)_(?P<take>\d+)")


GROUP_SPLITS = {"theo": "test", "nicolas": "val"}


NOISE_STD = 0.3


IMAGE_STATISTICS = {
    "clean": (0.13, 0.31),
    "pooled": (0.13, 0.23),
    "noisy": stored_statistics(0.13, 0.23, NOISE_STD),
}
"""Mean and deviation of the stored pixels in [0, 1]."""


class AVDigitsConfig(Section):
    """Options of `avdigits`; another value is another prepared data set."""

    image: Literal["clean", "pooled", "noisy"] = Field(
        default="clean", description="28x28; 7x7 average-pooled; 7x7 with Gaussian noise of 0.3 of full scale"
    )
    seed: Annotated[int, Ge(0), Le(2 * 10**9)] = Field(default=0, description="of the pairing and of the image noise")


@dataclass(frozen=True)
class Clip:
    """One recording, as its file's name `{digit}_{speaker}_{take}.wav` describes it."""

    path: Path
    digit: int
    speaker: str
    take: int

    @property
    def split(self) -> str:
        """The holdout split: takes 0-4 test (the data set's own rule), 5-9 validate, the others train."""
        return "test" if self.take < 5 else "val" if self.take < 10 else "train"

    @property
    def never_trains(self) -> bool:
        """Whether the clip is outside train under `holdout` and under `group`, so that two images will do."""
        return self.split != "train" and self.speaker in GROUP_SPLITS


@DATASETS.register("avdigits")
class AVDigits(DatasetSource):
    """3,000 spoken digits of 6 speakers, each with up to three handwritten digits of the same class."""

    Config: ClassVar[type[BaseModel]] = AVDigitsConfig
    raw_help = (
        "It needs recordings/{digit}_{speaker}_{take}.wav from the Free Spoken Digit Dataset "
        "(github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0) and beside that folder the MNIST test files "
        f"{IMAGE_FILE} and {LABEL_FILE} (LeCun and Cortes, CC BY-SA 3.0)."
    )
    split_rules = SplitRules(
        default_protocol="group",
        replicates={"train": NUM_REPLICATES, "val": 1, "test": 2},
        group_splits=GROUP_SPLITS,
        folds=6,
    )
    options: AVDigitsConfig

    def spec(self) -> DatasetSpec:
        """Returns classes and modalities under these options."""
        side = 28 if self.options.image == "clean" else 7
        audio = Modality(
            "audio", "audio", (NUM_AUDIO_SAMPLES,), "int16", sample_rate_hz=SAMPLE_RATE_HZ, variable_length=True
        )
        image = Modality("image", "image", (1, side, side), "uint8")
        return DatasetSpec("avdigits", tuple(str(digit) for digit in range(10)), (audio, image))

    def raw_files(self, raw_dir: Path) -> list[Path]:
        """Returns the clips and the two image files.

        Raises:
            UsageError: There are no clips, or one is called otherwise, or an image file is missing.
        """
        files = [clip.path for clip in _clips(raw_dir)] + [raw_dir / IMAGE_FILE, raw_dir / LABEL_FILE]
        for path in files[-2:]:
            if not path.is_file():
                raise UsageError(f"avdigits: {path} is missing. {self.raw_help}")
        return files

    def num_samples(self, raw_dir: Path | None) -> int | None:
        """Returns an upper limit: three images for each clip."""
        return None if raw_dir is None else NUM_REPLICATES * len(_clips(raw_dir))

    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        """Yields each clip with each of its images; clips are in an order that mixes digits and speakers.

        Raises:
            DataError: A file is damaged; the message names it.
        """
        assert raw_dir is not None
        clips = _clips(raw_dir)
        images = self._images(raw_dir)
        labels = read_idx(raw_dir / LABEL_FILE, LABEL_MAGIC)
        if len(labels) != len(images):
            raise DataError(f"{raw_dir / LABEL_FILE} has {len(labels)} labels for {len(images)} images")
        pairs = self._pair(clips, labels)
        for clip in _mixed(clips):
            audio, length = self._audio(clip)
            for replicate, image in enumerate(pairs[clip.path.stem]):
                sample = Sample(
                    sample_id=f"{clip.path.stem}-{replicate}",
                    label=clip.digit,
                    group=clip.speaker,
                    source=clip.path.stem,
                    replicate=replicate,
                    arrays={"audio": audio, "image": images[image]},
                    lengths={"audio": length},
                )
                yield clip.split, sample

    def card(self) -> str:
        """Returns origin, licence and what the data cannot show."""
        return (
            "Spoken digits: Free Spoken Digit Dataset (Jakobovski et al., CC BY-SA 4.0), 3,000 clips, 6 speakers. "
            f"Handwritten digits: MNIST test set (LeCun, Cortes; CC BY-SA 3.0), {self.options.image}, each image used "
            f"once at most. Paired by label with seed {self.options.seed}, so the modalities are independent given "
            "the label. The effective test size for audio is the number of clips (group: 500, holdout: 300; a "
            "standard error near 1.5 points), and one held-out speaker is an anecdote: for a claim use cv over "
            "the speakers."
        )

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        """Returns a 32-band log-mel over 48 frames, standardised by clip, which the group protocol needs."""
        mean, std = IMAGE_STATISTICS[self.options.image]
        return {
            "audio": {"n_fft": 256, "hop_length": 80, "n_mels": 32, "frames": 48, "standardise": True},
            "image": {"mean": mean, "std": std, "crop_scale": None, "flip": False, "size": None},
        }

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns a small convolutional network for each modality."""
        return {name: {"name": "small_conv", "width": 16, "features": 64} for name in self.spec().modality_names}

    def _pair(self, clips: Sequence[Clip], labels: np.ndarray) -> dict[str, list[int]]:
        """Returns each clip's images; where a class runs out of images, clips that never train go short first."""
        generator = np.random.default_rng(self.options.seed)
        pairs: dict[str, list[int]] = {clip.path.stem: [] for clip in clips}
        for digit in range(10):
            images = generator.permutation(np.flatnonzero(labels == digit)).tolist()
            members = sorted((clip for clip in clips if clip.digit == digit), key=lambda clip: clip.never_trains)
            for replicate in range(NUM_REPLICATES):
                for clip in members:
                    if images:
                        pairs[clip.path.stem].append(images.pop(0))
                    else:
                        reason = f"MNIST's test set has no image of a {digit} left"
                        self.skip(f"{clip.path.stem}-{replicate}", reason)
        return pairs

    def _images(self, raw_dir: Path) -> np.ndarray:
        """Returns all images as the option asks, (N, 1, side, side) uint8."""
        images = read_idx(raw_dir / IMAGE_FILE, IMAGE_MAGIC)
        if self.options.image == "clean":
            return images[:, None]
        pooled = images.reshape(len(images), 7, 4, 7, 4).mean(axis=(2, 4)) / 255
        if self.options.image == "noisy":
            return noisy_bytes(pooled, NOISE_STD, np.random.default_rng([self.options.seed, 1]))[:, None]
        rounded: np.ndarray = np.round(pooled * 255).astype(np.uint8)
        return rounded[:, None]

    def _audio(self, clip: Clip) -> tuple[np.ndarray, int]:
        """Returns a clip zero padded to NUM_AUDIO_SAMPLES, and its length; notes it if it had to be cropped."""
        wave, notes = read_sound(clip.path, SAMPLE_RATE_HZ)
        for note in notes:
            self.note(clip.path.stem, f"audio {note}", f"audio {note.rule}")
        if len(wave) > NUM_AUDIO_SAMPLES:
            rule = "audio cropped to its loudest second"
            self.note(clip.path.stem, f"{rule} ({len(wave) / SAMPLE_RATE_HZ:.2f} s long)", rule)
            wave = loudest_part(wave, NUM_AUDIO_SAMPLES)
        audio = np.zeros(NUM_AUDIO_SAMPLES, dtype=np.int16)
        audio[: len(wave)] = wave
        return audio, len(wave)


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes.

    Raises:
        DataError: It is no gzip file, no IDX file of that magic number, or truncated; the message names it.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can not be read as gzip: {error}") from None
    found = int.from_bytes(data[:4], "big")
    if found != magic:
        raise DataError(f"{path} is no IDX file: its magic number must be {magic}, got {found} (0x{found:08x})")
    num_axes = magic % 256
    shape = np.frombuffer(data, dtype=">u4", count=num_axes, offset=4).astype(int)
    if len(data) != 4 + 4 * num_axes + shape.prod():
        raise DataError(f"{path} is damaged: {len(data)} bytes of data do not fit its shape {tuple(shape.tolist())}")
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def loudest_part(wave: np.ndarray, num_samples: int) -> np.ndarray:
    """Returns the `num_samples` in a row that hold the most energy."""
    energy = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    start = int(np.argmax(energy[num_samples:] - energy[:-num_samples]))
    return wave[start : start + num_samples]


def _clips(raw_dir: Path) -> list[Clip]:
    clips = []
    for path in sorted((raw_dir / "recordings").glob("*.wav")):
        match = CLIP_NAME.fullmatch(path.stem)
        if match is None:
            raise UsageError(f"{path}: a clip's name must be {{digit}}_{{speaker}}_{{take}}.wav")
        clips.append(Clip(path, int(match["digit"]), match["speaker"], int(match["take"])))
    if not clips:
        raise UsageError(f"avdigits: {raw_dir / 'recordings'} holds no .wav files. {AVDigits.raw_help}")
    return clips


def _mixed(clips: Sequence[Clip]) -> list[Clip]:
    """Returns the clips in an order that depends on their names alone."""
    return sorted(clips, key=lambda clip: hashlib.sha256(clip.path.stem.encode()).digest())
