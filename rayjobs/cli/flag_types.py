"""What flags may be: whole numbers and amounts within stated ranges, names of folders, folders and addresses.

A limit is far above what anyone trains, and below what fills a memory or overflows a number by a slip of a finger.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import click

from mmcore.config.schema import LARGEST_SEED, MOST_EPOCHS
from mmcore.errors import UsageError
from rayjobs.storage.addresses import check_address, is_address

SEED = click.IntRange(0, LARGEST_SEED // 2)
"""Those of the final models and of `--seeds` follow it."""


EPOCHS = click.IntRange(1, MOST_EPOCHS)
SEEDS = click.IntRange(1, 10_000)
FINAL_SEEDS = click.IntRange(0, 10_000)
TRIALS = click.IntRange(1, 100_000)
FOLDS = click.IntRange(3, 1000)
VIEWS = click.IntRange(0, 1000)
WORKERS = click.IntRange(1, 10_000)
CPUS = click.IntRange(1, 100_000)
RETRIES = click.IntRange(0, 10_000)
MEBIBYTES = click.IntRange(1, 2**30)


MAX_NAME_BYTES = 150
"""File systems take 255 bytes, temporary names and numbers come in addition."""


class Amount(click.FloatRange):
    """A finite number from 0 on, or above 0."""

    def __init__(self, most: float, *, is_above_0: bool = False):
        super().__init__(0, most, min_open=is_above_0)

    def convert(self, value: float | str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number."""
        number = float(super().convert(value, param, ctx))  # type: ignore[arg-type]
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


GPUS = Amount(1000)
MINUTES = Amount(1_000_000)
DEVICE_SECONDS = Amount(1e12, is_above_0=True)


class FolderName(click.ParamType[str]):
    """A name for a folder in --output, which does not lead out of it."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name."""
        is_printable = value.isprintable() and value == value.strip()
        is_short = len(value.encode(errors="replace")) <= MAX_NAME_BYTES
        if not is_printable or not is_short or value in {"", ".", ".."} or "/" in value:
            self.fail(
                f"it must be the name of one folder: no '/', no control characters, no blanks at its ends, "
                f"{MAX_NAME_BYTES} bytes at most, and neither '.' nor '..'; got {value[:MAX_NAME_BYTES]!r}",
                param,
                ctx,
            )
        return value


class ResumedName(FolderName):
    """The same, or nothing: the command itself tells the name."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name, or ''."""
        return value and super().convert(value, param, ctx)


def folder() -> click.Path:
    """Returns the type of a folder that may not be there yet."""
    return click.Path(path_type=Path, file_okay=False)


class Location(click.Path):
    """A folder, or an address: `s3://bucket/prefix`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Returns a path, or a checked address as text."""
        if not is_address(value):
            return super().convert(value, param, ctx)
        try:
            return check_address(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)
