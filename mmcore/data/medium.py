"""What a decoder is, and the folder raw files lie in."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmcore.data.spec import Modality
from mmcore.errors import DataError, UsageError

POINTER_BEGINNING = b"version https://git-lfs.github.com/spec/"


POINTER_ADVICE = "run `git lfs pull`"


LARGEST_POINTER = 1024
"""Bytes; Git LFS takes a larger file for the file itself."""


class MissingMedium(DataError):
    """A file is whole but has nothing of the modality, as a clip without sound; damage where none may be missing."""


@dataclass(frozen=True)
class RawFolder:
    """Where a data set's raw files lie; small, and picklable. Every node that prepares must see it.

    Attributes:
        root: The media; all their paths are relative to it.
        split_dir: Folder of the public lists, where they are not in `root`.
        vocab: A vocabulary of texts, WordPiece or CLIP's vocab.json; None: that in `root`.
    """

    root: Path
    split_dir: Path | None = None
    vocab: Path | None = None

    def absolute(self) -> RawFolder:
        """Returns the same folder by absolute paths, for processes with another working directory."""
        return RawFolder(
            self.root.resolve(),
            self.split_dir and self.split_dir.resolve(),
            self.vocab and self.vocab.resolve(),
        )

    def path(self, relative: str) -> Path:
        """Returns the path of a raw file.

        Raises:
            DataError: It leads out of the raw folder. (Symbolic links inside it may lead anywhere.)
        """
        if Path(relative).is_absolute() or ".." in Path(relative).parts:
            raise DataError(f"{relative} leads out of the raw folder")
        return self.root / relative

    def fault(self, relative: str) -> str | None:
        """Returns why a raw file cannot be read, as far as a look at it tells, or None."""
        try:
            status = os.stat(self.path(relative))  # noqa: PTH116 (its error names the reason)
        except DataError as error:
            return str(error)
        except OSError as error:
            return (
                f"{relative} is not there" if isinstance(error, FileNotFoundError) else f"{relative}: {error.strerror}"
            )
        if status.st_size == 0:
            return f"{relative} is empty"
        return pointer_fault(self.path(relative), relative) if status.st_size <= LARGEST_POINTER else None

    def lists(self, *patterns: str) -> list[Path]:
        """Returns the files, sorted by name, that match the first pattern that has any, in `split_dir` or `root`.

        Raises:
            UsageError: One of them is a Git LFS pointer.
        """
        for pattern in patterns:
            for folder in filter(None, (self.split_dir, self.root)):
                found = sorted(path for path in folder.glob(pattern) if path.is_file())
                if found:
                    for path in found:
                        refuse_pointer(path)
                    return found
        return []


def pointer_fault(path: Path, name: object) -> str | None:
    """Returns what to say of a file that stands for another one, kept by Git LFS; None if it is none."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(POINTER_BEGINNING))
    except OSError:
        return None  # said by whoever reads it
    return pointer_message(name) if beginning == POINTER_BEGINNING else None


def refuse_pointer(path: Path) -> None:
    """Refuses a list or table that stands for another file, kept by Git LFS.

    Raises:
        UsageError: It does.
    """
    fault = pointer_fault(path, path)
    if fault:
        raise UsageError(fault)


def pointer_message(name: object) -> str:
    """Returns what to say of a file that stands for another one, kept by Git LFS."""
    return f"{name} is a Git LFS pointer, not the file itself: {POINTER_ADVICE}"


class Note(NamedTuple):
    """What was done to a sample's medium that a person should know of; the sample is in.

    Attributes:
        rule: Equal wherever the same was done, so that the check can count it: "cropped", "turned upright by EXIF".
        detail: What holds for this sample alone: "to 128 of 10002 tokens". Empty: there is nothing more to say.
    """

    rule: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.rule} {self.detail}".rstrip()


CROPPED = "cropped"
"""The rule of every note that tells how much of a medium is left out at its end."""


class Decoded(NamedTuple):
    """One modality of one sample.

    Attributes:
        array: Values in the stored shape and dtype, zero padded.
        length: Valid length along the first axis, for a modality of variable length.
        notes: What was done to it, for example `Note(CROPPED, "to 128 of 10002 tokens")`.
        is_present: Whether there is anything of the modality; else the array is zeros.
    """

    array: np.ndarray
    length: int | None = None
    notes: tuple[Note, ...] = ()
    is_present: bool = True


class Medium(ABC):
    """One modality and how its samples are decoded. What an index holds for it is `value`.

    Attributes:
        modality: What is stored.
    """

    modality: Modality

    def files(self, value: Any) -> Iterator[str]:
        """Yields the raw files a value needs, relative to the raw folder."""
        yield str(value)

    def shared_files(self, folder: RawFolder) -> list[Path]:
        """Returns the files every sample's decoding depends on, such as a vocabulary."""
        return []

    def stored(self, folder: RawFolder) -> Modality:
        """Returns `modality` with what only the raw files tell.

        Raises:
            UsageError: A file all samples need is missing.
        """
        return self.modality

    @abstractmethod
    def read(self, folder: RawFolder, value: Any) -> Decoded:
        """Decodes one sample.

        Raises:
            DataError: The medium is damaged; the message names it.
        """


def padded(array: np.ndarray, length: int) -> np.ndarray:
    """Returns `array` with zeros behind it, so that its first axis has `length` entries."""
    full = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    full[: len(array)] = array
    return full


def decoding_errors() -> tuple[type[Exception], ...]:
    """Returns what PyAV raises at a damaged clip."""
    import av

    return (av.FFmpegError, OSError, ValueError)
