"""The body of `clean`: what of an experiment's checkpoints nothing needs any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmcore.errors import DataError, UsageError
from rayjobs.experiment.search_result import Keep, SearchResult, drop_checkpoints
from rayjobs.results_layout import CHECKPOINTS, EXPERIMENT_FILE, PLAN_FILE, SEARCH_FILE
from rayjobs.storage.addresses import fetched
from rayjobs.storage.json_record import JsonRecord
from rayjobs.storage.lease import holding, lease_of_folder
from rayjobs.storage.mirror import NO_MIRROR, Mirror


@dataclass(frozen=True)
class Cleaned(JsonRecord):
    """What was done with a search.

    Attributes:
        search: Its name.
        ended: Whether it had ended; else nothing is removed.
        freed: Bytes given back.
    """

    search: str
    ended: bool
    freed: int


def clean_experiment(location: Path | str, keep: Keep, *, dry_run: bool = False) -> list[Cleaned]:
    """Removes the checkpoints of an experiment's trials, but for those to be kept; returns what was given back.

    Args:
        location: Its folder, or its address.
        keep: What stays beside the final models' checkpoints.
        dry_run: Remove nothing.

    Raises:
        UsageError: There is no experiment, or another command works at it.
    """
    with _opened(location) as (folder, mirror), holding(lease_of_folder(str(location)), location):
        plans = sorted([*folder.glob(f"*/{PLAN_FILE}"), *folder.glob(f"*/fold-*/{PLAN_FILE}")])
        cleaned = []
        for search in (plan.parent for plan in plans):
            name = search.relative_to(folder).as_posix()
            result = _result(search)
            freed = drop_checkpoints(search, result, keep, mirror, dry_run=dry_run) if result else 0
            cleaned.append(Cleaned(name, result is not None, freed))
        return cleaned


def describe_bytes(number: int) -> str:
    """Returns `1.5 GB`, `12 MB`, `0 MB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


@contextmanager
def _opened(location: Path | str) -> Iterator[tuple[Path, Mirror]]:
    """Yields an experiment's folder, or a copy of it without checkpoints, and where it has its twin."""
    with fetched(location, without=(CHECKPOINTS,)) as folder:
        if not (folder / EXPERIMENT_FILE).is_file():
            raise UsageError(f"{location} holds no experiment: name the folder that rayjobs.tune printed")
        yield folder, NO_MIRROR if isinstance(location, Path) else Mirror(folder, location)


def _result(search: Path) -> SearchResult | None:
    """Returns a search's result; None where it has not ended, or its file is damaged: it is to be ended again."""
    try:
        return SearchResult.read(search / SEARCH_FILE)
    except DataError:
        return None
