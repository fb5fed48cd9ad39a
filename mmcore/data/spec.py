"""What a data set is: its modalities, its classes, and the source that can make it.

Shape legend: a sample's shape leaves out the batch; images are (C, H, W), audio is (T,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel

from mmcore.registry import Registry

Kind = Literal["image", "audio", "tokens", "features"]


Fill = Literal["mean", "median"]


SPLITS = ("train", "val", "test")
"""Every split's name, in the order in which files and index rows stand."""


@dataclass(frozen=True)
class Modality:
    """One modality as it is stored.

    Attributes:
        name: Key in every dictionary; also the column of the prepared data set.
        kind: Decides which transforms and encoders apply.
        shape: Shape of one stored sample; of fixed size, zero padded at the end of its first axis where
            `variable_length`.
        dtype: NumPy name of the stored type: uint8 frames, int16 waveform, int32 tokens, float16 features.
        sample_rate_hz: For audio.
        num_values: For tokens, the size of the vocabulary: every id is smaller. None: known only once prepared.
        variable_length: A column `<name>__length` tells how much of the first axis is real.
        may_be_missing: A column `<name>__present` tells whether the sample has it.
        views: Augmented views that a frozen encoder's features hold behind the plain one along the first axis, which
            is then 1 + `views` long: evaluation sees view 0, training draws from the others. 0: there is
            no such axis. It is not shown, since a source has none, and what is shown names prepared data.
        fill: What the model puts where a stored number is NaN: that of its training samples
            (`mmcore.layers.filling`). None: no number is.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    sample_rate_hz: int | None = None
    num_values: int | None = None
    variable_length: bool = False
    may_be_missing: bool = False
    views: int = field(default=0, repr=False)
    fill: Fill | None = field(default=None, repr=False)

    @property
    def one_view(self) -> Modality:
        """The modality as encoders are handed it: one of the stored views."""
        return replace(self, shape=self.shape[1:], views=0) if self.views else self

    @property
    def num_bytes(self) -> int:
        """Bytes of one stored sample."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class DatasetSpec:
    """What models and methods must know of a data set. Modalities keep the source's order everywhere."""

    name: str
    classes: tuple[str, ...]
    modalities: tuple[Modality, ...]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """The modalities' names, in their fixed order."""
        return tuple(modality.name for modality in self.modalities)


@dataclass
class Sample:
    """One sample on its way into a prepared data set.

    Attributes:
        sample_id: Unique within the data set.
        label: Class index.
        group: What must not lie on both sides of a split (actor, speaker, session); the sample's own id
            where every sample stands alone.
        source: The recording it comes from; several samples may share one. Intervals are clustered by it
            where groups are too few.
        arrays: Modality -> array of the stored shape and dtype.
        replicate: 0 for the first sample made from `source`, 1 for the second, ...; see
            `DatasetSource.replicates`.
        lengths: Modality -> valid length, for those of variable length.
        present: Modality -> False where it is missing.
    """

    sample_id: str
    label: int
    group: str
    source: str
    arrays: dict[str, np.ndarray]
    replicate: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    present: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitRules:
    """What a data set says about its own splits; the protocols (`mmcore.data.splits`) go by it.

    Attributes:
        default_protocol: "group" where groups lie on both sides of the published split, or are there and no split
            is published; else "holdout".
        replicates: How many replicates of a source each split uses: {"train": 3, "val": 1, "test": 2} takes
            replicates 0-2, 0 and 0-1. Empty: all.
        published: Whether the splits the source yields are fixed by its publishers (or by this project, for
            good); False if they are a seeded hash, which another protocol seed draws again.
        group_splits: Group -> split, the fixed rule of the `group` protocol; groups not named train. Empty:
            groups are drawn by a seeded hash.
        group_counts: Split -> groups it gets of all where they are drawn by hash, as {"train": 63, "val": 14,
            "test": 14}; of another number of groups the same shares. Empty: shares of the samples.
        folds: Folds of the `cv` protocol where the run names no number.
    """

    default_protocol: Literal["group", "holdout"] = "holdout"
    replicates: Mapping[str, int] = field(default_factory=dict)
    published: bool = True
    group_splits: Mapping[str, str] = field(default_factory=dict)
    group_counts: Mapping[str, int] = field(default_factory=dict)
    folds: int = 5

    def folds_of(self, protocol: Mapping[str, Any]) -> tuple[int | None, ...]:
        """Returns the folds a protocol's settings ask for: all of `cv` where no `fold` is named, else (None,)."""
        if protocol.get("name", self.default_protocol) != "cv" or "fold" in protocol:
            return (None,)
        return tuple(range(protocol.get("folds") or self.folds))


class DatasetSource(ABC):
    """Makes the samples of one data set from its raw files (or from nothing, if it is embedded).

    Class attributes:
        Config: Options, validated; each set of options is a prepared data set of its own.
        needs_raw: Whether `samples` reads raw files.
        raw_help: Where the raw files are obtained, under which licence and in which layout; ends the message
            about a raw folder that is missing, empty or of another layout.
        split_rules: What the protocols go by.
        constructed: True if the data was made to show an effect; printed with every result.
        version: Raised whenever `samples` changes what it yields, so that prepared data is made again.
    """

    Config: ClassVar[type[BaseModel]]
    needs_raw: ClassVar[bool] = True
    raw_help: ClassVar[str] = ""
    split_rules: ClassVar[SplitRules] = SplitRules()
    constructed: bool = False
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel):
        self.options = options
        self.skipped: list[tuple[str, str, str]] = []
        self.noted: list[tuple[str, str, str]] = []

    @classmethod
    def folder_name(cls, name: str, options: BaseModel) -> str:
        """Returns the folder of the data set under these options; options at their defaults do not show."""
        defaults = cls.Config().model_dump(mode="json")
        values = options.model_dump(mode="json").items()
        changed = {key: value for key, value in values if value != defaults[key]}
        return name + "".join(f"+{k}" if v is True else f"+{k}={v}" for k, v in sorted(changed.items()))

    @classmethod
    def short_name(cls, name: str, options: Mapping[str, Any]) -> str:
        """Returns what results are named after, of the registered name and the options."""
        return name

    def skip(self, sample_id: str, reason: str, kind: str = "by rule") -> None:
        """Records a sample that was left out; kept in the prepared data set, and counted by `kind`."""
        self.skipped.append((sample_id, reason, kind))

    def note(self, sample_id: str, reason: str, rule: str) -> None:
        """Records what was done to a sample that is in; kept in the prepared data set, and counted by `rule`."""
        self.noted.append((sample_id, reason, rule))

    def raw_files(self, raw_dir: Path) -> list[Path]:
        """Returns the files `samples` reads, in a fixed order: their contents make the source's fingerprint.

        Called before `samples`; the place to check the layout.

        Raises:
            UsageError: The raw folder is not of the expected layout.
        """
        return sorted(path for path in raw_dir.rglob("*") if path.is_file())

    def num_samples(self, raw_dir: Path | None) -> int | None:
        """Returns how many samples are to be expected, for a progress bar, or None if that is not known."""
        return None

    @abstractmethod
    def spec(self) -> DatasetSpec:
        """Returns classes and modalities under these options."""

    @abstractmethod
    def samples(self, raw_dir: Path | None) -> Iterator[tuple[str, Sample]]:
        """Yields (published split, sample) in a fixed order, classes mixed: a stream shuffles only nearby samples.

        The published split is "train", "val" or "test"; a source without a published one assigns by a fixed
        hash (`mmcore.data.splits.hashed_split`).

        Raises:
            DataError: A raw file is damaged; the message names it.
        """

    @abstractmethod
    def card(self) -> str:
        """Returns a few sentences a reader of a result needs: origin, licence, how it was made, what it can't show."""

    def default_transforms(self) -> dict[str, dict[str, Any]]:
        """Returns modality -> settings of its transform on the device (see mmcore.transforms.batch_transforms)."""
        return {}

    def default_encoders(self) -> dict[str, dict[str, Any]]:
        """Returns modality -> encoder section, `{"name": "small_conv", ...}`."""
        return {name: {"name": "small_conv"} for name in self.spec().modality_names}


DATASETS: Registry[DatasetSource] = Registry("data set", "equipoise.datasets", "mmcore.data.sources")


FORMAT_VERSION = 1


Progress = Callable[[int, "int | None"], None]
"""Called with the samples written so far and, where it is known, how many there will be."""
